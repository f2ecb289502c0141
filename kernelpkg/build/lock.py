"""One build at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernelpkg.build.events import BuildCancelled, BuildError

LOCK_NAME = ".lock"
WAIT_SECONDS = 3600.0


@contextmanager
def build_lock(
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    cancel: threading.Event | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Iterator[int]:
    """Holds the folder's lock; gives its file descriptor, which compilers inherit so that the lock lasts as
    long as the last of them, even where this process is killed.

    Another build's lock is waited for, and `say` gets one sentence about it. Raises BuildCancelled where
    `cancel` is set meanwhile, BuildError after wait_seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline, said = time.monotonic() + wait_seconds, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                sentence = f"Another build ({holder}) is using {folder}"
                if not said:
                    say(f"{sentence}; waiting for it to end.")
                    said = True
                if cancel is not None and cancel.is_set():
                    raise BuildCancelled(f"{sentence}; waiting for it was cancelled.") from None
                if time.monotonic() >= deadline:
                    raise BuildError(
                        f"{sentence} and did not end within {wait_seconds:.0f} s; wait for it, stop it, or "
                        "give another folder with --build-dir."
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
