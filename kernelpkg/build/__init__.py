"""Toolchain, catalogue, generated sources and the build driver."""
