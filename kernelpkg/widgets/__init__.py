"""Thin views on the package's functions: tables, figures and panels, each with a text and an HTML form."""
