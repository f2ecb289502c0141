"""A build in a thread of its own, for views that must stay alive while it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from pathlib import Path

from kernelpkg.build.driver import build
from kernelpkg.build.events import BuildEvent, BuildResult


class BuildHandle:
    """A build under way.

    events: its BuildEvents as they come; the last is of kind 'done', 'failed' or 'cancelled', and None
    follows it. result: the BuildResult once it is done, else None. error: what it raised, else None.
    """

    def __init__(
        self,
        arch: str | Iterable[object] = "native",
        set: str = "test",
        build_dir: Path | str | None = None,
        jobs: int | None = None,
    ):
        self.events: queue.Queue[BuildEvent | None] = queue.Queue()
        self.result: BuildResult | None = None
        self.error: BaseException | None = None
        self._cancel = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(arch, set, build_dir, jobs), name="kernelpkg-build", daemon=True
        )
        self._thread.start()

    def _run(
        self, arch: str | Iterable[object], set: str, build_dir: Path | str | None, jobs: int | None
    ) -> None:
        try:
            self.result = build(arch, set, build_dir, jobs, self.events.put, self._cancel)
        except BaseException as error:  # it is raised again in the thread that waits
            self.error = error
        finally:
            self.events.put(None)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Asks the build to stop its compilers; returns at once. `wait` then raises BuildCancelled."""
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> BuildResult:
        """The result, once the build has ended; raises what the build raised, TimeoutError after `timeout`
        seconds. An interrupt (Ctrl-C) while waiting cancels the build.
        """
        try:
            self._thread.join(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._thread.join(10)
            raise
        if self._thread.is_alive():
            raise TimeoutError(f"the build is still running after {timeout} s")
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def start_build(
    arch: str | Iterable[object] = "native",
    set: str = "test",
    build_dir: Path | str | None = None,
    jobs: int | None = None,
) -> BuildHandle:
    """Starts `build` with these arguments in a thread and returns its handle at once."""
    return BuildHandle(arch, set, build_dir, jobs)
