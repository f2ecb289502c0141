"""Papermill with a kernel of this interpreter, a deadline for the whole notebook, and news of each cell."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.execute import execute_notebook

ENGINE = "kernelpkg"

# What a running cell gets to stop its compilers after an interrupt, before its kernel is killed.
_GRACE_SECONDS = 10.0


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the interpreter that runs now, whatever kernel specifications are installed."""

    extra_env: Mapping[str, str] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        """A specification made here, of no file."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python", env=dict(self.extra_env))


class _Client(PapermillNotebookClient):
    """Tells the last line that the notebook printed, and interrupts a busy kernel before it is shut down."""

    tell: Callable[[str], None] | None = None
    busy = False

    def process_message(self, *args: Any, **kwargs: Any) -> Any:
        output = super().process_message(*args, **kwargs)
        if self.tell is not None and output is not None and output.get("output_type") == "stream":
            lines = output["text"].strip().splitlines()
            if lines:
                self.tell(lines[-1])
        return output

    async def async_execute_cell(self, *args: Any, **kwargs: Any) -> Any:
        self.busy = True
        try:
            cell = await super().async_execute_cell(*args, **kwargs)
        except Exception as problem:
            self.busy = isinstance(problem, TimeoutError)
            raise
        self.busy = False
        return cell

    execute_cell = run_sync(async_execute_cell)

    async def _async_cleanup_kernel(self) -> None:
        if self.busy and self.km is not None and await self.km.is_alive():
            await self.km.interrupt_kernel()
            patience = time.monotonic() + _GRACE_SECONDS
            # After Ctrl-C the waiting task still reads the cell's reply; after a timeout nobody does.
            while self.busy and time.monotonic() < patience and not await self.kc.shell_channel.msg_ready():
                await asyncio.sleep(0.1)
        await super()._async_cleanup_kernel()

    _cleanup_kernel = run_sync(_async_cleanup_kernel)


class _Engine(Engine):
    """Papermill's way to name how a notebook is run."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        deadline: float,
        env: Mapping[str, str],
        on_cell: Callable[[int, int], None],
        on_line: Callable[[str], None] | None,
        **_: Any,
    ) -> Any:
        """Run each cell; a cell gets what is left of the notebook's time."""
        client = _Client(
            nb_man,
            kernel_manager_class=type("Manager", (ThisInterpreter,), {"extra_env": dict(env)}),
            timeout_func=lambda cell: max(1, int(deadline - time.monotonic())),
            startup_timeout=120,
            coalesce_streams=True,
            on_cell_start=lambda cell, cell_index: on_cell(cell_index, len(nb_man.nb.cells)),
        )
        client.tell = on_line
        return client.execute()


papermill_engines.register(ENGINE, _Engine)


def execute(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    seconds: float,
    env: Mapping[str, str] | None = None,
    on_cell: Callable[[int, int], None] = lambda cell, cells: None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run `source` with the parameters in a kernel process of its own and write it to `target`, cell by cell.

    seconds: time for the whole notebook. env: added to the kernel's environment. The working directory is the
    notebook's folder. Raises what papermill and nbclient raise: PapermillExecutionError for an exception in a
    cell, CellTimeoutError, DeadKernelError.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH", "")) if p)
    execute_notebook(
        str(source),
        str(target),
        parameters=dict(parameters),
        engine_name=ENGINE,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        cwd=str(source.parent),
        deadline=time.monotonic() + seconds,
        env={"PYTHONPATH": path, **(env or {})},
        on_cell=on_cell,
        on_line=on_line,
    )
