"""The hashes that tie a measurement to the code it was made with: of the sources, and of the machine code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def manifest_of(library: Any) -> Mapping[str, Any]:
    """The manifest of a library (LibraryInfo, or the mapping itself); the newest build's where None."""
    if library is None:
        from kernelpkg import build

        try:
            library = build.find_library()
        except Exception:  # a build folder that cannot be read is a library that is not here
            return {}
    if isinstance(library, Mapping):
        return library
    return getattr(library, "manifest", None) or {}


def source_hashes(kernels: Iterable[str], library: Any = None) -> dict[str, str]:
    """kernel -> hash of its sources as they are here; of the library's manifest where no sources are.

    Kernels for which neither is here are left out.
    """
    from kernelpkg import build

    manifest = None
    found = {}
    for kernel in kernels:
        try:
            found[kernel] = build.source_hash(kernel)
        except Exception:  # an installed wheel has no sources, a record may name a kernel of another version
            manifest = manifest_of(library) if manifest is None else manifest
            if digest := manifest.get("source_hash", {}).get(kernel):
                found[kernel] = digest
    return found


def built_hashes(kernels: Iterable[str], library: Any = None) -> dict[str, str]:
    """kernel -> hash of the sources the *library* was built from; of the sources where it does not say.

    This is what a measurement is tied to: the sources may have changed since the build.
    """
    kernels = tuple(kernels)
    known = manifest_of(library).get("source_hash", {})
    found = {kernel: known[kernel] for kernel in kernels if kernel in known}
    return found | source_hashes((kernel for kernel in kernels if kernel not in found), library)


def code_hashes(kernels: Iterable[str], capability: str, library: Any = None) -> dict[str, str]:
    """kernel -> hash over the machine code of its functions that `capability` would load.

    From the functions that the build read back into its manifest; kernels without any are left out.
    """
    functions = manifest_of(library).get("functions") or ()
    if not functions:
        return {}
    found = {}
    for kernel in kernels:
        chosen = functions_for(functions, kernel, capability)
        digests = sorted(f"{_field(item, 'symbol')} {_field(item, 'code_hash')}" for item in chosen)
        if digests and all(_field(item, "code_hash") for item in chosen):
            found[kernel] = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return found


def functions_for(functions: Iterable[Any], kernel: str, capability: Any) -> tuple[Any, ...]:
    """Those of `functions` (FunctionCode or mappings) that belong to `kernel` and that `capability` loads.

    Only the functions of the one image that the driver would take are returned.
    """
    from kernelpkg import arch

    asked = arch.Capability.parse(capability)
    mine = functions_of(functions, kernel)
    images = {}
    for item in mine:
        try:
            images[arch.Image(_field(item, "kind"), arch.Target.parse(_field(item, "target")))] = None
        except arch.ArchError:  # 'unknown suffix': nothing can be said about where it loads
            continue
    best, _ = arch.best_image(tuple(images), asked)
    if best is None:
        return ()
    return tuple(
        item
        for item in mine
        if _field(item, "kind") == best.kind and _field(item, "target") == str(best.target)
    )


def functions_of(functions: Iterable[Any], kernel: str) -> tuple[Any, ...]:
    """Those of `functions` that belong to `kernel`: named so by the read-back, else by the catalogue's
    pattern.
    """
    functions = tuple(functions)
    if any(_field(item, "kernel") for item in functions):
        return tuple(item for item in functions if _field(item, "kernel") == kernel)
    patterns = [re.compile(instance.function) for instance in _catalogue() if instance.kernel == kernel]
    return tuple(
        item
        for item in functions
        if any(pattern.search(_field(item, "function") or "") for pattern in patterns)
    )


def _catalogue() -> tuple[Any, ...]:
    from kernelpkg.build import catalogue

    return catalogue.all_instances()


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def library_name(library: Any) -> str:
    """A library's file name for reasons and reports."""
    path = getattr(library, "path", library)
    return Path(path).name if path is not None else "no library"
