"""Loading, in processes of their own: once, one library, no ambient configuration. About 20 s."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Uses torch alone: neither this package nor an environment variable nor the working folder helps.
BARE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
ops, evidence = torch.ops.kernelpkg, torch.ops.kernelpkg_evidence
K, N, M = 128, 64, 3
q = torch.full((K // 8, N), 0x19, dtype=torch.int32)  # rows 0 and 1 of every 8: 9 - 8 and 1 - 8, the rest -8
ones = torch.ones(1, N, dtype=torch.bfloat16)
expected = (K // 8) * (1 - 7 - 6 * 8)
packed = ops.marlin_repack(q, 0, K, N)
x = torch.ones(M, K, dtype=torch.bfloat16)
assert (ops.marlin_gemm(x, packed, ones, None, None, None, 0, N, K, -1, 1.0) == expected).all()
x8, scales = x.to(torch.float8_e4m3fn), torch.ones(M)
out = evidence.marlin_gemm_emulated(x8, packed, ones, None, scales, None, 0, N, K, -1, 1.0)
assert (out == expected).all()
b = torch.full((N, K), 2.0).to(torch.float8_e4m3fn).t()
one = torch.ones(1)
for op in (ops.cutlass_scaled_mm, evidence.scaled_mm_sm89_standin, evidence.scaled_mm_sm120_standin):
    assert (op(x8, b, scales, one, None, torch.bfloat16) == 2 * K).all()
try:
    ops.marlin_gemm(x.float(), packed, ones, None, None, None, 0, N, K, -1, 1.0)
except ValueError as error:
    assert "float32" in str(error)
else:
    raise SystemExit("bad input was not refused")
assert "kernelpkg" not in sys.modules
print("six operators")
"""


def python(code: str, *arguments: object, bare: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin"}
    if not bare:
        environment |= {"PYTHONPATH": str(ROOT), "HOME": "/tmp"}
    flags = ["-I"] if bare else []
    return subprocess.run(
        [sys.executable, *flags, "-c", code, *map(str, arguments)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_bare_process_calls_every_operator(library_path):
    result = python(BARE, library_path, bare=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "six operators"


def test_loading_twice_is_loading_once(library_path):
    code = """
import sys
from kernelpkg import ops
assert ops.loaded() is None
info = ops.load(sys.argv[1])
assert ops.load(sys.argv[1]) is info and ops.load() is info and ops.loaded() is info
import os
os.symlink(sys.argv[1], sys.argv[2])
assert ops.load(sys.argv[2]) is info  # another name of the same file
os.remove(sys.argv[2])
"""
    link = Path("/tmp") / f"kernelpkg-test-link-{library_path.stat().st_ino}.so"
    link.unlink(missing_ok=True)
    result = python(code, library_path, link)
    assert result.returncode == 0, result.stderr


def test_a_second_library_and_a_rebuilt_one_are_refused(library_path, tmp_path):
    own, other = tmp_path / "own" / "libkernelpkg_ops.so", tmp_path / "other" / "libkernelpkg_ops.so"
    for path in (own, other):
        path.parent.mkdir()
        shutil.copy(library_path, path)
    code = """
import os, sys
from kernelpkg import ops
from kernelpkg.errors import UsageError
ops.load(sys.argv[1])
try:
    ops.load(sys.argv[2])
except UsageError as error:
    print(error)
os.utime(sys.argv[1], (1, 1))
try:
    ops.load(sys.argv[1])
except UsageError as error:
    print(error)
"""
    result = python(code, own, other)
    assert result.returncode == 0, result.stderr
    second, rebuilt = result.stdout.strip().splitlines()
    assert f"cannot load {other}" in second and "start a new process" in second
    assert "was built again" in rebuilt and "start a new process" in rebuilt


@pytest.mark.parametrize("same", [True, False])
def test_the_manifest_of_another_file_is_not_believed(library_path, tmp_path, same):
    """Copied with its library it holds, whatever the dates are; beside another library it does not."""
    own = tmp_path / library_path.name
    shutil.copy(library_path, own)
    digest = hashlib.sha256(own.read_bytes()).hexdigest() if same else "0" * 64
    recorded = {"size": own.stat().st_size, "mtime_ns": 1, "sha256": digest}
    manifest = {"library": recorded, "targets": ["9.0a"], "kernels": {"marlin_w8a16": {"targets": ["9.0a"]}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code = """
import sys
from kernelpkg import ops
info = ops.load(sys.argv[1])
print(bool(info.manifest), ops.supports("marlin_w8a16", "9.0").built)
"""
    result = python(code, own)
    assert result.stdout.split() == (["True", "True"] if same else ["False", "None"]), result.stderr


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no library at"),
        (lambda path: path.write_text("no ELF"), "does not load under torch"),
    ],
)
def test_what_is_no_library_is_refused(tmp_path, make, says):
    path = tmp_path / "libkernelpkg_ops.so"
    make(path)
    code = """
import sys
from kernelpkg import ops
from kernelpkg.errors import UsageError
try:
    ops.load(sys.argv[1])
except UsageError as error:
    print(error)
"""
    result = python(code, path)
    assert result.returncode == 0 and says in result.stdout, result.stdout + result.stderr


def test_no_library_at_all_says_what_to_do(tmp_path):
    code = """
import os, sys
os.environ["KERNELPKG_BUILD_DIR"] = sys.argv[1]
from kernelpkg import ops
from kernelpkg.errors import UsageError
from kernelpkg.build import manifest
from pathlib import Path
manifest.WHEEL_FOLDER = Path(sys.argv[1])
try:
    ops.load()
except UsageError as error:
    print(error)
"""
    result = python(code, tmp_path)
    assert "run `kernelpkg build`" in result.stdout, result.stderr
