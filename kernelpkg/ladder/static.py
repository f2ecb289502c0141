"""The rungs that need no GPU: admitted by the gate table, built and alive in the library, loadable by the
rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernelpkg.arch import Capability, Image, Target, best_image, loads
from kernelpkg.bench import hashes
from kernelpkg.bench.shapes import GATE_OF, STANDS_FOR
from kernelpkg.errors import UsageError
from kernelpkg.gates import gate
from kernelpkg.ladder.rung import GATE_TABLE, LOADING_RULE, MEASURED, THIS, Label, Rung

# What the machine code of a kernel must read as, by what the catalogue declares of it.
ALIVE = {"fp8_mma": "native", "mma16": "native", "none": "no mma"}


def gate_of(kernel: str) -> str:
    """The gate that admits a kernel; the evidence gate for evidence kernels. Raises UsageError for another
    name.
    """
    if kernel in STANDS_FOR:
        return "evidence_sm90"
    if kernel not in GATE_OF:
        raise UsageError(f"no kernel is called {kernel!r}; the kernels are {', '.join(GATE_OF)}.")
    return GATE_OF[kernel]


def admitted(kernel: str, capability: Capability) -> Rung:
    """Whether the kernel's gate admits the capability: pass or fail, never unproved."""
    answer = gate(gate_of(kernel)).ask(capability)
    return Rung(
        kernel,
        str(capability),
        "admitted",
        "pass" if answer else "fail",
        answer.reason,
        {
            "gate": answer.gate,
            "have": answer.have,
            "need": answer.need,
            "why": answer.why,
            "instead": answer.instead,
        },
        Label(GATE_TABLE, THIS),
    )


def as_mapping(item: Any) -> Mapping[str, Any]:
    """A function of a library as a mapping: the manifest's rows are, FunctionCode is read by its fields."""
    if isinstance(item, Mapping):
        return item
    names = ("function", "symbol", "target", "kind", "verdict", "reason", "opcodes", "kernel", "code_hash")
    return {name: getattr(item, name, None) for name in names}


def functions_in(library: Any, inspection: Any = None) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """(the functions of a library, why there are none).

    From an inspection where one is given, from what the build read back, else by reading the file now.
    """
    if inspection is not None:
        return tuple(map(as_mapping, getattr(inspection, "functions", inspection))), ""
    manifest = hashes.manifest_of(library)
    if manifest.get("functions"):
        return tuple(map(as_mapping, manifest["functions"])), ""
    from kernelpkg import binaries

    try:
        return tuple(map(as_mapping, binaries.inspect(getattr(library, "path", library)).functions)), ""
    except Exception as error:  # no disassembler, or a file that is no library: a reason, not a crash
        return (), str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def images_of(
    kernel: str, manifest: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]
) -> tuple[Image, ...]:
    """The images of a kernel: those its functions were found in, else those the manifest says were built."""
    found: dict[Image, None] = {}
    for item in hashes.functions_of(functions, kernel) if functions else ():
        target = str(item.get("target") or "")
        if "unknown" not in target:
            found[Image(item["kind"], Target.parse(target))] = None
    if not found:
        for target in manifest.get("kernels", {}).get(kernel, {}).get("targets", ()):
            found[Image("cubin", Target.parse(target))] = None
    return tuple(found)


def built(kernel: str, capability: Capability, library: Any, functions: Any, problem: str = "") -> Rung:
    """Whether the library has machine code of the kernel for the capability, and whether that code is
    alive.
    """

    def answer(status: str, reason: str, **evidence: Any) -> Rung:
        label = Label(MEASURED if evidence.get("functions") else LOADING_RULE, THIS)
        return Rung(kernel, str(capability), "built", status, reason, evidence, label)

    order = f"run `kernelpkg build --arch {best_target(kernel, capability) or capability}`"
    known = catalogue_kernels()
    if known is not None and kernel not in known:
        return answer("unproved", f"The catalogue has no {kernel} yet: its gate stands, its kernel does not.")
    if library is None:
        return answer("unproved", f"No library is built here: {order}.", verdict="absent")
    name, manifest = hashes.library_name(library), hashes.manifest_of(library)
    images = images_of(kernel, manifest, functions)
    if not images:
        return answer("unproved", f"{name} holds no {kernel}: {order}.", verdict="absent", library=name)
    best, loading = best_image(images, capability)
    if best is None:
        have = ", ".join(map(str, images))
        return answer(
            "unproved",
            f"{name} has {kernel} as {have} only, none of it for {capability}: {order}.",
            verdict="absent",
            library=name,
            images=list(map(str, images)),
        )
    mine = [
        item
        for item in (hashes.functions_of(functions, kernel) if functions else ())
        if item["kind"] == best.kind and item["target"] == str(best.target)
    ]
    evidence = {"library": name, "image": str(best), "loading": loading.reason}
    if not mine:
        why = f" ({problem})" if problem else ""
        return answer(
            "unproved", f"{name} should have {kernel} as {best}, but its code was not read{why}.", **evidence
        )
    return _judge(kernel, capability, best, mine, evidence, manifest)


def _judge(
    kernel: str,
    capability: Capability,
    image: Image,
    functions: Sequence[Mapping[str, Any]],
    evidence: dict[str, Any],
    manifest: Mapping[str, Any],
) -> Rung:
    verdicts: dict[str, int] = {}
    for item in functions:
        verdicts[item["verdict"]] = verdicts.get(item["verdict"], 0) + 1
    opcodes: dict[str, int] = {}
    for item in functions:
        for opcode, count in (item.get("opcodes") or {}).items():
            if "MMA" in opcode:
                family = opcode.split(".")[0]
                opcodes[family] = opcodes.get(family, 0) + count
    evidence |= {"verdicts": verdicts, "opcodes": opcodes, "functions": len(functions)}
    wanted = "emulated" if kernel in STANDS_FOR else ALIVE[declared(kernel, manifest)]
    shown = ", ".join(f"{count} {name}" for name, count in sorted(opcodes.items())) or "no MMA"
    wrong = [item for item in functions if item["verdict"] != wanted]
    label = Label(MEASURED, THIS)
    if not wrong:
        reason = f"{len(functions)} function(s) in the {image} read {wanted}: {shown}."
        return Rung(kernel, str(capability), "built", "pass", reason, evidence, label)
    first = wrong[0]
    unread = all(item["verdict"] in ("ptx only", "unreadable") for item in wrong)
    reason = (
        f"{len(wrong)} of {len(functions)} function(s) in the {image} read {first['verdict']} where {wanted} "
        f"is declared, such as {str(first.get('function'))[:80]}: {first.get('reason') or shown}."
    )
    return Rung(kernel, str(capability), "built", "unproved" if unread else "fail", reason, evidence, label)


def loadable(
    kernel: str, capability: Capability, library: Any, functions: Any, ran_here: str | None = None
) -> Rung:
    """Whether the driver would take the kernel's code as it is. PTX is compiled by the driver: its own
    answer.

    ran_here: the device on which the kernel was loaded and run in this process; that is a real load.
    """

    def answer(status: str, reason: str, who: str = LOADING_RULE, **evidence: Any) -> Rung:
        return Rung(kernel, str(capability), "loads", status, reason, evidence, Label(who, THIS))

    if library is None:
        shipped = tuple(Image("cubin", target) for target in gate(gate_of(kernel)).ships)
        best, loading = best_image(shipped, capability)
        then = f"a build would: {loading.reason}" if best else loading.reason
        return answer("unproved", f"No library is here; {then}.", how="unbuilt")
    images = images_of(kernel, hashes.manifest_of(library), functions)
    if not images:
        return answer("unproved", f"{hashes.library_name(library)} holds no code of {kernel}.", how="no")
    best, loading = best_image(images, capability)
    evidence = {
        "how": loading.how,
        "images": {str(image): loads(image, capability).how for image in images},
        "library": hashes.library_name(library),
    }
    if ran_here and loading.native:
        return answer("pass", f"The driver of {ran_here} loaded the {best} and ran it.", MEASURED, **evidence)
    if best is None:
        return answer("unproved", f"{_sentence(loading.reason)} Build for this device.", **evidence)
    if not loading.native:
        return answer(
            "unproved",
            f"PTX JIT: {loading.reason}; what the driver makes of it can be inspected by nobody beforehand.",
            **evidence,
        )
    return answer("pass", _sentence(loading.reason), **evidence)


def best_target(kernel: str, capability: Capability) -> Target | None:
    """The shipped target whose machine code loads on the capability; None where none does."""
    images = tuple(Image("cubin", target) for target in gate(gate_of(kernel)).ships)
    best, _ = best_image(images, capability)
    return best.target if best else None


def declared(kernel: str, manifest: Mapping[str, Any]) -> str:
    """What the kernel's code must contain: from the manifest, else by its gate's activations."""
    entry = manifest.get("kernels", {}).get(kernel, {})
    if entry.get("declares") in ALIVE:
        return entry["declares"]
    if kernel == "marlin_repack":
        return "none"
    return "mma16" if gate_of(kernel) == "marlin_16bit" else "fp8_mma"


def catalogue_kernels() -> frozenset[str] | None:
    """The kernels that can be built; None where the catalogue cannot be read (a wheel without sources has
    it).
    """
    try:
        from kernelpkg.build import catalogue

        return frozenset(catalogue.kernels()) | {"marlin_repack"}
    except Exception:  # whatever keeps the catalogue from being read, the other evidence still counts
        return None


def siblings(kernel: str, capability: Capability, others: Iterable[Capability]) -> tuple[Capability, ...]:
    """Those of `others` that run the very machine code which `capability` runs."""
    mine = best_target(kernel, capability)
    return tuple(
        other
        for other in others
        if mine is not None and other != capability and best_target(kernel, other) == mine
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
