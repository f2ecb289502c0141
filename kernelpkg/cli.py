"""The command line: each verb prints a table, or rows of JSON with --json, and shows progress on stderr.

Exit codes: 0 all held; 1 something checked failed; 2 the call was wrong; 3 nothing ran that should have;
4 the machine was not fit. The verbs import what they need when they run: detect aside, those that need no
torch start without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kernelpkg import __version__
from kernelpkg.bench.shapes import GATE_OF, TUNABLE, VARIANTS
from kernelpkg.errors import CheckFailed, KernelpkgError, UsageError
from kernelpkg.printing import (
    bench_line,
    err,
    function_line,
    out,
    peers_left_out,
    plain,
    record_line,
    show,
    show_devices,
)

app = typer.Typer(
    name="kernelpkg",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Does this FP8 kernel really work on this GPU, how do you know, and how fast is it?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print rows of JSON instead of a table.")]
CapabilityOption = Annotated[
    str | None,
    typer.Option("--capability", "-c", help="Ask about this device instead: 12.1, sm_121, GB10, ..."),
]


def kernels_option(names: Iterable[str]) -> Any:
    """The --kernel option of a verb that knows these kernels."""
    return typer.Option(help=f"Only these kernels, comma-separated, out of: {', '.join(names)}.")


# All that can be asked about, those that are timed, and those that can be tuned.
Kernels = Annotated[str | None, kernels_option(GATE_OF)]
TimedKernels = Annotated[str | None, kernels_option(VARIANTS)]
TunedKernels = Annotated[str | None, kernels_option(TUNABLE)]
Shapes = Annotated[
    str | None, typer.Option(help="Only these layers, comma-separated: 8B.gate_up, or KxN as 4096x28672.")
]
CudaDevice = Annotated[str, typer.Option(help="cuda:N.")]
NOTEBOOKS = ("01_capability", "02_build", "03_correctness", "04_speed")


def capability_of(option: str | None):
    """The capability asked about: the option's, else the first device's here."""
    from kernelpkg import arch

    if option:
        return arch.Capability.parse(option)
    detection = arch.detect()
    if not detection.devices:
        raise UsageError(f"{detection.message} Name the device to ask about, such as --capability 12.1.")
    return arch.Capability.parse(detection.devices[0].capability)


def split(value: str | None) -> tuple[str, ...] | None:
    """A comma-separated option as a tuple; None where it was not given."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else None


def numbers(value: str | None, option: str) -> tuple[int, ...] | None:
    """A comma-separated option of whole numbers as a tuple; None where it was not given."""
    parts = split(value)
    if parts and (wrong := [part for part in parts if not part.isdigit()]):
        raise UsageError(f"{option} is {value!r}; {wrong[0]!r} is no whole number.")
    return None if parts is None else tuple(map(int, parts))


@app.command()
def detect(
    capability: CapabilityOption = None,
    as_json: Json = False,
) -> None:
    """Which devices are here; with --capability, what is known of an assumed one."""
    from kernelpkg import arch

    if capability:
        show_devices([arch.assume(capability).row()], as_json)
        return
    detection = arch.detect()
    show_devices([device.row() for device in detection.devices], as_json)
    if detection.message:
        (err if as_json else out).print(detection.message)


@app.command()
def gates(
    capability: CapabilityOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Ask all five layers (compiles probes).")] = False,
    as_json: Json = False,
) -> None:
    """Which gate admits which capability, and why; --layers asks each of the five layers itself."""
    from kernelpkg import arch
    from kernelpkg import gates as gate_table

    asked = (arch.Capability.parse(capability),) if capability else arch.CAPABILITIES
    if layers:
        with err.status("compiling the device-guard probes and the host header"):
            answers = gate_table.agreement(capabilities=asked)
        rows = [plain(answer) for answer in answers]
        show(rows, as_json, ("gate", "layer", "capability", "admits", "reason"))
        (err if as_json else out).print(answers.summary, highlight=False)
        gate_table.require_agreement(answers)
        return
    rows = []
    for gate in gate_table.GATES:
        for one in asked:
            answer = gate.ask(one)
            rows.append(
                {
                    "gate": gate.id,
                    "layer": "python",
                    "capability": str(one),
                    "admits": answer.admitted,
                    "reason": answer.reason,
                }
            )
    if as_json or capability:
        show(rows, as_json, ("gate", "admits", "reason") if not as_json else ())
        return
    table = Table(
        "gate", *map(str, asked), header_style="bold", pad_edge=False, box=None, padding=(0, 1, 0, 0)
    )
    for gate in gate_table.GATES:
        marks = ("[green]yes[/]" if gate.ask(one).admitted else "[red]no[/]" for one in asked)
        table.add_row(gate.id, *marks)
    out.print(table)
    out.print("Why, for one device: kernelpkg gates --capability 12.1", style="dim")


@app.command()
def build(
    arch: Annotated[str | None, typer.Option(help="native, or targets such as 9.0a,12.0f.")] = None,
    kernel_set: Annotated[
        str | None,
        typer.Option("--set", help="test (a subset) or release (all); release where a GPU is here."),
    ] = None,
    with_native: Annotated[bool, typer.Option(help="Also build for the GPUs here, if any.")] = False,
    build_dir: Annotated[Path | None, typer.Option(help="Folder of builds (default: build/).")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Parallel compiles (default: by memory).")] = None,
    as_json: Json = False,
) -> None:
    """Build the kernels for this machine, or for the targets named."""
    from kernelpkg import build as builder
    from kernelpkg.build.terminal import progress

    targets = arch or builder.default_targets()
    if with_native:
        targets = builder.add_native(targets)
    chosen_set = kernel_set or builder.default_set()
    with progress(err) as on_event:
        result = builder.build(
            arch=targets, set=chosen_set, build_dir=build_dir, jobs=jobs, on_event=on_event
        )
    if as_json:
        show([asdict(file) for file in result.files], True)
        return
    compiled = sum(not file.cached for file in result.files)
    out.print(
        f"{result.library}\n{compiled} compiled, {len(result.files) - compiled} up to date, "
        f"{result.seconds:.1f} s"
    )


@app.command()
def inspect(
    file: Annotated[
        Path | None, typer.Argument(help="A library, object or cubin; our build if none.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Only this target, such as 12.0f.")] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="What one FP8 MMA becomes, per target.")] = False,
    tiles: Annotated[bool, typer.Option("--tiles", help="Our Marlin tiles: what each needs.")] = False,
    as_json: Json = False,
) -> None:
    """What machine code a binary holds: function by function, target by target, with a verdict."""
    from kernelpkg import binaries

    if tiles:
        if file is not None or matrix:
            raise UsageError("--tiles speaks of our own build; leave out the file and --matrix.")
        show_tiles(target, as_json)
        return

    if matrix and (file is not None or target is not None):
        given = f"--target {target}" if file is None else str(file)
        raise UsageError(
            f"--matrix compiles probes of its own and reads no file; {given} does not go with it. Leave out "
            "one of the two."
        )
    if matrix:
        with err.status("compiling probes for every target of the toolkit"):
            rows = [plain(row) for row in binaries.instruction_matrix()]
        show(rows, as_json, ("target", "form", "outcome", "opcodes", "detail"))
        return
    if file is None:
        file = built_library()
    with err.status(f"reading {file.name}"):
        inspection = binaries.inspect(file)
    rows = [plain(function) for function in inspection.functions]
    if target:
        there = sorted({row["target"] for row in rows})
        rows = [row for row in rows if row["target"] == target]
        if not rows:
            raise UsageError(f"{file} has no code for target {target!r}; there is {', '.join(there)}.")
    show(rows if as_json else map(function_line, rows), as_json)
    dead = [row["function"] for row in rows if row["verdict"] == "dead"]
    if dead:
        raise CheckFailed(f"{len(dead)} dead function(s) in {file}: {', '.join(dead[:5])}")


def show_tiles(target: str | None, as_json: bool) -> None:
    """The Marlin tiles of the newest build, all or those of one target."""
    from kernelpkg.binaries.tiles import tile_rows
    from kernelpkg.build import find_library

    library = find_library()
    if library is None:
        raise UsageError("No kernel library is here yet: run `kernelpkg build`.")
    rows = tile_rows(library.manifest.get("functions", ()))
    there = sorted({row["target"] for row in rows})
    if target:
        rows = [row for row in rows if row["target"] == target]
    if not rows:
        raise UsageError(f"the build has no Marlin tiles for {target!r}; there is {', '.join(there)}.")
    show(rows, as_json)


def built_library() -> Path:
    """The newest build's library; a UsageError where there is none."""
    from kernelpkg.build import find_library

    library = find_library()
    if library is None:
        raise UsageError("No kernel library is here yet: run `kernelpkg build`, or name a file.")
    return library.path


@app.command()
def explain(
    capability: CapabilityOption = None,
    kernel: Kernels = None,
    brief: Annotated[bool, typer.Option("--brief", help="A block to paste into a bug report.")] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 3 unless RUNG@CAPABILITY:LABEL is proved; labels: this, sibling, stand-in, "
            "measured, recorded, any (the default)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The five rungs of each kernel for a device: admitted, built, loads, correct, fast."""
    from kernelpkg import ladder

    rungs = ladder.explain(capability_of(capability), kernels=split(kernel))
    if brief and not as_json:
        out.print(ladder.brief(rungs), markup=False, highlight=False, soft_wrap=True)
    else:
        rows = [plain(rung) | {"label": str(rung.label)} for rung in rungs]
        if not as_json:
            rows = [row | {"status": ladder.word(row["rung"], row["status"])} for row in rows]
        show(rows, as_json, ("kernel", "rung", "status", "label", "reason"))
    for wish in require or ():
        ladder.require(wish, kernels=split(kernel))
    if failed := [r for r in rungs if r.status == "fail" and r.rung != "admitted"]:
        raise CheckFailed("; ".join(f"{r.kernel} fails the rung {r.rung}: {r.reason}" for r in failed))


@app.command()
def check(
    kernel: Kernels = None,
    size: Annotated[str, typer.Option(help="tiny, default or full.")] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the random operands.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Also write a record into this folder.")] = None,
    sanitizer: Annotated[
        str | None, typer.Option(help="Run the cases under compute-sanitizer: memcheck,racecheck.")
    ] = None,
    configurations: Annotated[
        str, typer.Option(help="Of scaled_mm: dispatched, or all that the library holds.")
    ] = "dispatched",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print failures and the summary alone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Correctness: the kernels on a GPU, the CPU references on a CPU, against float64."""
    from kernelpkg import check as checker

    if sanitizer:
        where = "cuda:0" if device == "auto" else device
        with err.status(f"compute-sanitizer: {sanitizer}"):
            found = checker.sanitize(split(sanitizer), split(kernel), "tiny", where)
        show(found.rows, as_json, () if as_json else ("kernel", "tool", "status", "cases", "detail"))
        if record is not None:
            write_record("sanitizer", found, record)
        found.raise_for_status()
        return

    def line(row: dict[str, Any]) -> None:
        if quiet and row["passed"]:
            return
        mark = "[green]ok  [/]" if row["passed"] else "[red]FAIL[/]"
        err.print(
            f"{mark} {row['kernel']} {row['case']}: {row['metric']} {row['value']:.2e}, "
            f"bound {row['bound']:.1e}",
            highlight=False,
            soft_wrap=True,
        )

    report = checker.run(
        kernels=split(kernel),
        size=size,
        device=device,
        seed=seed,
        on_case=line,
        configurations=configurations,
    )
    if as_json:
        show(report.rows, True)
    (err if as_json else out).print(
        f"{report.summary}  [{report.label}, {report.device}]", markup=False, soft_wrap=True
    )
    if record is not None:
        write_record("check", report, record)
    report.raise_for_status()


@app.command()
def bench(
    kernel: TimedKernels = None,
    shape: Shapes = None,
    m: Annotated[str | None, typer.Option(help="Only these numbers of rows, comma-separated: 1,16.")] = None,
    size: Annotated[str, typer.Option(help="tiny, default or full.")] = "default",
    device: CudaDevice = "cuda:0",
    peer_library: Annotated[
        list[Path] | None,
        typer.Option(
            help="Time vLLM's operators in the same run: its _C.abi3.so, _C_stable_libtorch.abi3.so, or the "
            "folder of both; repeatable. Default: those of an installed vLLM."
        ),
    ] = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="With what `kernelpkg tune` found.")] = False,
    record: Annotated[Path | None, typer.Option(help="Also write a record into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Speed: medians of graph replays over cold weights, with ceilings and peers from the same run."""
    from kernelpkg import bench as bencher

    if tuned and record is not None:
        raise UsageError("a record is of the defaults: give --tuned or --record, not both.")
    if tuned:
        use_tuning(device)
    with err.status("measuring the ceilings") as status:
        report = bencher.run(
            kernels=split(kernel),
            shapes=split(shape),
            ms=numbers(m, "--m"),
            size=size,
            device=device,
            on_row=lambda row: status.update(f"{row['kernel']} {row['shape']} m={row['m']}"),
            peer_libraries=peer_library or (),
        )
    show(report.rows if as_json else map(bench_line, report.rows), as_json)
    if not as_json:
        show(peers_left_out(report.peers_left_out), False)
        machine = str(report.machine.get("name") or "")
        goals = bencher.evaluate(report.rows, machine, costs=report.costs)
        show(goals, False, ("goal", "wanted", "reached", "met", "at", "on", "basis"), "Goals")
    (err if as_json else out).print(f"{report.summary}  [{report.label}]", markup=False, soft_wrap=True)
    for note in filter(None, (report.peers_line, *report.notes)):
        err.print(note, markup=False, soft_wrap=True)
    if record is not None:
        write_record("bench", report, record)
    report.raise_for_status()


@app.command()
def tune(
    kernel: TunedKernels = None,
    shape: Shapes = None,
    m: Annotated[
        str | None, typer.Option(help="These numbers of rows, comma-separated; default 1,16,64,256.")
    ] = None,
    device: CudaDevice = "cuda:0",
    to: Annotated[
        Path | None, typer.Option("--out", help="The file; default: the one ops.use_tuning() reads.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every tile and split of marlin_gemm on this device, and keep the best for ops.use_tuning()."""
    from kernelpkg import bench as bencher

    with err.status("tuning; Ctrl-C keeps what is done") as status:
        report = bencher.tune(
            kernels=split(kernel),
            shapes=split(shape),
            ms=numbers(m, "--m"),
            device=device,
            on_row=lambda row: status.update(f"{row['kernel']} {row['shape']} m={row['m']}"),
            path=to,
        )
    columns = ("kernel", "shape", "m", "default", "default_us", "best", "best_us", "gain", "candidates")
    show(report.rows, as_json, () if as_json else columns)
    (err if as_json else out).print(f"{report.summary}; kept in {report.path}", markup=False, soft_wrap=True)


def use_tuning(device: str) -> None:
    """Put the tuning of a CUDA device into use, and say how much that is."""
    from kernelpkg import ops
    from kernelpkg.bench import machine

    machine.require_cuda(device)
    count = ops.use_tuning(device=machine.index_of(device))
    err.print(f"{count} tuned choices in use", markup=False)


def write_record(kind: str, report: Any, folder: Path) -> None:
    """Write `report` as a record file into `folder` and say where it is."""
    from kernelpkg.bench import records

    err.print(f"record: {records.write(kind, report, folder)}", markup=False)


@app.command()
def validate(
    to: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("runs/latest"),
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", help="NAME VALUE, or NAME=VALUE: given to every notebook."),
    ] = None,
    notebook: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this notebook, or its number; repeatable. Out of: {', '.join(NOTEBOOKS)}."),
    ] = None,
    size: Annotated[str, typer.Option(help="tiny, default or full.")] = "default",
    as_json: Json = False,
) -> None:
    """Run the notebooks with papermill; writes index.html, results.json and junit.xml."""
    from kernelpkg import validate as validator
    from kernelpkg.validate.terminal import progress

    with progress(err) as on_progress:
        report = validator.run(
            out=to,
            notebooks=notebook or None,
            parameters=validator.parse_parameters(parameter or ()),
            size=size,
            on_progress=on_progress,
        )
    show(report.rows, as_json, () if as_json else ("notebook", "status", "seconds"))
    (err if as_json else out).print(f"report: {to / 'index.html'}", markup=False)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@app.command()
def layers(
    path: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder with its index.")],
    format: Annotated[str | None, typer.Option(help="Read as this format, whatever its config says.")] = None,
    as_json: Json = False,
) -> None:
    """Which layers of a checkpoint marlin_gemm can take, by names, dtypes and shapes; values are read later.

    What only the values show (an order of activations, a NaN scale) is refused when the layer is loaded.
    """
    from kernelpkg.checkpoint.view import COLUMNS, layer_rows

    rows = layer_rows(path, format)
    if not rows:
        raise UsageError(f"{path} holds no quantised layer in a format known here; name one with --format")
    show(rows, as_json, () if as_json else COLUMNS)
    broken = [row["layer"] for row in rows if row["problem"]]
    if broken:
        raise CheckFailed(f"{len(broken)} of {len(rows)} layers cannot be read; first: {broken[0]}")


@app.command()
def records(
    add: Annotated[Path | None, typer.Option(help="Add this record file.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all records into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Stored measurements: list them, add one, export them."""
    from kernelpkg.bench import records as store

    if add is not None:
        err.print(f"added: {store.add(add)}", markup=False)
    if export is not None:
        for path in store.export(export):
            err.print(f"exported: {path}", markup=False)
    show(store.summary() if as_json else map(record_line, store.summary()), as_json)


@app.command()
def lab() -> None:
    """Open JupyterLab on the notebooks."""
    import subprocess

    from kernelpkg.validate import notebooks_folder

    command = [sys.executable, "-m", "jupyterlab", str(notebooks_folder())]
    raise typer.Exit(subprocess.call(command))


def version(asked: bool) -> None:
    if asked:
        out.print(__version__, highlight=False)
        raise typer.Exit()


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Does this FP8 kernel really work on this GPU, how do you know, and how fast is it?"""


def joined_pairs(arguments: list[str]) -> list[str]:
    """`-p NAME VALUE`, as papermill has it, written as the `-p NAME=VALUE` that the parser reads."""
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument in ("-p", "--parameter") and (name := next(rest, None)) is not None:
            value = next(rest, None) if name.isidentifier() else None
            joined.append(name if value is None else f"{name}={value}")
    return joined


def main(run: Callable[[], Any] | None = None) -> None:
    """Entry point: an expected error is one sentence on stderr and its exit code, never a traceback."""
    try:
        if run is None:
            app(args=joined_pairs(sys.argv[1:]))
        else:
            run()
    except KernelpkgError as error:
        err.print(f"kernelpkg: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        err.print("kernelpkg: stopped")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
