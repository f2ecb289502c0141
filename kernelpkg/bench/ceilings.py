"""The ceilings of this machine, measured in the run they are used in: read, copy, and library GEMM rates.

Reading is measured over as many bytes as the row's weights and scales have, with the graph method of
`timing`, by several readers; the fastest one counts. The readers: a kernel of 16-byte loads compiled at run
time (NVRTC, where torch offers it), in several grids; and, for 512 MiB or where there is no such kernel,
torch's sum over float32 in one and two dimensions and cuBLAS's bf16 matrix-vector product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelpkg.bench.clocks import Sampler
from kernelpkg.bench.timing import Clock, launch_count, operand_sets, time_interleaved

LOAD_BYTES = 16
LARGE_BYTES = 512 * 2**20
# Sizes of library GEMMs whose rate is the compute ceiling: M, N, K. Small devices take the small one alone.
GEMMS = ((8192, 8192, 8192), (4096, 28672, 4096))
SMALL_GEMMS = ((4096, 28672, 4096),)
SMALL_DEVICE = 100  # multiprocessors

LOADS = 8  # of 16 bytes, which a thread of the reader has in flight

# Each thread keeps eight 16-byte loads in flight; the sum is stored only where it has one improbable value,
# so the loads cannot be dropped and nothing is written.
READ_SOURCE = r"""
extern "C" __global__ void kernelpkg_read(const uint4* source, unsigned int* sink, int vectors) {
  const int tile = blockDim.x * 8;
  unsigned int seen = 0;
  const long long step = (long long)gridDim.x * tile;
  for (long long start = (long long)blockIdx.x * tile; start < vectors; start += step) {
    uint4 value[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const long long at = start + i * blockDim.x + threadIdx.x;
      value[i] = make_uint4(0, 0, 0, 0);
      if (at < vectors)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(value[i].x), "=r"(value[i].y), "=r"(value[i].z), "=r"(value[i].w)
                     : "l"(source + at));
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) seen ^= value[i].x ^ value[i].y ^ value[i].z ^ value[i].w;
  }
  if (seen == 0x9e3779b9u) sink[0] = seen;
}
"""


@dataclass(slots=True)
class Ceilings:
    """What this machine reached in this run. GB/s are 1e9 bytes per second, TFLOP/s 1e12 per second.

    read_gbps: reading 512 MiB. read_by_bytes: reading as many bytes as a row streams, keyed by them.
    read_method: which reader was fastest at 512 MiB. copy_gbps counts bytes read and written, write_gbps is
    of filling memory. bf16_tflops and fp8_tflops: the best library GEMM (torch.mm, torch._scaled_mm); None
    where the device or torch has none. read_after_gbps: reading again at the end of the run. notes: what
    could not be measured, or looks wrong.
    """

    read_gbps: float | None = None
    read_method: str | None = None
    read_by_bytes: dict[int, float] = field(default_factory=dict)
    read_after_gbps: float | None = None
    copy_gbps: float | None = None
    write_gbps: float | None = None
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    notes: list[str] = field(default_factory=list)

    def read_for(self, size_bytes: int) -> float | None:
        """The read ceiling in GB/s for a stream of `size_bytes`: of that size if measured, else of 512
        MiB.
        """
        return self.read_by_bytes.get(whole_loads(size_bytes), self.read_gbps)

    def tflops_for(self, kind: str) -> float | None:
        """The compute ceiling for 'bf16' or 'fp8'."""
        return self.bf16_tflops if kind == "bf16" else self.fp8_tflops

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {
            "read_gbps": self.read_gbps,
            "read_method": self.read_method,
            "read_by_bytes": {str(size): value for size, value in sorted(self.read_by_bytes.items())},
            "read_after_gbps": self.read_after_gbps,
            "copy_gbps": self.copy_gbps,
            "write_gbps": self.write_gbps,
            "bf16_tflops": self.bf16_tflops,
            "fp8_tflops": self.fp8_tflops,
            "notes": list(self.notes),
        }


def whole_loads(size_bytes: int) -> int:
    """`size_bytes`, rounded up to loads of 16 bytes."""
    return max(1, -(-size_bytes // LOAD_BYTES)) * LOAD_BYTES


def limit_of(
    stream_bytes: int, flops: int, read_gbps: float | None, tflops: float | None
) -> tuple[float | None, str | None]:
    """Least microseconds of a call under two ceilings, and the one that binds ('memory' or 'compute')."""
    memory = stream_bytes / read_gbps / 1e3 if read_gbps else None
    compute = flops / tflops / 1e6 if tflops else None
    if memory is None and compute is None:
        return None, None
    if compute is None or (memory is not None and memory >= compute):
        return memory, "memory"
    return compute, "compute"


class Meter:
    """Measures the ceilings on one CUDA device. torch is imported by whoever makes one."""

    def __init__(
        self,
        device: str,
        clock: Clock,
        sampler: Sampler,
        machine: Mapping[str, Any],
        seconds: float,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        import torch

        self.torch = torch
        self.device = torch.device(device)
        self.clock = clock
        self.sampler = sampler
        self.machine = machine
        self.seconds = seconds
        self.cancelled = cancelled
        self.ceilings = Ceilings()
        self._reader = self._compile_reader()

    # ----------------------------------------------------------------------------------- reading

    def measure(self, fp8: bool) -> Ceilings:
        """Large read, copy, write, and the GEMM rates. `fp8`: whether the device multiplies e4m3."""
        found = self.ceilings
        found.read_gbps, found.read_method = self.read(LARGE_BYTES)
        found.copy_gbps = self._copy()
        found.write_gbps = self._write()
        small = (self.machine.get("multiprocessors") or 0) < SMALL_DEVICE
        for shape in SMALL_GEMMS if small else GEMMS:
            found.bf16_tflops = _best(found.bf16_tflops, self._gemm(shape, "bf16"))
            if fp8:
                found.fp8_tflops = _best(found.fp8_tflops, self._gemm(shape, "fp8"))
        return found

    def read_for(self, size_bytes: int) -> float | None:
        """The read ceiling for `size_bytes`, measured on first use and kept."""
        size = whole_loads(size_bytes)
        if size not in self.ceilings.read_by_bytes and not self.cancelled():
            value, _ = self.read(size)
            if value is not None:
                self.ceilings.read_by_bytes[size] = value
        return self.ceilings.read_for(size_bytes)

    def read(self, size_bytes: int) -> tuple[float | None, str | None]:
        """GB/s of the fastest reader over `size_bytes` (a multiple of 16), cold, and its name."""
        torch = self.torch
        sets = operand_sets(size_bytes, self.machine.get("l2_bytes"))
        pool = torch.empty(sets * size_bytes // 4, dtype=torch.int32, device=self.device)
        # Any bit pattern but NaN's will do; random bits, so that nothing is easier than real data.
        pool.random_(0, 2**30)
        views = pool.view(sets, -1)
        graphs = {}
        expected = size_bytes / ((self.ceilings.read_gbps or 2000.0) * 1e3)
        for name, launches in self._readers(views).items():
            try:
                graphs[name] = self.clock.capture(launches, launch_count(sets, expected))
            except Exception as error:  # one reader that this torch or device lacks is no reason to stop
                self._note(f"reader {name} failed: {_first_line(error)}")
        if not graphs:
            return None, None
        timings, _ = time_interleaved(graphs, self.clock, self.sampler, self.seconds, self.cancelled)
        return _fastest({name: timing.median for name, timing in timings.items()}, size_bytes)

    def _readers(self, views: Any) -> dict[str, list[Callable[[], Any]]]:
        torch = self.torch
        columns = 4096
        rows = [view.view(torch.float32) for view in views]
        readers: dict[str, list[Callable[[], Any]]] = {}
        every = self._reader is None or views[0].nbytes >= LARGE_BYTES
        if every:
            readers["torch.sum"] = [lambda x=x: x.sum() for x in rows]
        if every and rows[0].numel() % 2048 == 0:  # whole rows of 8 KiB
            vector = torch.ones(columns, dtype=torch.bfloat16, device=self.device)
            tables = [view.view(torch.bfloat16).view(-1, columns) for view in views]
            readers["torch.sum by rows"] = [lambda x=x: x.view(-1, 2048).sum(dim=1) for x in rows]
            readers["cuBLAS bf16 matrix x vector"] = [lambda x=x: torch.mv(x, vector) for x in tables]
        if self._reader is not None:
            sink = torch.zeros(4, dtype=torch.int32, device=self.device)
            resident = self.machine.get("multiprocessors") or 64
            for threads in (256, 128):
                tile = threads * LOADS * LOAD_BYTES
                tiles = -(-views[0].nbytes // tile)
                named = f"16-byte loads, {tile // 1024} KiB a block"
                for name, grid in ((named, tiles), (f"{named}, in rounds", resident * 2048 // threads)):
                    if name == named or grid < tiles:
                        readers[name] = [
                            lambda x=x, grid=grid, threads=threads: self._launch_reader(
                                x, sink, grid, threads
                            )
                            for x in views
                        ]
        return readers

    def _compile_reader(self) -> Any:
        compile_kernel = getattr(self.torch.cuda, "_compile_kernel", None)
        if compile_kernel is None:
            return None
        try:
            with self.torch.cuda.device(self.device):
                return compile_kernel(READ_SOURCE, "kernelpkg_read")
        except Exception as error:  # no NVRTC beside this torch: the other readers remain
            self._note(f"the run-time compiled reader is not to be had: {_first_line(error)}")
            return None

    def _launch_reader(self, view: Any, sink: Any, grid: int, threads: int) -> Any:
        self._reader(grid=(grid, 1, 1), block=(threads, 1, 1), args=[view, sink, view.nbytes // LOAD_BYTES])
        return sink

    # ------------------------------------------------------------------------ copy, write and GEMMs

    def _copy(self) -> float | None:
        torch = self.torch
        half = LARGE_BYTES // 2
        sources = torch.empty(2, half // 4, dtype=torch.int32, device=self.device).random_(0, 2**30)
        targets = torch.empty_like(sources)
        launches = [lambda i=i: targets[i].copy_(sources[i]) for i in range(2)]
        median = self._median({"copy": launches}, 2, 2 * half / 2e6)["copy"]
        return None if median is None else 2 * half / median / 1e3

    def _write(self) -> float | None:
        half = LARGE_BYTES // 2
        targets = self.torch.empty(2, half // 4, dtype=self.torch.int32, device=self.device)
        launches = [lambda i=i: targets[i].fill_(i + 1) for i in range(2)]
        median = self._median({"write": launches}, 2, half / 2e6)["write"]
        return None if median is None else half / median / 1e3

    def _gemm(self, shape: Sequence[int], kind: str) -> float | None:
        torch = self.torch
        m, n, k = shape
        generator = torch.Generator(self.device).manual_seed(7)

        def random(rows: int, columns: int) -> Any:
            values = torch.randn(rows, columns, generator=generator, device=self.device, dtype=torch.bfloat16)
            return values if kind == "bf16" else values.to(torch.float8_e4m3fn)

        operands = [(random(m, k), random(n, k).t()) for _ in range(2)]
        if kind == "bf16":
            launches = [lambda a=a, b=b: torch.mm(a, b) for a, b in operands]
        else:
            one = torch.ones((), device=self.device)
            launches = [
                lambda a=a, b=b: torch._scaled_mm(
                    a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
                )
                for a, b in operands
            ]
        try:
            median = self._median({kind: launches}, 2, 2 * m * n * k / 5e8)[kind]
        except Exception as error:  # this torch has no such GEMM for this device: the ceiling stays unknown
            self._note(f"library {kind} GEMM failed: {_first_line(error)}")
            return None
        return None if median is None else 2 * m * n * k / median / 1e6

    def _median(
        self, launches: Mapping[str, list[Callable[[], Any]]], sets: int, expected_us: float
    ) -> dict[str, float | None]:
        count = launch_count(sets, expected_us)
        graphs = {name: self.clock.capture(each, count) for name, each in launches.items()}
        timings, _ = time_interleaved(graphs, self.clock, self.sampler, self.seconds, self.cancelled)
        return {name: timing.median for name, timing in timings.items()}

    def finish(self) -> Ceilings:
        """Read again at the end; say so where the machine slowed down, or reads far below its data sheet."""
        found = self.ceilings
        if not self.cancelled():
            found.read_after_gbps, _ = self.read(LARGE_BYTES)
        self.ceilings.notes += health(found, self.machine)
        return found

    def _note(self, sentence: str) -> None:
        if sentence not in self.ceilings.notes:
            self.ceilings.notes.append(sentence)


def health(found: Ceilings, machine: Mapping[str, Any]) -> list[str]:
    """Sentences about a machine in a slow state. Clocks do not tell: reading, copying and multiplying do."""
    notes = []
    before, after = found.read_gbps, found.read_after_gbps
    if before and after and abs(after / before - 1) > 0.15:
        notes.append(
            f"Reading went from {before:.0f} to {after:.0f} GB/s within the run: its rows do not compare."
        )
    from kernelpkg.arch.devices import find_device

    row = find_device(str(machine.get("name") or ""))
    sheet = row.memory_bandwidth if row else None
    if row and before and sheet and before * 1e9 < 0.5 * sheet:
        notes.append(
            f"Reading reaches {before:.0f} GB/s, under half of the {sheet / 1e9:.0f} GB/s of {row.name}'s "
            "data sheet: the machine may be in a slow state; power it off and on before trusting a figure."
        )
    if found.copy_gbps and before and found.copy_gbps > 2 * before:
        notes.append(
            f"Copying moves {found.copy_gbps:.0f} GB/s, reading {before:.0f}: a slow state known of GB10."
        )
    return notes


def _best(known: float | None, new: float | None) -> float | None:
    values = [value for value in (known, new) if value is not None]
    return max(values) if values else None


def _fastest(medians: Mapping[str, float | None], size_bytes: int) -> tuple[float | None, str | None]:
    known = {name: value for name, value in medians.items() if value}
    if not known:
        return None, None
    name = min(known, key=lambda key: known[key])
    return size_bytes / known[name] / 1e3, name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
