"""The command about speed: bench."""

import argparse
import json
import sys
from typing import Any

import torch

from minialbert.cli.settings import note
from minialbert.errors import InputError
from minialbert.tools.bench import ROWS, bench
from minialbert.tools.bench_measuring import TOLERANCE, figure_of
from minialbert.tools.bench_plot import check_target, plot
from minialbert.tools.bench_vectors import COSINE


def add_commands(commands) -> None:
    speed = commands.add_parser(
        "bench", help="speed side by side with transformers",
        description="Speed side by side with transformers, and with sentence-transformers, onnxruntime and "
        "torch.compile where they are installed, in one run: medians, and in brackets the least and the most. "
        "Exit 1 when the two sides did not compute the same.",
        epilog="examples: minialbert bench --rows corpus dense --repeats 5\n"
        "          minialbert bench --model DIR --texts sentences.txt --plot speed.svg",
    )  # fmt: skip
    speed.add_argument("--model", metavar="REF", help="a model directory; random weights without it")
    speed.add_argument("--preset", default="albert-base-v2", metavar="NAME", help="whose size random weights have")
    speed.add_argument("--rows", nargs="+", metavar="NAME", help=f"some of {', '.join(ROWS)}")
    speed.add_argument("--repeats", type=int, metavar="N", help="rounds that count (3)")
    speed.add_argument("--texts", metavar="F", help="real sentences, a text a line; needs --model")
    speed.add_argument("--count", type=int, metavar="N", help="texts of the corpus rows (96)")
    speed.add_argument("--threads", type=int, metavar="N", help="of torch")
    speed.add_argument("--quick", action="store_true", help="a tiny model and few texts: does it run at all")
    speed.add_argument("--plot", metavar="FILE", help="a figure of the ratios and goals: .png, .svg or .pdf")
    speed.add_argument("--json", action="store_true")
    speed.set_defaults(run=run_bench)


def run_bench(given: argparse.Namespace) -> int:
    """Exit 1 when the two sides did not compute the same; a goal that is missed is a result like any other."""
    if given.plot:
        check_target(given.plot)
    if given.threads is not None:
        if given.threads < 1:
            raise InputError(f"--threads {given.threads} must be at least 1")
        torch.set_num_threads(given.threads)
    found = bench(given.model, given.preset, given.rows, repeats=given.repeats, texts=given.texts, count=given.count,
                  quick=given.quick, say=note)  # fmt: skip
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(found)
    if given.plot:
        plot(found, given.plot)
    different = sorted({row["name"] for row in found["rows"] if not row["equal"]})
    if different:
        most = f"more than {TOLERANCE:g} of the largest value or of the loss, or in bfloat16 a cosine under {COSINE:g}"
        print(f"error: {', '.join(different)}: the sides differ ({most}); see minialbert parity", file=sys.stderr)
    return 1 if different else 0


def print_table(found: dict[str, Any]) -> None:
    machine, corpus, rate = found["machine"], found["corpus"], found["machine"]["matrix products, GFLOP/s"]
    print(f"{machine['system']}, torch {machine['torch']}, {machine['cores']} cores, {machine['threads']} threads")
    print(f"CPU flags: {' '.join(machine['flags']) or 'not told'}; float32 matrix products {_spread(rate)} GFLOP/s")
    others = ", ".join(f"{name} {version}" for name, version in machine["peers"].items())
    print(f"beside {others or 'nothing: no peer is installed'}")
    print(f"{found['model']['name']}, {found['model']['parameters']:,} parameters; corpus: {corpus['texts']} texts, "
          f"{corpus['tokens'] / corpus['texts']:.1f} tokens each, the longest {corpus['longest']}; "
          f"{corpus['repeats']} rounds\n")  # fmt: skip
    table = [("row", "unit", "ours", "theirs", "against", "ratio", "goal", "met")]
    for row in found["rows"]:
        ratio = "-" if row["ratio"] is None else figure_of(row["ratio"])
        met = {True: "yes", False: "no", None: "-"}[row["met"]]
        table.append((row["name"], row["unit"], _spread(row["ours"]), _spread(row["theirs"]), row["peer"], ratio,
                      row["goal"], met))  # fmt: skip
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    said = {f"{row['name']}: {name} {value:.3g}" if value < 0.5 else f"{row['name']}: {name} {value:.6f}": None
            for row in found["rows"] for name, value in row["facts"].items()}  # fmt: skip
    if said:
        print("\n" + "\n".join(said))


def _spread(values: dict[str, float] | None) -> str:
    """A median and its spread, each with three figures that matter."""
    if values is None:
        return "-"
    return f"{_figure(values['median'])} ({_figure(values['low'])}..{_figure(values['high'])})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"
