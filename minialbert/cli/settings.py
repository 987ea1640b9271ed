"""What several commands take: fields of the configuration as KEY=VALUE."""

import json
from typing import Any

from minialbert.errors import InputError


def changes_of(settings: list[str]) -> dict[str, Any]:
    """["hidden_act=relu", "num_labels=3"] as {"hidden_act": "relu", "num_labels": 3}. Raises InputError."""
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise InputError(f"--set {setting!r}: expected KEY=VALUE, as hidden_act=gelu_new")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes
