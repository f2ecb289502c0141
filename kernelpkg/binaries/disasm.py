"""Opcodes of kernels: each distinct instruction word is disassembled once, results are kept by code hash.

nvdisasm needs half a second to start and a second per megabyte. Instances of one template repeat many of
their words, so the distinct words of all kernels of one architecture go through one raw run
(`nvdisasm --binary`). An opcode does not depend on the words around it; a test compares the counts with the
ordinary listing.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from struct import iter_unpack

from kernelpkg.binaries.elf import Cubin, Kernel
from kernelpkg.binaries.tools import find_tool, run_tool, tool_version

CACHE_SCHEMA = 1
WORD = 16  # bytes of one instruction, from 7.0 on
# About a second of work for one nvdisasm, so that its start does not dominate.
WORDS_PER_RUN = 60_000

_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)"
)

# Families whose variants matter (number formats, shapes) are kept with all modifiers.
_IN_FULL = re.compile(r"[A-Z]*MMA\b|F2FP\b|BPT\b")
# Families counted under their bare name: how data gets to the tensor cores (matrix loads, asynchronous and
# bulk copies, tensor memory) and local memory. Plain loads and arithmetic say nothing about a kernel's kind.
_BY_FAMILY = re.compile(r"(?:LDSM|STSM|MOVM|LDTM|STTM|UTCCP|LDGSTS|UBLKCP|UTMA\w+|LDL|STL)\b")


@dataclass(frozen=True, slots=True)
class Opcodes:
    """What a kernel's instructions are: `counts` of the telling opcodes, `instructions` in all."""

    counts: dict[str, int]
    instructions: int


class Cache:
    """Opcodes by capability number and code hash, in a JSON file; an unreadable one counts as none."""

    def __init__(self, path: Path | None, disassembler: str) -> None:
        self.path = path
        self.disassembler = disassembler
        self._known: dict[str, dict] = {}
        self._used: dict[str, dict] = {}
        if path is None:
            return
        try:
            stored = json.loads(path.read_text())
            if stored["schema"] == CACHE_SCHEMA and stored["disassembler"] == disassembler:
                self._known = stored["code"]
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def get(self, number: int, kernel: Kernel) -> Opcodes | None:
        """What is known of this code, or None."""
        key = f"{number}:{kernel.code_hash}"
        found = self._known.get(key)
        if found is None:
            return None
        self._used[key] = found
        return Opcodes(dict(found["counts"]), found["instructions"])

    def put(self, number: int, kernel: Kernel, opcodes: Opcodes) -> None:
        """Remembers the opcodes of this code."""
        stored = {"counts": opcodes.counts, "instructions": opcodes.instructions}
        self._used[f"{number}:{kernel.code_hash}"] = stored

    def save(self) -> None:
        """Writes what this run used, so that code of earlier builds does not pile up."""
        if self.path is None or self._used == self._known:
            return
        content = {"schema": CACHE_SCHEMA, "disassembler": self.disassembler, "code": self._used}
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(content, separators=(",", ":")))
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)


def opcodes_of(cubins: Sequence[Cubin], cache_path: Path | None = None) -> list[dict[str, Opcodes | str]]:
    """For each cubin, the opcodes of each kernel by symbol; a text in their place says why it was not read.

    `cache_path` names a JSON file that remembers results between runs. Raises ToolMissing without nvdisasm.
    """
    nvdisasm = find_tool("nvdisasm")
    cache = Cache(cache_path, tool_version(nvdisasm))
    results: list[dict[str, Opcodes | str]] = [{} for _ in cubins]
    waiting: dict[str, list[tuple[int, Kernel]]] = {}
    for index, cubin in enumerate(cubins):
        for kernel in cubin.kernels:
            known = cache.get(cubin.number, kernel)
            if known is not None:
                results[index][kernel.symbol] = known
            else:
                waiting.setdefault(f"SM{cubin.number}", []).append((index, kernel))
    if waiting:
        words = {name: _words(cubins, kernels) for name, kernels in waiting.items()}
        decoded = _decode(nvdisasm, {name: set(chain(*counts.values())) for name, counts in words.items()})
        for name, kernels in waiting.items():
            meanings, failure = decoded[name]
            for index, kernel in kernels:
                answer = _count(words[name][kernel.code_hash], meanings) if failure is None else failure
                if isinstance(answer, Opcodes):
                    cache.put(cubins[index].number, kernel, answer)
                results[index][kernel.symbol] = answer
    cache.save()
    return results


def _words(cubins: Sequence[Cubin], kernels: list[tuple[int, Kernel]]) -> dict[str, Counter[bytes]]:
    """How often each instruction word occurs, by code hash."""
    found: dict[str, Counter[bytes]] = {}
    for index, kernel in kernels:
        if kernel.code_hash in found:
            continue
        counts: Counter[bytes] = Counter()
        for offset, size in kernel.spans:
            text = memoryview(cubins[index].data)[offset : offset + size // WORD * WORD]
            counts.update(word for (word,) in iter_unpack(f"{WORD}s", text))
        found[kernel.code_hash] = counts
    return found


def _decode(nvdisasm: Path, words: dict[str, set[bytes]]) -> dict[str, tuple[dict[bytes, str], str | None]]:
    """The opcode of each word per architecture, and why it failed, where it did.

    An architecture is written 'SM120': encodings do not depend on the suffix.
    """
    version = tool_version(nvdisasm)
    with tempfile.TemporaryDirectory(prefix="kernelpkg-") as name:
        runs = []
        for architecture, distinct in words.items():
            ordered = sorted(distinct)
            for start in range(0, len(ordered), WORDS_PER_RUN):
                file = Path(name) / f"{architecture}-{start}.bin"
                part = ordered[start : start + WORDS_PER_RUN]
                file.write_bytes(b"".join(part))
                runs.append((architecture, part, file))

        def work(run: tuple[str, list[bytes], Path]) -> tuple[str, dict[bytes, str], str | None]:
            architecture, part, file = run
            # No data flow: words in this order are no program.
            done = run_tool([nvdisasm, "--binary", architecture, "--no-dataflow", file])
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                why = lines[-1] if lines else f"exit code {done.returncode}"
                if "is not defined for option" in why:
                    why = "this architecture is too old or too new for it"
                return architecture, {}, f"nvdisasm {version} cannot read {architecture}: {why}"
            found = {
                part[int(address, 16) // WORD]: opcode
                for address, opcode in _INSTRUCTION.findall(done.stdout)
            }
            if len(found) != len(part):
                return architecture, {}, f"nvdisasm {version} read {len(found)} of {len(part)} words"
            return architecture, found, None

        decoded: dict[str, tuple[dict[bytes, str], str | None]] = {key: ({}, None) for key in words}
        with ThreadPoolExecutor(max_workers=workers()) as pool:
            for architecture, found, failure in pool.map(work, runs):
                known, earlier = decoded[architecture]
                decoded[architecture] = (known | found, earlier or failure)
    return decoded


def workers() -> int:
    """How many tools run at once: the cores this process may use, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _count(words: Counter[bytes], meanings: dict[bytes, str]) -> Opcodes:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts[meanings[word]] += count
    return Opcodes(telling(counts), counts.total())


def telling(counts: Counter[str]) -> dict[str, int]:
    """The opcodes worth keeping, by name: MMA, conversion and trap in full, the way to the MMA by family."""
    kept: Counter[str] = Counter()
    for opcode, count in counts.items():
        if _IN_FULL.match(opcode):
            kept[opcode] += count
        elif _BY_FAMILY.match(opcode):
            kept[opcode.split(".")[0]] += count
    return dict(sorted(kept.items()))
