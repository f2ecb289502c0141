"""Does this FP8 kernel really work on this GPU: gates, builds, evidence, checks and timings.

Importing the package imports neither torch nor CUDA; each subpackage imports what it needs.
"""

__version__ = "0.1.0"
