"""Errors that a user meets, each with the exit code the command line ends with.

The codes: 0 all held, 1 something that was checked failed, 2 the call was wrong, 3 nothing ran that
should have, 4 the machine was not fit (the only one worth a retry).
"""

from __future__ import annotations


class KernelpkgError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class CheckFailed(KernelpkgError):
    """Something that was checked did not hold."""

    exit_code = 1


class UsageError(KernelpkgError, ValueError):
    """The call was wrong: the message names what was given, what is allowed and what to do."""

    exit_code = 2


class NothingRan(KernelpkgError):
    """An eligible device was here and nothing ran on it."""

    exit_code = 3


class MachineUnfit(KernelpkgError):
    """The machine could not do the work now: lost driver, out of memory, timeout."""

    exit_code = 4


# Where several apply, the first of these that occurred decides.
EXIT_PRECEDENCE = (2, 1, 4, 3)


def exit_code(codes: list[int]) -> int:
    """The code a run ends with, given the codes of its parts (0 where none failed)."""
    return next((code for code in EXIT_PRECEDENCE if code in codes), 0)
