"""Shared by all tests: the kernel library, built or named; GPU tests are skipped where there is no GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TEST_TARGETS = "9.0a,12.0f"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` with the reason where torch sees no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    from kernelpkg import arch

    if torch.cuda.is_available():
        return
    reason = arch.detect().message or "torch sees no CUDA device"
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.fixture(scope="session")
def library_path() -> Path:
    """The operator library: KERNELPKG_LIBRARY where set, else the test set built for 9.0a, 12.0f and the GPUs
    that are here.

    The build goes to the shared build folder, so that only the first run of a checkout compiles.
    """
    named = os.environ.get("KERNELPKG_LIBRARY")
    if named:
        return Path(named).expanduser().absolute()
    from kernelpkg.build import build
    from kernelpkg.build.targets import add_native

    return build(arch=add_native(TEST_TARGETS), set="test").library


@pytest.fixture(scope="session")
def library(library_path: Path):
    """The operator library, loaded into this process; returns its LibraryInfo."""
    from kernelpkg import ops

    return ops.load(library_path)
