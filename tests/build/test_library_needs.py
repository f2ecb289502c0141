"""What the linked library asks of the machine it is loaded on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def test_shared_libraries(library_path: Path):
    text = subprocess.run(
        ["readelf", "-d", str(library_path)], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", text))
    assert "libtorch.so" in needed  # the stable ABI's functions are found through it
    assert "libstdc++.so.6" in needed  # torch's own; a second one inside the library would mix with it
    assert not {name for name in needed if name.startswith(("libcuda", "libcudart", "libtorch_python"))}
