"""The version, written once: pyproject.toml, the command line and the provenance of vectors read it here."""

VERSION = "0.1.0"
