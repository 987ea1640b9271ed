"""Commands that prove: parity, against transformers; verify, against what was published."""

import argparse
import json
import sys

from minialbert.tools.parity import OTHERS, parity
from minialbert.tools.parity.comparison import DTYPES
from minialbert.tools.parity.plot import check_target, plot
from minialbert.tools.parity.verdict import Report, Row
from minialbert.tools.verify import verify


def add_commands(commands) -> None:
    proof = commands.add_parser(
        "parity", help="every layer, head and gradient against transformers; and why, if they differ",
        description="minialbert against transformers on the same weights: ids, configuration, tensors, every point of "
        "the forward, losses, gradients. Exit 1 when a distance is past its tolerance; the last line names the first "
        "point that differs and the cause. Nothing is downloaded.",
        epilog="examples: minialbert parity DIR --plot parity.png\n"
        "          minialbert parity CONVERTED --against transformers ORIGINAL\n"
        "          minialbert parity DIR --against google-pack PACK",
    )  # fmt: skip
    proof.add_argument("path", metavar="PATH", help="a checkpoint, of any kind that minialbert reads")
    against = f"another directory in place of PATH; KIND is {' or '.join(OTHERS)} (recorded outputs)"
    proof.add_argument("--against", nargs=2, metavar=("KIND", "DIR"), help=against)
    proof.add_argument("--points", action="store_true", help="a line for every point, not for every layer")
    proof.add_argument("--text", action="append", metavar="TEXT", help="for the tokenizers, in place of the built-in "
                       "ones; may be given again")  # fmt: skip
    proof.add_argument("--dtype", nargs="+", choices=tuple(DTYPES), default=tuple(DTYPES), metavar="DTYPE",
                       help="float32, float64 (default: both)")  # fmt: skip
    proof.add_argument("--device", default="cpu", metavar="NAME", help="where ours runs; theirs stays on the CPU")
    proof.add_argument("--attention", choices=("eager", "sdpa"), default="eager", help="of transformers")
    proof.add_argument("--tolerance", type=float, metavar="X", help="in place of 1e-5 and 1e-10 of the largest number")
    proof.add_argument("--no-gradients", action="store_true")
    proof.add_argument("--seed", type=int, default=0, metavar="N", help="of the random ids")
    proof.add_argument("--plot", metavar="FILE", help="a figure of the distances by layer, .png or .svg")
    proof.add_argument("--json", action="store_true")
    proof.set_defaults(run=run_parity)

    facts = commands.add_parser(
        "verify", help="which official model is this; the published facts about it",
        description="Tells which official model a checkpoint is, and holds it against everything published about that "
        "one: hidden states, masked words, ids of texts, sizes. A line for each fact: pass, FAIL or not applicable. "
        "Exit 1 when one fails, as it does for weights that were trained further. Nothing is downloaded.",
        epilog="examples: minialbert verify albert_base_v2.tar.gz\n"
        "          minialbert verify DIR --name textattack/albert-base-v2-imdb",
    )  # fmt: skip
    facts.add_argument("path", metavar="PATH", help="a checkpoint of any kind, or a vocabulary alone")
    facts.add_argument("--name", metavar="NAME", help="the model it is meant to be, if its configuration does not say")
    facts.add_argument("--all", action="store_true", help="show facts that do not apply, too")
    facts.add_argument("--json", action="store_true")
    facts.set_defaults(run=run_verify)


def run_parity(given: argparse.Namespace) -> int:
    """Exit 1 when the two differ."""
    if given.plot:
        check_target(given.plot)
    against = tuple(given.against) if given.against else None
    report = parity(
        given.path, against=against, dtype=given.dtype, texts=given.text, tolerance=given.tolerance,
        attention=given.attention, gradients=not given.no_gradients, seed=given.seed, device=given.device,
    )  # fmt: skip
    if given.plot:
        plot(report, given.plot)
    if given.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_table(report, given.points)
    if not report.ok:
        print(f"error: {report.path} differs, first in {' '.join(report.verdict().split())}", file=sys.stderr)
    return 0 if report.ok else 1


def run_verify(given: argparse.Namespace) -> int:
    """Exit 1 when a fact fails."""
    report = verify(given.path, given.name)
    print(json.dumps(report.as_dict(), indent=2) if given.json else "\n".join(report.lines(given.all)))
    return 0 if report.passed else 1


def print_table(report: Report, points: bool) -> None:
    """A line for every layer, with the point that is nearest to its tolerance; or for every point."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    print(f"{report.path} against {report.against}\n{report.model}; {versions}\n")
    head = "", "points", "float32", "float64", "tolerance", "ok", "nearest to its tolerance, or first past it"
    table: list[tuple[str, ...]] = [head]
    for name, rows in report.by_layer():
        worst = next((row for row in rows if not row.ok), max(rows, key=lambda row: row.part))
        told = worst.point if len(rows) > 1 and worst.part else ""
        table.append(_line(name, rows, f"{told}: {worst.note}" if told and worst.note else told or worst.note))
    if points:
        table = [("", *head[2:-1], ""), *(_line(str(row), [row], row.note) for row in report.rows)]
        table[1:] = [(cells[0], *cells[2:]) for cells in table[1:]]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print()
    for line in report.skipped:
        print(f"not compared: {line}")
    wrong = sum(not row.ok for row in report.rows)
    print(f"{len(report.rows)} points, {wrong} past the tolerance; {report.seconds:.1f} s")
    for i, finding in enumerate(report.findings):
        print(f"{'then' if i else 'differs first'}: {finding}")
    if report.ok:
        print("equal")


def _line(name: str, rows: list[Row], note: str) -> tuple[str, ...]:
    """Cells for some rows: in each precision, the one nearest to its tolerance speaks for all."""
    cells, allowed = [], []
    for kind in ("float32", "float64"):
        measured = [row for row in rows if kind in row.distance]
        worst = max(measured, key=lambda row: row.distance[kind] / (row.tolerance[kind] or 1e-300), default=None)
        cells.append("-" if worst is None else f"{worst.distance[kind]:.1e}")
        allowed += [] if worst is None else [f"{worst.tolerance[kind]:.1e}"]
    exact = [row.distance["exact"] for row in rows if "exact" in row.distance]
    if exact:
        wrong = sum(x > 0 for x in exact)
        cells = ["equal" if not wrong else f"{wrong} differ" if len(rows) > 1 else "differs", "-"]
        allowed = ["exact"]
    return name, str(len(rows)), *cells, ", ".join(allowed), "yes" if all(row.ok for row in rows) else "NO", note
