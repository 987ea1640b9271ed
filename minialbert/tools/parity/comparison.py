"""What both comparisons share: our model, a row for every point, and asking why the first that differs does.

against_transformers.py and google_pack.py are the two; parity.py chooses.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minialbert.tools.parity.diagnose import equal, relation, same_fact, told
from minialbert.tools.parity.hypotheses import Whole, explain
from minialbert.tools.parity.mistakes import DECODER, all_hypotheses
from minialbert.tools.parity.probe import Batch
from minialbert.tools.parity.sides import Point, Points, farthest, order
from minialbert.tools.parity.verdict import SECTIONS, Finding, Report, Row

DTYPES = {"float64": torch.float64, "float32": torch.float32}  # in this order: float32 is measured against float64
ALONE = {  # other ways to the last hidden state, which differ though every point before agrees
    "packed": "packed.py alone; model.py agrees",
    "sdpa": "the fused attention alone; the written-out agrees",
}
NONE_TRIED = "none of the tried explains it"


class Comparison(ABC):
    """One run: subclasses fill the rows and say where theirs comes from."""

    model: Any  # ours

    def __init__(
        self,
        path: str | Path,
        kinds: tuple[str, ...],
        tolerance: float | None,
        device: str | torch.device,
        against: str,
    ):
        self.path, self.kinds, self.tolerance, self.device = path, kinds, tolerance, torch.device(device)
        self.report = Report(str(path), against, "", kinds, versions={"torch": torch.__version__})
        self.rows: dict[tuple[str, str, int | None], Row] = {}
        self.facts: dict[str, tuple[Any, Any]] = {}  # of the configuration that differ: ours, theirs
        self.their_tensors: dict[str, Tensor] = {}  # those that differ, under our names
        self.only_theirs: set[Point] = set()  # points that ours does not have
        self.their_plan: list[tuple[int, int]] | None = None  # if it differs

    @abstractmethod
    def run(self, gradients: bool) -> None:
        """Fill self.report."""

    def finish(self) -> Report:
        """The report, its rows in order of computation."""
        self.report.rows.sort(key=_place)
        if (first := self.report.first) and not self.report.findings:
            self.find(first.section, None)
        self.report.findings.sort(key=lambda finding: SECTIONS.index(finding.row.section))
        return self.report

    # ---- rows ----

    def row(self, section: str, point: str, layer: int | None = None) -> Row:
        key = (section, point, layer)
        if key not in self.rows:
            self.rows[key] = Row(section, point, layer)
            self.report.rows.append(self.rows[key])
        return self.rows[key]

    def measure(self, section: str, point: Point, kind: str, distance: float, allowed: float) -> None:
        row = self.row(section, point[0], _layer(point))
        row.distance[kind], row.tolerance[kind] = distance, allowed

    def exact(self, section: str, point: str, wrong: float, note: str = "") -> None:
        row = self.row(section, point)
        row.distance["exact"], row.tolerance["exact"], row.note = wrong, 0.0, note

    def first(self, section: str) -> Row | None:
        """The first row of a section that differs."""
        return min((row for row in self.report.rows if row.section == section and not row.ok), key=_place, default=None)

    def find(self, section: str, cause: str | None) -> None:
        """Note the first row of a section that differs, if one does, with its cause; once."""
        row = self.first(section)
        if row is not None and all(finding.row.section != section for finding in self.report.findings):
            self.report.findings.append(Finding(row, cause or NONE_TRIED))

    # ---- what both compare ----

    def compare_facts(self, facts: dict[str, tuple[Any, Any]]) -> None:
        """Keys of the configuration that both sides have."""
        for key, (ours, theirs) in facts.items():
            if same_fact(ours, theirs):
                self.exact("config", key, 0.0)
            else:
                self.facts[key] = ours, theirs
                self.exact("config", key, 1.0, f"{ours!r} here, {theirs!r} there")

    def told_facts(self) -> None:
        """The finding about the configuration, when the forward has shown the sharing plan too."""
        said = "; ".join(f"{key} is {ours!r} here, {theirs!r} there" for key, (ours, theirs) in self.facts.items())
        self.find("config", said)

    def compare_tensors(self, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
        """Every tensor, exactly; those that differ are told by how they came about."""
        relations = {}
        for name, x in ours.items():
            y = theirs.get(name)
            if y is None or not equal(x, y):
                relations[name] = "not there" if y is None else relation(name, ours, theirs)
            if y is not None and x.shape == y.shape and name in relations:
                self.their_tensors[name] = y.detach().clone()
            distance = float("inf") if y is None else farthest(x, y)
            self.exact("weights", name, distance if name in relations else 0.0, relations.get(name, ""))
        if (decoder := theirs.get(DECODER)) is not None:
            table = ours["embeddings.word.weight"]
            relations[DECODER] = "not the word table: " + relation(DECODER, {DECODER: table}, {DECODER: decoder})
            self.exact("weights", DECODER, farthest(table, decoder), relations[DECODER])
            self.their_tensors[DECODER] = decoder.detach().clone()
        if relations:
            self.find("weights", told(relations))

    def can_run(self, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
        """Whether a forward would compare anything: tensors of other shapes make another model, with other inputs."""
        odd = [name for name, x in ours.items() if name in theirs and theirs[name].shape != x.shape]
        if odd:
            x, y = (list(tensors[odd[0]].shape) for tensors in (ours, theirs))
            more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
            self.report.skipped.append(f"forward: not run, {odd[0]} is {x} here, {y} there{more}")
        return not odd

    def ask_why(
        self, kind: str, batch: Batch, theirs: Points, allowed: Callable[[Point], float],
        whole: Whole,
    ) -> None:  # fmt: skip
        """Find what explains the first point of the forward that differs; theirs in the precision of our model."""
        row = self.first("forward")
        if row is None:
            return
        first = row.point, row.layer or 0

        def near(point: Point, x: Tensor) -> bool:
            return farthest(x, theirs[point]) <= allowed(point)

        if first[0] in ALONE:
            self.find("forward", ALONE[first[0]])
        elif first in self.only_theirs or first not in theirs:
            side = "ours" if first in self.only_theirs else "theirs"
            self.find("forward", f"{side} never comes to this point")
        else:
            tries = all_hypotheses(self.model, batch, self.facts, self.their_tensors, self.their_plan)
            answer = explain(self.model, batch, theirs, first, near, tries, whole)
            self.find("forward", f"explained by: {answer}" if answer else None)

    def allowed_at(self, point: Point, kind: str) -> float:
        """The tolerance that a point was given; none for what was not compared."""
        row = self.rows.get(("forward", point[0], _layer(point)))
        return float("inf") if row is None else row.tolerance[kind]


def _layer(point: Point) -> int | None:
    """The layer of a point, None for points that have but one place."""
    name, layer = point
    return layer if layer or name == "hidden" else None


def _place(row: Row) -> tuple:
    point = order((row.point, row.layer or 0)) if row.section == "forward" else (0, 0, 0)
    return SECTIONS.index(row.section), point
