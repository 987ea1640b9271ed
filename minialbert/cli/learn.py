"""Commands that learn from texts: train-tokenizer."""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

from minialbert.embed.texts import read_texts
from minialbert.tokenizers.train import SIGNS, Report, train_tokenizer


def add_commands(commands) -> None:
    words = commands.add_parser(
        "train-tokenizer", help="a vocabulary from texts, with ALBERT's recipe",
        description="Learns a SentencePiece vocabulary from texts and saves it as a directory that minialbert and "
        "transformers read. Prints the first ids, and how well it fits texts that were held out. The same files, in "
        "the same order, with the same options give the same bytes.",
        epilog="examples: minialbert train-tokenizer corpus.txt --output vocabulary\n"
        "          minialbert train-tokenizer part-*.jsonl.gz --output vocabulary --size 8000 --keep-accents",
    )  # fmt: skip
    words.add_argument("files", nargs="+", metavar="FILE", help=".txt (a text a line) or .jsonl, also .gz and .xz; -")
    words.add_argument("--output", metavar="DIR", type=Path, required=True, help="a directory that is to be made")
    words.add_argument("--field", metavar="NAME", help="which field of .jsonl is the text")
    words.add_argument("--size", type=int, default=30_000, metavar="N", help="pieces")
    words.add_argument("--keep-case", action="store_true", help="do not lower-case")
    words.add_argument("--keep-accents", action="store_true", help="é stays é; most languages but English want this")
    words.add_argument("--flavor", choices=("hf", "google"), default="hf", help="whose rules of cleaning")
    words.add_argument("--signs", default=" ".join(SIGNS), metavar="LIST",
                       help="what is always a piece by itself, with spaces between; '' for nothing")  # fmt: skip
    words.add_argument("--coverage", type=float, default=0.99995, metavar="X",
                       help="the rarest characters, beyond this share of the text, stay unknown")  # fmt: skip
    words.add_argument("--held-out", type=float, default=0.01, metavar="X", help="share of the texts to measure on")
    words.add_argument(
        "--sample",
        type=int,
        default=10_000_000,
        metavar="N",
        help="texts to learn from, at most; they need 20 times their size of memory",
    )
    words.add_argument("--seed", type=int, default=0, metavar="N", help="of what is held out and of the sample")
    words.add_argument("--threads", type=int, default=16, metavar="N", help="another number, other last digits")
    words.add_argument("--json", action="store_true")
    words.set_defaults(run=run_train_tokenizer)


def run_train_tokenizer(given: argparse.Namespace) -> int:
    readers = [read_texts(file, given.field) for file in given.files]  # a name that is wrong is told before the work
    report = train_tokenizer(
        chain.from_iterable(readers), given.output, size=given.size, lower_case=not given.keep_case,
        keep_accents=given.keep_accents, user_defined=given.signs.split(), character_coverage=given.coverage,
        flavor=given.flavor, held_out=given.held_out, sample=given.sample, seed=given.seed, threads=given.threads,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    if given.json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return 0
    print("\n".join(lines_of(report)))
    print(f'use it: minialbert tokenize --model {given.output} "Some text."')
    return 0


def lines_of(report: Report) -> list[str]:
    lost = ", ".join(f"{character} {count:,}" for character, count in report.unknown_characters.items())
    signs = ", ".join(f"{sign} {count:,}" for sign, count in report.signs.items())
    return [
        f"{report.directory}: {report.options.size:,} pieces, spiece.model sha256 {report.digest}",
        *(f"{number:>6}  {piece:<12}{kind}".rstrip() for number, piece, kind in report.first),
        f"trained on       {report.trained_on:,} of {report.texts:,} texts, in {report.seconds:.1f} s",
        f"user-defined     {signs or 'none'}",
        f"measured on      {report.measured_on:,} {'held-out' if report.held_out else 'of the training'} texts",
        f"unknown          {report.unknown:.4%} of the tokens" + (f": {lost}" if lost else ""),
        f"tokens per word  {report.tokens_per_word:.3f}",
        f"bytes per token  {report.bytes_per_token:.3f}",
    ]
