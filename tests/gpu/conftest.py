"""GPU tests: every one runs on the library under test."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def library_under_test(library):
    """Loads it before a test asks for "the library of this machine", which may be another one that was built
    here: torch registers an operator once per process."""
    return library
