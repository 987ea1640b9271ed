"""Every error the package raises on its own, and the one helper that finds the nearest right name.

Each is a MiniAlbertError and also the built-in kind that users expect, so `except ValueError` and
`except MiniAlbertError` both work. A message is one line: what, where, what was expected, what to do.
"""

import difflib
from collections.abc import Iterable


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


def nearest(name: str, options: Iterable[str], count: int = 2) -> str:
    """The options most like `name`, as "a, b", for the end of an error message; "" when none is near."""
    options = list(options)
    close = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    close += [option for option in options if name and name in option and option not in close]
    return ", ".join(close[: max(count, 1)])
