"""What a comparison found: rows with distances and tolerances, the first that differs, and why.

parity.py fills it, parity_plot.py draws it, cli/proof.py prints it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SECTIONS = ("tokenizer", "config", "weights", "forward", "gradients")  # in order of computation
BASE = {"float64": 1e-10, "float32": 1e-5}
TIMES = 10  # float32 may be this many times as far from theirs as theirs is from itself in float64


def tolerance(dtype: str, scale: float, rounding: float = 0.0, base: float | None = None) -> float:
    """How far two correct implementations may be apart at a point whose largest number is `scale`.

    float64: 1e-10 of the scale. Two orders of summation were measured to leave 1e-14 of it (base, large and xlarge
    with random weights, a trained MiniLM), the smallest of the planted faults of the tests 1e-4.
    float32: 1e-5 of the scale, and ten times the distance of theirs in float32 to theirs in float64 (`rounding`).
    Measured: 2e-6 at base, large and xlarge, 11 to 20 times less than this. The second part is for trained models that
    magnify rounding: at padding all-MiniLM-L6-v2 is 1.5e-4 from itself. It hides no fault, for float64 shows them all.
    """
    return (BASE[dtype] if base is None else base) * scale + (0.0 if base is not None else TIMES * rounding)


@dataclass
class Row:
    """One point: how far apart, in each precision that was compared ("exact" for what has to be equal)."""

    section: str
    point: str
    layer: int | None
    distance: dict[str, float] = field(default_factory=dict)
    tolerance: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def ok(self) -> bool:
        return all(self.distance[kind] <= self.tolerance[kind] for kind in self.distance)

    @property
    def part(self) -> float:
        """The largest distance as a part of its tolerance."""
        return max((_ratio(self.distance[kind], self.tolerance[kind]) for kind in self.distance), default=0.0)

    def __str__(self) -> str:
        name = self.point if self.layer is None else f"{self.point}, layer {self.layer}"
        return name if self.section == "forward" else f"{self.section}: {name}"


def _ratio(distance: float, allowed: float) -> float:
    return 0.0 if distance == 0 else math.inf if allowed == 0 else distance / allowed


@dataclass
class Finding:
    """The first row of a section that differs, and why."""

    row: Row
    cause: str

    def __str__(self) -> str:
        past = [(kind, d, self.row.tolerance[kind]) for kind, d in self.row.distance.items() if kind != "exact"]
        far = ", ".join(f"{d:.2g} in {kind}, tolerance {most:.2g}" for kind, d, most in past if d > most)
        place = self.row.section if self.row.section in ("config", "weights") else str(self.row)
        return f"{place}{f' ({far})' if far else ''}: {self.cause}"


@dataclass
class Report:
    """Everything that was compared. `ok`, and where it is False `findings`, the first of them first of all."""

    path: str
    against: str
    model: str
    dtypes: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # what was not compared, and why
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def first(self) -> Row | None:
        """The first row in order of computation that differs."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def cause(self) -> str:
        return self.findings[0].cause if self.findings else ""

    def verdict(self) -> str:
        """The first point that differs and why, and where the forward shows it; "equal" where nothing differs."""
        if not self.findings:
            return "equal"
        shown = next((finding.row for finding in self.findings if finding.row.section == "forward"), None)
        where = f"; seen in the forward first at {shown}" if shown and shown is not self.findings[0].row else ""
        return f"{self.findings[0]}{where}"

    def worst(self, section: str | None = None) -> Row | None:
        """The row nearest to its tolerance, or farthest past it."""
        rows = [row for row in self.rows if section in (None, row.section)]
        return max(rows, key=lambda row: row.part, default=None)

    def by_layer(self) -> Iterator[tuple[str, list[Row]]]:
        """Rows in groups: a section, the embeddings, each layer, each head."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(_group(row), []).append(row)
        yield from groups.items()

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite distance is the string "inf"."""
        plain = lambda numbers: {k: x if math.isfinite(x) else "inf" for k, x in numbers.items()}  # noqa: E731
        rows = [
            {"section": row.section, "point": row.point, "layer": row.layer, "distance": plain(row.distance),
             "tolerance": plain(row.tolerance), "ok": row.ok, "note": row.note} for row in self.rows
        ]  # fmt: skip
        findings = [{"point": f.row.point, "layer": f.row.layer, "section": f.row.section, "cause": f.cause}
                    for f in self.findings]  # fmt: skip
        return {"path": self.path, "against": self.against, "model": self.model, "ok": self.ok, "findings": findings,
                "skipped": self.skipped, "versions": self.versions, "seconds": self.seconds, "rows": rows}  # fmt: skip


def _group(row: Row) -> str:
    if row.section != "forward":
        return row.section
    if row.point.startswith("embeddings"):
        return "embeddings"
    return f"layer {row.layer}" if row.layer is not None else row.point
