"""Every error the package raises on its own, and the one helper that finds the nearest right name.

Each is a MiniAlbertError and also the built-in kind that users expect, so `except ValueError` and
`except MiniAlbertError` both work. A message is one line: what, where, what was expected, what to do.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class MiniAlbertError(Exception):
    """The base of all errors below."""

    def __str__(self) -> str:  # KeyError would print the message in quotation marks
        return str(self.args[0]) if self.args else ""


class InputError(MiniAlbertError, ValueError):
    """A text, a tensor or an argument that cannot be used."""


class ConfigError(MiniAlbertError, ValueError):
    """A configuration that describes no model of the family."""


class NameUnknown(MiniAlbertError, KeyError):
    """A tap point, preset, layer or key that does not exist."""


class FileError(MiniAlbertError, OSError):
    """A file or directory that is missing, broken, or not what it should be."""


class CheckpointError(FileError, ValueError):
    """Weights, configuration and vocabulary that are incomplete or do not belong together."""

    report: Any = None  # the LoadReport of convert/reading.py, where a conversion got as far as having one


def nearest(name: str, options: Iterable[str]) -> str:
    """The options that go on from `name`, or else the two most like it, as "a, b"; "" when none is near."""
    options = list(options)
    longer = [option for option in options if name and option.startswith(name)]
    return ", ".join(longer or difflib.get_close_matches(name, options, n=2, cutoff=0.5))
