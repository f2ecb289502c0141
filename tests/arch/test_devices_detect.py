"""The device table, assumed devices, and detection against faked torch and NVML modules."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kernelpkg.arch import (
    KNOWN_DEVICES,
    ArchError,
    Capability,
    Device,
    assume,
    available_system_memory,
    detect,
    device_for,
    devices_for,
    find_device,
    shared_memory_optin,
)
from kernelpkg.arch.capability import CAPABILITIES

detect_module = sys.modules["kernelpkg.arch.detect"]  # the package's `detect` is the function
MIB = 1024 * 1024
FIELDS = [
    *("name", "capability", "sm", "integrated", "memory_bytes", "memory_available_bytes"),
    *("multiprocessors", "l2_bytes", "shared_memory_optin", "driver", "source"),
]


# ---------------------------------------------------------------------------------------------- table


def test_every_row_has_a_source_and_plausible_figures() -> None:
    assert len({row.name for row in KNOWN_DEVICES}) == len(KNOWN_DEVICES)
    for row in KNOWN_DEVICES:
        assert row.source
        assert row.multiprocessors is None or 10 <= row.multiprocessors <= 200
        assert row.l2_bytes is None or 4 * MIB <= row.l2_bytes <= 128 * MIB
        assert row.memory_bandwidth is None or 2e11 <= row.memory_bandwidth <= 8e12
        assert find_device(row.name) is row
        assert all(find_device(alias) is row for alias in row.aliases)
    covered = {str(row.capability) for row in KNOWN_DEVICES}
    assert covered == {str(one) for one in CAPABILITIES} - {"12.2", "13.0"}


def test_gb10_is_as_its_owners_know_it() -> None:
    row = device_for(Capability(12, 1))
    assert row is not None and row.name == "GB10"
    assert (row.multiprocessors, row.l2_bytes, row.memory_bandwidth, row.integrated) == (
        48,
        24 * MIB,
        273_000_000_000,
        True,
    )


@pytest.mark.parametrize(
    ("capability", "bytes_"),
    [
        ("7.5", 65_536),
        ("8.0", 166_912),
        ("8.6", 101_376),
        ("8.7", 166_912),
        ("8.9", 101_376),
        ("9.0", 232_448),
        ("10.0", 232_448),
        ("10.3", 232_448),
        ("11.0", 232_448),
        ("12.0", 101_376),
        ("12.1", 101_376),
        ("12.2", 101_376),
        ("13.0", None),
    ],
)
def test_shared_memory_a_block_may_opt_in_to(capability: str, bytes_: int | None) -> None:
    assert shared_memory_optin(Capability.parse(capability)) == bytes_


def test_other_products_are_not_taken_for_a_row() -> None:
    for name in ("NVIDIA H100 PCIe", "NVIDIA A100 80GB PCIe", "NVIDIA GeForce RTX 5090 Laptop GPU", "A10G"):
        assert find_device(name) is None
    assert device_for(Capability(13, 0)) is None
    assert {row.name for row in devices_for(Capability(9, 0))} == {"H200", "H100 SXM", "GH200"}


# --------------------------------------------------------------------------------------------- assume


def test_an_assumed_device_says_so() -> None:
    spark = assume("DGX Spark")
    assert (spark.name, spark.sm, spark.multiprocessors, spark.integrated) == ("GB10", "sm_121", 48, True)
    assert spark.source.startswith("assumed: DGX Spark")
    assert assume("12.1").name == "GB10"
    assert spark.memory_bytes is None and spark.driver is None
    assert list(spark.row()) == FIELDS and spark.row()["capability"] == "12.1"


def test_an_assumed_capability_of_several_devices_claims_none_of_them() -> None:
    some = assume("9.0")
    assert some.name == "device of capability 9.0"
    assert some.multiprocessors is None and some.l2_bytes is None
    assert some.integrated is False and some.shared_memory_optin == 232_448
    assert assume("12.2").integrated is None
    assert assume("RTX 5070").name == "RTX 5070"
    with pytest.raises(ArchError):
        assume("toaster")


# ------------------------------------------------------------------------------------------ detection


class FakeNvmlError(Exception):
    def __init__(self, value: int, text: str = "Not Supported") -> None:
        super().__init__(text)
        self.value = value


class FakeNvml(ModuleType):
    """pynvml with as many GPUs as given; a GPU is a dict, and a missing key raises 'Not Supported'."""

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

    def __init__(
        self,
        gpus: list[dict[str, Any]] | None = None,
        init_error: int | None = None,
        driver: str | None = "580.95.05",
        cuda: int | None = 13000,
    ) -> None:
        super().__init__("pynvml")
        self.gpus = gpus or []
        self.init_error = init_error
        self.driver = driver
        self.cuda = cuda
        self.closed = 0

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise FakeNvmlError(self.init_error, f"NVML error {self.init_error}")

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlSystemGetDriverVersion(self) -> bytes:
        if self.driver is None:
            raise FakeNvmlError(3)
        return self.driver.encode()

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        if self.cuda is None:
            raise FakeNvmlError(3)
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.gpus[index]

    def _field(self, gpu: dict[str, Any], key: str) -> Any:
        if key not in gpu:
            raise FakeNvmlError(3)
        return gpu[key]

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return self._field(gpu, "name")

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> str:
        return self._field(gpu, "uuid")

    def nvmlDeviceGetCudaComputeCapability(self, gpu: dict[str, Any]) -> tuple[int, int]:
        return self._field(gpu, "capability")

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(**self._field(gpu, "memory"))


def fake_torch(
    devices: list[SimpleNamespace] | None = None, cuda: str | None = "13.0", init: str | None = None
) -> ModuleType:
    """torch with these devices; `cuda` None is a CPU build; `init` is what torch.cuda.init() complains of."""
    module = ModuleType("torch")
    found = devices or []

    def start() -> None:
        if init:
            raise RuntimeError(init)

    def no_memory(index: int) -> tuple[int, int]:
        raise RuntimeError("no context")

    module.__dict__.update(
        __version__="2.13.0+cpu" if cuda is None else "2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            device_count=lambda: len(found),
            is_available=lambda: bool(found),
            get_device_properties=lambda index: found[index],
            get_device_capability=lambda index: (found[index].major, found[index].minor),
            get_device_name=lambda index: found[index].name,
            mem_get_info=no_memory,
            init=start,
        ),
    )
    return module


H200 = {
    "name": b"NVIDIA H200",
    "uuid": "GPU-11111111-0000",
    "capability": (9, 0),
    "memory": {"total": 150_000_000_000, "free": 149_000_000_000},
}
T4 = {
    "name": "Tesla T4",
    "uuid": "GPU-22222222-0000",
    "capability": (7, 5),
    "memory": {"total": 16 << 30, "free": 15 << 30},
}
H200_IN_TORCH = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    total_memory=150_000_000_000,
    multi_processor_count=132,
    L2_cache_size=62_914_560,
    shared_memory_per_block_optin=232_448,
    is_integrated=0,
    uuid="11111111-0000",
)
GB10_IN_TORCH = SimpleNamespace(
    name="NVIDIA GB10",
    major=12,
    minor=1,
    total_memory=128 << 30,
    multi_processor_count=48,
    L2_cache_size=24 * MIB,
    shared_memory_per_block_optin=101_376,
    is_integrated=1,
    uuid="33333333-0000",
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts fakes in place of torch and pynvml; None stands for a module that cannot be imported."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 125000000 kB\nMemFree: 1000 kB\nMemAvailable: 100000000 kB\n")
    monkeypatch.setattr(detect_module, "MEMINFO", meminfo)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def place(torch: ModuleType | None, nvml: ModuleType | None, visible: str | None = None) -> Any:
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return detect()

    return place


def test_a_gpu_is_seen_through_torch_and_nvml(machine: Any) -> None:
    nvml = FakeNvml([T4, H200])
    found = machine(fake_torch([H200_IN_TORCH]), nvml)
    assert found.message is None and nvml.closed == 1
    assert found.devices == (
        Device(
            name="NVIDIA H200",
            capability=Capability(9, 0),
            sm="sm_90",
            integrated=False,
            memory_bytes=150_000_000_000,
            memory_available_bytes=149_000_000_000,
            multiprocessors=132,
            l2_bytes=62_914_560,
            shared_memory_optin=232_448,
            driver="580.95.05",
            source="torch and NVML",
        ),
    )


def test_missing_nvml_fields_are_null_and_an_integrated_gpu_reports_system_memory(machine: Any) -> None:
    bare = {"uuid": "GPU-33333333-0000"}  # GB10: name, capability and memory not supported
    (device,) = machine(fake_torch([GB10_IN_TORCH]), FakeNvml([bare], driver=None)).devices
    assert device.driver is None and device.integrated is True
    assert device.memory_available_bytes == 100_000_000 * 1024
    assert device.l2_bytes == 24 * MIB


def test_a_field_torch_lacks_is_null(machine: Any) -> None:
    (device,) = machine(fake_torch([SimpleNamespace(name="X", major=9, minor=0)]), None).devices
    assert device.source == "torch"
    given = {key for key, value in device.row().items() if value is not None}
    assert given == {"name", "capability", "sm", "source"}


def test_available_memory_of_a_machine_without_meminfo_is_unknown(tmp_path: Path) -> None:
    assert available_system_memory(tmp_path / "none") is None
    (tmp_path / "odd").write_text("MemAvailable: lots\n")
    assert available_system_memory(tmp_path / "odd") is None


def test_no_driver(machine: Any) -> None:
    nvml = FakeNvml(init_error=FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    found = machine(fake_torch(cuda=None), nvml)
    assert found.devices == () and "No NVIDIA driver is installed" in found.message


def test_driver_not_loaded_and_driver_exchanged(machine: Any) -> None:
    found = machine(fake_torch(), FakeNvml(init_error=FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert "not loaded" in found.message
    found = machine(fake_torch(), FakeNvml(init_error=FakeNvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    assert "restart" in found.message
    assert "does not answer" in machine(fake_torch(), FakeNvml(init_error=999)).message


def test_no_gpu(machine: Any) -> None:
    found = machine(fake_torch(init="No CUDA GPUs are available"), FakeNvml([]))
    assert (
        found.devices == () and found.message == "No GPU: the NVIDIA driver 580.95.05 is here and lists none."
    )


def test_driver_too_old_by_version(machine: Any) -> None:
    found = machine(fake_torch(init="CUDA unknown error"), FakeNvml([H200], driver="535.104", cuda=12020))
    assert len(found.devices) == 1
    assert "535.104 is too old" in found.message and "12.2" in found.message and "13.0" in found.message


def test_driver_too_old_by_what_torch_says(machine: Any) -> None:
    old = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."
    assert "too old" in machine(fake_torch(init=old), FakeNvml([H200], cuda=None)).message
    assert "too old" in machine(fake_torch(init=old), None).message


def test_torch_is_a_cpu_build(machine: Any) -> None:
    found = machine(fake_torch(cuda=None), FakeNvml([H200]))
    (device,) = found.devices
    assert "CPU build" in found.message and "NVIDIA H200" in found.message
    assert device.multiprocessors == 132 and "table" in device.source and device.integrated is False
    assert device.memory_available_bytes == 149_000_000_000


def test_torch_is_missing_or_fails_otherwise(machine: Any) -> None:
    assert "torch cannot be imported" in machine(None, FakeNvml([H200])).message
    assert "mysterious" in machine(fake_torch(init="mysterious failure. More."), FakeNvml([H200])).message
    assert "nvidia-ml-py" in machine(None, None).message


def test_the_four_causes_are_told_apart(machine: Any) -> None:
    messages = {
        machine(fake_torch(), FakeNvml([])).message,
        machine(fake_torch(), FakeNvml(init_error=12)).message,
        machine(fake_torch(), FakeNvml([H200], cuda=12020)).message,
        machine(fake_torch(cuda=None), FakeNvml([H200])).message,
        machine(fake_torch(), FakeNvml([H200]), visible="").message,
    }
    assert len(messages) == 5
    assert all(message.endswith(".") and "\n" not in message for message in messages)


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_hidden_gpus(machine: Any, visible: str) -> None:
    found = machine(fake_torch([H200_IN_TORCH]), FakeNvml([H200]), visible=visible)
    assert found.devices == () and "CUDA_VISIBLE_DEVICES" in found.message


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["Tesla T4"]),
        ("1,0", ["Tesla T4", "NVIDIA H200"]),
        ("GPU-2222", ["Tesla T4"]),
        ("0,7,1", ["NVIDIA H200"]),
        ("9", []),
    ],
)
def test_visible_devices_without_cuda_torch(machine: Any, visible: str, names: list[str]) -> None:
    found = machine(fake_torch(cuda=None), FakeNvml([H200, T4]), visible=visible)
    assert [device.name for device in found.devices] == names
    if not names:
        assert "names none of the 2 GPUs" in found.message


def test_detection_never_raises(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    for torch in (Broken("torch"), fake_torch(), None):
        for nvml in (Broken("pynvml"), FakeNvml([{}]), None):
            found = machine(torch, nvml)
            assert isinstance(found.message, str) and found.message
    monkeypatch.setattr(detect_module, "_detect", lambda: 1 / 0)
    assert "ZeroDivisionError" in detect().message  # type: ignore[operator]


def test_this_machine_answers() -> None:
    found = detect()
    assert found.devices or found.message
    for device in found.devices:
        assert list(device.row()) == FIELDS


@pytest.mark.parametrize("capability", ["9.0", "12.0", "12.1", "13.0"])
def test_an_assumed_device_can_be_asked_about_by_its_own_name(capability: str):
    device = assume(capability)
    assert assume(device.name).capability == device.capability == Capability.parse(capability)
