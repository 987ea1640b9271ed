"""The command that asks how a pre-training run is: doctor."""

import argparse
import json
from pathlib import Path

from minialbert.pretrain.doctor import examine


def add_commands(commands) -> None:
    health = commands.add_parser(
        "doctor", help="is this pre-training run healthy",
        description="Reads the directory of a run, before its first step (pretrain --prepare-only makes it), during it "
        "or after it, and prints one page: data, plan, start, whether a batch can be learnt by heart, losses, "
        "gradients, collapse, speed. Each line states what was measured and what was expected. Nothing is written into "
        "the directory. Exit 1 when something is wrong.",
        epilog="example: minialbert doctor run\n"
        "         minialbert doctor run --no-heart --json",
    )  # fmt: skip
    health.add_argument("directory", metavar="RUN", type=Path, help="a directory, the --output of pretrain")
    health.add_argument("--no-heart", action="store_true", help="do not learn a batch by heart, which takes longest")
    health.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="N",
        help="for the batch, at most; as many again for a new model beside one that fails",
    )
    health.add_argument("--device", default="cpu", metavar="NAME", help="where the model runs")
    health.add_argument("--json", action="store_true")
    health.set_defaults(run=run_doctor)


def run_doctor(given: argparse.Namespace) -> int:
    """Exit 1 when a finding is "wrong"."""
    report = examine(given.directory, heart=not given.no_heart, seconds=given.seconds, device=given.device)
    print(json.dumps(report.as_dict(), indent=2) if given.json else "\n".join(report.lines()))
    return 0 if report.healthy else 1
