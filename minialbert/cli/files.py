"""Commands that read and write checkpoints: convert."""

import argparse
import dataclasses
import json
from typing import Any

from minialbert.cli.settings import changes_of
from minialbert.convert import Conversion, LoadReport, convert
from minialbert.convert.conversion import CLASSES, TARGETS
from minialbert.errors import CheckpointError

KINDS = ("used", "tied", "derived", "ignored", "missing")


def add_commands(commands) -> None:
    turn = commands.add_parser(
        "convert", help="any official format to Hugging Face's directory, or to Google's checkpoint",
        description="Reads a Google release (.tar.gz, .zip, directory, checkpoint prefix), a hub module, a Hugging "
        "Face directory or a file of tensors; writes a directory that transformers loads (or, with --to google, one "
        "that TensorFlow loads), tells what became of every tensor, and reads it all again: the same numbers, ids and "
        "outputs. Nothing is written when a tensor is missing or the check fails.",
        epilog="example: minialbert convert albert_base_v2.tar.gz albert-base-v2",
    )  # fmt: skip
    turn.add_argument("src", metavar="SRC", help="what to read; also an official name that is on this machine")
    turn.add_argument("dst", metavar="DST", help="a directory that is to be made")
    turn.add_argument("--to", choices=TARGETS, default="hf", help="the format to write")
    turn.add_argument("--config", metavar="C", help="a file or an official name, where SRC has no configuration")
    turn.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                      help="a field of the configuration that is to be another; may be given again")  # fmt: skip
    turn.add_argument("--vocabulary", metavar="F", help="a file or directory, where SRC has no vocabulary")
    turn.add_argument("--class", dest="architecture", choices=list(CLASSES),
                      help="for Hugging Face; by default the one that SRC has the head of")  # fmt: skip
    turn.add_argument("--any-vocabulary", action="store_true", help="accept one much shorter than the word table")
    turn.add_argument("--all", action="store_true", help="list every tensor that is used, too")
    turn.add_argument("--json", action="store_true")
    turn.set_defaults(run=run_convert)


def run_convert(given: argparse.Namespace) -> int:
    """Exit 1, with the table as far as it goes, when something is missing or wrong."""
    try:
        done = convert(
            given.src, given.dst, to=given.to, config=given.config, vocabulary=given.vocabulary,
            architecture=given.architecture, any_vocabulary=given.any_vocabulary, **changes_of(given.set),
        )  # fmt: skip
    except CheckpointError as error:
        if given.json:
            report = dataclasses.asdict(error.report) if error.report else None
            print(json.dumps({"error": str(error), "report": report}, indent=2, ensure_ascii=False))
        elif error.report:
            print(table(error.report, given.all))
        raise
    if given.json:
        print(json.dumps(as_dict(done), indent=2, ensure_ascii=False))
        return 0
    print(table(done.report, given.all))
    print(f"read        {given.src}: {done.source}")
    print(f"written     {done.target}: {len(done.written)} tensors, {done.cls.__name__}")
    print(f"vocabulary  {done.vocabulary}")
    for note in done.notes:
        print(f"note        {note}")
    print(f"checked     every tensor has the same numbers; outputs differ by {done.difference:.1e} at most")
    return 0


def as_dict(done: Conversion) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "source": done.source,
        "target": str(done.target),
        "class": done.cls.__name__,
        "configuration": done.config.to_json(),
        "report": dataclasses.asdict(done.report),
        "vocabulary": done.vocabulary,
        "written": done.written,
        "notes": done.notes,
        "difference": done.difference,
    }


def table(report: LoadReport, everything: bool = False) -> str:
    """Counts of each kind, and the names of all but those that are simply used."""
    lines = []
    for kind in KINDS:
        part = getattr(report, kind)
        lines.append(f"{kind:<9} {len(part):>5}")
        if kind == "used" and everything:
            lines += [f"    {theirs}  ->  {ours}" for theirs, ours in part.items()]
        elif kind == "ignored":
            reasons: dict[str, list[str]] = {}
            for name, why in part.items():
                reasons.setdefault(why, []).append(name)
            lines += [f"    {len(names)} {why}: {_some(names, everything)}" for why, names in reasons.items()]
        elif kind != "used":
            lines += [f"    {name}" for name in part]
    return "\n".join(lines)


def _some(names: list[str], everything: bool) -> str:
    return ", ".join(names if everything else names[:3]) + (", ..." if len(names) > 3 and not everything else "")
