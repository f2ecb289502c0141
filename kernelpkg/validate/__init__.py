"""Papermill runs of the notebooks, their results and the report.

Runner and workbook load what they need when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernelpkg.errors import UsageError

if TYPE_CHECKING:
    from kernelpkg.validate.report import ValidateReport as ValidateReport
    from kernelpkg.validate.runner import notebooks_folder as notebooks_folder
    from kernelpkg.validate.runner import parse_parameters as parse_parameters
    from kernelpkg.validate.runner import run as run
    from kernelpkg.validate.workbook import Workbook as Workbook
    from kernelpkg.validate.workbook import open_workbook as open_workbook

_HOMES = {
    "ValidateReport": "report",
    "notebooks_folder": "runner",
    "parse_parameters": "runner",
    "run": "runner",
    "Workbook": "workbook",
    "open_workbook": "workbook",
}

__all__ = ["ValidateReport", "Workbook", "notebooks_folder", "open_workbook", "parse_parameters", "run"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that a notebook does not import papermill."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kernelpkg"):
            raise
        raise UsageError(
            f"Running the notebooks needs {error.name}, which is not installed: "
            "`pip install 'kernelpkg[notebooks]'` brings all they need."
        ) from error
