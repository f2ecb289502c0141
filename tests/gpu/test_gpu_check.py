"""The check on a GPU: all kernels that its gates admit, evidence builds too; faults are seen. About 2 min."""

from __future__ import annotations

import pytest
import torch

from kernelpkg import check, ops
from kernelpkg.ops import functional
from kernelpkg.ops.kernels import KERNELS

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _library(library):
    return library


def test_default_holds():
    report = check.run(size="default", device="cuda:0")
    print(report.summary)
    worst: dict[tuple[str, str], dict] = {}
    for row in report.rows:
        key = (row["kernel"], row["metric"])
        if key not in worst or row["value"] > worst[key]["value"]:
            worst[key] = row
    for (kernel, metric), row in worst.items():
        print(f"{kernel:26} {metric:16} {row['value']:.3e} (bound {row['bound']:.3e}) {row['case']}")
    for problem in report.problems:
        print(problem)
    report.raise_for_status()
    assert report.device == "cuda:0" and report.machine["capability"]
    # An eligible device on which no FP8 case ran has not been checked.
    assert report.fp8_ran > 0 or not report.fp8_eligible
    assert f"{report.fp8_ran} of them FP8" in report.summary
    labels = {row["kernel"]: row["label"] for row in report.rows}
    for entry in KERNELS:
        if entry.name in labels and entry.evidence:
            assert labels[entry.name] in ("measured here, emulated", "measured here, stand-in")


def test_every_fault_is_caught_on_the_gpu():
    names = [
        entry.name for entry in KERNELS if entry.family != "repack" and ops.supports(entry.name, "cuda:0")
    ]
    assert names
    proofs = check.prove(names, "cuda:0")
    assert [proof for proof in proofs if not proof.caught] == []
    assert "none" not in {proof.mutation for proof in proofs}


def test_a_run_asked_for_one_ineligible_kernel_says_so():
    capability = functional.device_capability(0)
    refused = [entry.name for entry in KERNELS if not ops.supports(entry.name, capability).admitted]
    name = next(name for name in refused if not name.startswith(("marlin_w4a8", "marlin_w8a8")))
    report = check.run([name], size="tiny", device="cuda:0")
    assert not report.fp8_eligible or report.fp8_ran == 0
    assert sum(report.gated_out.values()) == len(check.cases_for(name, "tiny"))
    with pytest.raises(Exception, match=r"No case ran|FP8"):
        report.raise_for_status()


def test_poison_reaches_outputs_and_work_spaces():
    with check.execution.poisoned():
        assert torch.empty(100, device="cuda", dtype=torch.bfloat16).isnan().all()
        assert (torch.empty(100, device="cuda", dtype=torch.uint8) == 255).all()
