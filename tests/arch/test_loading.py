"""The loading rules, row by row, and what the driver takes where several images load."""

from __future__ import annotations

import pytest

from kernelpkg.arch import (
    CAPABILITIES,
    TEGRA,
    TOOLKIT_TARGETS,
    ArchError,
    Capability,
    Image,
    Target,
    best_image,
    loads,
)


def runs_on(kind: str, target: str) -> str:
    image = Image(kind, Target.parse(target))  # type: ignore[arg-type]
    return " ".join(str(one) for one in CAPABILITIES if loads(image, one).ok)


@pytest.mark.parametrize(
    ("kind", "target", "where"),
    [
        ("cubin", "7.5", "7.5"),
        ("cubin", "8.0", "8.0 8.6 8.9"),
        ("cubin", "8.6", "8.6 8.9"),
        ("cubin", "8.7", "8.7"),
        ("cubin", "8.9", "8.9"),
        ("cubin", "9.0", "9.0"),
        ("cubin", "9.0a", "9.0"),
        ("cubin", "10.0", "10.0 10.3"),
        ("cubin", "10.0f", "10.0 10.3"),
        ("cubin", "10.0a", "10.0"),
        ("cubin", "10.3f", "10.3"),
        ("cubin", "11.0", "11.0"),
        ("cubin", "12.0", "12.0 12.1 12.2"),
        ("cubin", "12.0f", "12.0 12.1 12.2"),
        ("cubin", "12.0a", "12.0"),
        ("cubin", "12.1f", "12.1 12.2"),
        ("cubin", "12.1a", "12.1"),
        ("ptx", "8.0", "8.0 8.6 8.7 8.9 9.0 10.0 10.3 11.0 12.0 12.1 12.2 13.0"),
        ("ptx", "12.0", "12.0 12.1 12.2 13.0"),
        ("ptx", "12.0f", "12.0 12.1 12.2"),
        ("ptx", "12.1f", "12.1 12.2"),
        ("ptx", "9.0a", "9.0"),
    ],
)
def test_where_each_image_runs(kind: str, target: str, where: str) -> None:
    assert runs_on(kind, target) == where


def test_ptx_is_an_answer_of_its_own() -> None:
    answer = loads(Image("ptx", Target.parse("12.0")), Capability(12, 1))
    assert (answer.how, answer.native, answer.ok) == ("jit", False, True)
    assert "compiled by the driver" in answer.reason
    native = loads(Image("cubin", Target.parse("12.0f")), Capability(12, 1))
    assert (native.how, native.native, native.ok) == ("cubin", True, True)
    refused = loads(Image("cubin", Target.parse("12.0a")), Capability(12, 1))
    assert (refused.how, refused.native, refused.ok) == ("no", False, False)
    assert "exactly 12.0" in refused.reason and "12.1" in refused.reason


def test_machine_code_never_crosses_the_jetson_border() -> None:
    for target in TOOLKIT_TARGETS:
        for capability in CAPABILITIES:
            if loads(Image("cubin", target), capability).ok and target.capability != capability:
                assert capability not in TEGRA and target.capability not in TEGRA
    assert "Jetson" in loads(Image("cubin", Target.parse("8.6")), Capability(8, 7)).reason
    # 10.1 is what Jetson Thor was called before CUDA 13.
    assert not loads(Image("cubin", Target.parse("10.0f")), Capability(10, 1)).ok


def test_every_answer_has_a_reason_that_names_image_or_device() -> None:
    for target in TOOLKIT_TARGETS:
        for kind in ("cubin", "ptx"):
            for capability in CAPABILITIES:
                answer = loads(Image(kind, target), capability)  # type: ignore[arg-type]
                assert answer.reason and target.number in answer.reason


def test_the_driver_takes_the_nearest_machine_code_before_ptx() -> None:
    def images(*written: str) -> tuple[Image, ...]:
        return tuple(
            Image("ptx" if text.startswith("compute") else "cubin", Target.parse(text)) for text in written
        )

    def taken(capability: str, *written: str) -> str | None:
        image, _ = best_image(images(*written), Capability.parse(capability))
        return None if image is None else str(image)

    assert taken("8.9", "sm_80", "sm_86", "sm_89", "compute_89") == "sm_89 cubin"
    assert taken("12.1", "sm_120", "sm_120f", "compute_121") == "sm_120f cubin"
    assert taken("12.1", "sm_120f", "sm_121a") == "sm_121a cubin"
    assert taken("12.1", "sm_120a", "compute_80", "compute_90") == "compute_90 PTX"
    assert taken("13.0", "sm_120f") is None
    _, answer = best_image((), Capability(9, 0))
    assert not answer.ok and "no device code" in answer.reason


def test_image_kind_is_checked() -> None:
    with pytest.raises(ArchError, match="neither"):
        Image("sass", Target.parse("9.0"))  # type: ignore[arg-type]
