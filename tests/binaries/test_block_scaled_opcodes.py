"""What the block-scaled mma.sync becomes on 12.x, measured, and what a verdict makes of it. About 1 s."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelpkg.binaries import inspect
from kernelpkg.binaries.matrix import ptx_version
from kernelpkg.binaries.tools import find_assembler, run_tool, tool_version
from kernelpkg.binaries.verdict import explain_verdict, judge

PROBE = """\
.version {version}
.target sm_120f
.address_size 64
.visible .entry probe(.param .u64 pointer)
{{
  .reg .b64 %p;
  .reg .b32 %a<4>, %b<2>, %sa, %sb;
  .reg .b16 %z;
  .reg .f32 %d<4>;
  ld.param.u64 %p, [pointer];
  mov.b16 %z, 0;
  ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%p];
  ld.global.v2.b32 {{%b0, %b1}}, [%p+16];
  ld.global.v2.b32 {{%sa, %sb}}, [%p+24];
  ld.global.v4.f32 {{%d0, %d1, %d2, %d3}}, [%p+32];
  mma.sync.aligned.{form}
    {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, {{%b0, %b1}}, {{%d0, %d1, %d2, %d3}},
    {{%sa}}, {{%z, %z}}, {{%sb}}, {{%z, %z}};
  st.global.v4.f32 [%p+32], {{%d0, %d1, %d2, %d3}};
  ret;
}}
"""
FORMS = {
    "mxfp8": "m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e4m3.f32.ue8m0",
    "nvfp4": "m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3",
}


@pytest.mark.parametrize(
    ("form", "family", "says"),
    [
        ("mxfp8", "QMMA.SF.", "1 QMMA: the FP8 tensor cores of 12.0"),
        ("nvfp4", "OMMA.SF.", "1 OMMA: the FP4 tensor cores of 12.0"),
    ],
)
def test_the_block_scaled_mma_is_native_on_12x(tmp_path: Path, form: str, family: str, says: str) -> None:
    ptxas = find_assembler()
    source, cubin = tmp_path / "probe.ptx", tmp_path / "probe.cubin"
    source.write_text(PROBE.format(version=ptx_version(tool_version(ptxas)), form=FORMS[form]))
    done = run_tool([ptxas, "-arch=sm_120f", source, "-o", cubin], timeout=120)
    assert done.returncode == 0, done.stderr
    (function,) = inspect(cubin).functions
    assert [opcode for opcode in function.opcodes if opcode.startswith(family)], function.opcodes
    verdict, reason = explain_verdict(function, "fp8_mma")
    assert verdict == "native" and reason.startswith(says)
    assert judge(function) == "native"
    assert judge(function, "mma16") == "dead"


def test_fp4_tensor_cores_prove_nothing_on_a_target_without_them() -> None:
    code = SimpleNamespace(
        kind="cubin", target="9.0a", opcodes={"OMMA.SF.16864.F32": 4}, instructions=9, failure=""
    )
    assert judge(code, "fp8_mma") == "dead"
