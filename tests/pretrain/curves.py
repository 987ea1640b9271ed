"""The curves of a run, or of runs that went on from each other, drawn: python -m tests.pretrain.curves OUT.svg LOG ...

LOG is a log.jsonl; several, also in one file, are laid end to end. One panel for masked words and one for sentence
order: the training loss, averaged over windows, and the held-out accuracy. weights/README.md shows the shipped model's.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

WINDOWS = 60  # the points of a curve


def joined(logs: list[Path]) -> list[dict]:
    """The rows of all logs, with "seen": how many tokens had been seen, estimated from the steps that were logged."""
    rows, seen, step = [], 0.0, 0
    for log in logs:
        for row in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            if row["step"] < step:  # the next run
                step = 0
            if "tokens" in row:
                seen, step = seen + row["tokens"] * (row["step"] - step), row["step"]
            rows.append(row | {"seen": seen})
    return rows


def draw(rows: list[dict], path: Path) -> None:
    steps = [row for row in rows if "mlm_loss" in row]
    held = [row for row in rows if "held_out/mlm_loss" in row]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for panel, name, chance, title, limits in (
        (panels[0], "mlm", None, "masked words", (0, 0.5)),
        (panels[1], "sop", np.log(2), "sentence order", (0.4, 1)),
    ):
        parts = np.array_split(np.array([(row["seen"] / 1e6, row[f"{name}_loss"]) for row in steps]), WINDOWS)
        curve = np.array([part.mean(0) for part in parts if len(part)])
        panel.plot(*curve.T, color="#1f5fa8", label="training loss")
        if chance:
            panel.axhline(chance, color="#888", linewidth=0.8, linestyle=":", label="a coin")
        panel.set(title=title, xlabel="million tokens seen", ylabel="loss, nats")
        other = panel.twinx()
        other.plot([row["seen"] / 1e6 for row in held], [row[f"held_out/{name}_accuracy"] for row in held],
                   "o-", color="#b5481b", markersize=3, label="held-out accuracy")  # fmt: skip
        other.set(ylabel="accuracy", ylim=limits)
        lines = [line for axis in (panel, other) for line in axis.get_lines()]
        panel.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=8, loc="upper right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    draw(joined([Path(name) for name in sys.argv[2:]]), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
