"""C++ names as people write them."""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
from collections.abc import Iterable


def demangle(symbols: Iterable[str]) -> dict[str, str]:
    """Demangled name of each symbol; a symbol that nothing here can demangle stands for itself.

    c++filt first, then libstdc++ itself (the same spelling), then cu++filt (which spells template arguments
    with their types), so that one spelling serves wherever a C++ compiler is installed.
    """
    names = sorted(set(symbols))
    mangled = [name for name in names if name.startswith("_Z")]
    result = {name: name for name in names}
    if not mangled:
        return result
    for attempt in (_filter("c++filt"), _libstdcxx, _filter("cu++filt")):
        plain = attempt(mangled)
        if plain is not None:
            result.update(zip(mangled, plain, strict=True))
            break
    return result


def _filter(program: str):
    def attempt(symbols: list[str]) -> list[str] | None:
        path = shutil.which(program)
        if path is None:
            return None
        done = subprocess.run(
            [path], input="\n".join(symbols) + "\n", capture_output=True, text=True, check=False
        )
        lines = done.stdout.splitlines()
        return lines if done.returncode == 0 and len(lines) == len(symbols) else None

    return attempt


def _libstdcxx(symbols: list[str]) -> list[str] | None:
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        function, free = library.__cxa_demangle, ctypes.CDLL(None).free
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    free.argtypes = [ctypes.c_void_p]
    plain = []
    for symbol in symbols:
        status = ctypes.c_int(0)
        pointer = function(symbol.encode(), None, None, ctypes.byref(status))
        if not pointer or status.value:
            plain.append(symbol)
            continue
        plain.append(ctypes.string_at(pointer).decode(errors="replace"))
        free(pointer)
    return plain
