"""What several commands take, fields of the configuration as KEY=VALUE, and how they tell what is not a result."""

import json
import sys
from dataclasses import fields
from typing import Any

from minialbert.config import AlbertConfig
from minialbert.errors import InputError, NameUnknown, nearest

KEYS = [field.name for field in fields(AlbertConfig) if field.name != "extra"]


def changes_of(settings: list[str]) -> dict[str, Any]:
    """["hidden_act=relu", "num_labels=3"] as {"hidden_act": "relu", "num_labels": 3}; NameUnknown, InputError."""
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise InputError(f"--set {setting!r}: expected KEY=VALUE, as hidden_act=gelu_new")
        if key not in KEYS:
            near = nearest(key, KEYS)
            raise NameUnknown(f"--set {setting}: {key} is no field. Nearest: {near or 'none'}. All: {', '.join(KEYS)}")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes


def note(line: str) -> None:
    """A line about the work, on stderr."""
    print(line, file=sys.stderr, flush=True)
