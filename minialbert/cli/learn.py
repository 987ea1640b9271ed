"""Commands that learn from texts: train-tokenizer, pretrain."""

import argparse
import json
import os
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from minialbert.checkpoints import LOG, best, last
from minialbert.cli.settings import changes_of
from minialbert.config import AlbertConfig
from minialbert.convert import tokenizer_of
from minialbert.embed.texts import read_texts
from minialbert.errors import InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.documents import LAYOUTS
from minialbert.pretrain.examples import Examples, Recipe
from minialbert.pretrain.loop import Run, pretrain
from minialbert.pretrain.plan import Plan, Stage
from minialbert.pretrain.report import check, describe, statistics
from minialbert.pretrain.sop import ORDERS
from minialbert.pretrain.start import head_start
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

    learn = commands.add_parser(
        "pretrain", help="text files to a pre-trained model",
        description="Trains an ALBERT on text files: masked words and sentence order. The same command goes on where a "
        "run was broken off, to the same bits. Under torchrun, prepare the text before: the same command with "
        "--prepare-only, without torchrun.",
        epilog="example: minialbert pretrain corpus.txt --tokenizer vocabulary --config albert-base-v2 "
        "--stage 128:900:64 --stage 512:100:16 --output run --held-out valid.txt",
    )  # fmt: skip
    learn.add_argument("files", nargs="+", metavar="FILE", type=Path, help=".txt, also .gz and .xz")
    learn.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="of this run; one that is there goes on"
    )
    learn.add_argument("--tokenizer", metavar="REF", required=True, help="a vocabulary, as train-tokenizer makes it")
    start = learn.add_mutually_exclusive_group(required=True)
    start.add_argument("--config", metavar="C", help="a new model: an official name, or a file with its sizes")
    start.add_argument(
        "--from", dest="start", metavar="REF", help="a model to go on from, in any format that load takes"
    )
    learn.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="another size; may be given again"
    )
    learn.add_argument("--head-start", action="store_true",
                       help="a new model begins with words counted from the text, and two heads that look at the "
                       "neighbours: it learns several times sooner")  # fmt: skip
    learn.add_argument("--stage", metavar="LENGTH:STEPS:BATCH", action="append", required=True, type=stage_of,
                       help="pieces, updates, examples an update; several are done in turn")  # fmt: skip
    apart = learn.add_mutually_exclusive_group()
    apart.add_argument("--held-out", nargs="+", metavar="FILE", type=Path, help="to measure on, at every checkpoint")
    apart.add_argument("--held-out-share", type=float, metavar="X",
                       help="share of the documents to measure on, and not to train on")  # fmt: skip
    learn.add_argument("--layout", choices=LAYOUTS, default="paragraphs",
                       help="a line is a paragraph, a sentence, or wrapped prose; a blank line between documents, "
                       "in prose two")  # fmt: skip

    learn.add_argument("--order", choices=ORDERS, default="sop",
                       help="the second task: are the segments swapped; is one from elsewhere; none")  # fmt: skip

    learn.add_argument("--google-compat", action="store_true", help="examples as the released models had them")
    learn.add_argument("--optimizer", choices=("lamb", "adamw"), default="lamb")
    learn.add_argument(
        "--peak",
        type=float,
        metavar="X",
        help="the highest learning rate; ALBERT's, scaled by the batch: small models want more, 0.005",
    )
    learn.add_argument("--warmup", type=int, metavar="N", help="updates with a rising rate; 2.5 %% of all")
    learn.add_argument(
        "--clip", type=float, default=1.0, metavar="X", help="a longer gradient is shortened to this length; 0: none"
    )
    learn.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products; weights stay float32"
    )
    learn.add_argument("--seed", type=int, default=0, metavar="N")
    learn.add_argument("--micro-tokens", type=int, default=8192, metavar="N", help="pieces in memory at once")
    learn.add_argument("--recompute", action="store_true", help="less memory, one more forward")
    learn.add_argument("--compile", action="store_true", help="torch.compile")
    learn.add_argument("--workers", type=int, default=0, metavar="N", help="processes that make examples")
    learn.add_argument("--log-every", type=int, default=10, metavar="N", help="updates")
    learn.add_argument("--save-every", type=int, default=500, metavar="N", help="updates")
    learn.add_argument("--device", default="cpu", metavar="NAME")
    learn.add_argument("--until", type=int, metavar="N", help="stop after this update; the same command goes on")
    learn.add_argument("--prepare-only", action="store_true", help="tokenize the text, and tell what examples are like")
    learn.set_defaults(run=run_pretrain)


def stage_of(text: str) -> Stage:
    """LENGTH:STEPS:BATCH."""
    try:
        length, steps, batch = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LENGTH:STEPS:BATCH, such as 128:900:64") from None
    return Stage(length, steps, batch)


def run_pretrain(given: argparse.Namespace) -> int:
    tokenizer = tokenizer_of(given.tokenizer)
    recipe = Recipe(order=given.order, google_compat=given.google_compat)
    plan = Plan(
        tuple(given.stage), recipe, given.optimizer, given.peak, given.warmup, clip=given.clip, dtype=given.dtype,
        sop_weight=0.0 if given.order == "none" else 1.0, seed=given.seed, micro_tokens=given.micro_tokens,
        recompute=given.recompute, compile=given.compile, workers=given.workers, log_every=given.log_every,
        save_every=given.save_every,
    )  # fmt: skip
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    start: AlbertConfig | AlbertForPreTraining
    if given.start:  # before the text, which may take an hour
        start = AlbertForPreTraining.from_pretrained(given.start, **changes_of(given.set))
    else:
        start = new_config(given.config, {"vocab_size": len(tokenizer)} | changes_of(given.set))
    if given.head_start and given.start:
        raise InputError("--head-start is for a new model, and --from has one that is trained; leave one of them out")

    def text(files: list[Path], name: str, part: tuple[float, bool] | None) -> Corpus:
        place = given.output / name
        if not alone:
            return Corpus(place)
        say = lambda counts: print(f"{name}: {counts['tokens']:,} pieces", file=sys.stderr)  # noqa: E731
        return prepare_corpus(files, tokenizer, place, given.layout, max(1, given.workers), progress=say, part=part)

    share = given.held_out_share
    corpus = text(given.files, "corpus", None if share is None else (share, False))
    held_out = None
    if given.held_out or share is not None:
        held_out = text(given.held_out or given.files, "held-out", None if share is None else (share, True))
    found = last(given.output)
    if given.head_start and isinstance(start, AlbertConfig) and found is None:
        torch.manual_seed(plan.seed)
        start = AlbertForPreTraining(start)
        print("counting which words stand together", file=sys.stderr)
        head_start(start, corpus, seed=plan.seed)
    if given.prepare_only:
        run = Run(given.output, start, corpus, tokenizer, plan, held_out, given.device)
        if not run.found:
            run.save()
        print(f"{corpus.describe()}\n{outlook(plan, corpus, run.model)}")
        for stage in plan.stages:
            examples = Examples(corpus, tokenizer, replace(recipe, max_length=stage.length), plan.seed)
            print(f"\nlength {stage.length}\n{describe(statistics(examples, limit=2000))}\n{check(examples)}")
        print(f"\nis all well: minialbert doctor {given.output}")
        return 0
    leader = int(os.environ.get("RANK", "0")) == 0
    if leader:
        print(f"{f'going on from {found}' if found else 'a new run'}; losses: {given.output / LOG}", file=sys.stderr)
    place = pretrain(
        given.output, start, corpus, tokenizer, plan, held_out=held_out, device=given.device, until=given.until
    )
    if leader:
        good = best(given.output)
        print(f"last  {place}" + (f"\nbest  {good}" if good else ""))
    return 0


def outlook(plan: Plan, corpus: Corpus, model: AlbertForPreTraining) -> str:
    """What a run is going to do, and need, in two lines."""
    weights = sum(w.numel() for w in model.parameters())
    seen = sum(stage.length * stage.steps * stage.batch for stage in plan.stages)
    rates = [plan.rate(step) for step in range(0, plan.steps, max(1, plan.steps // 1000))]
    return (
        f"{weights:,} parameters; {plan.steps:,} updates see at most {seen:,} pieces, {seen / corpus.tokens:.2f} times "
        f"the corpus; {plan.optimizer}, highest rate {max(rates):.3g}\n"
        f"weights, gradient, m and v: {weights * 16 / 1e6:,.0f} MB of memory; checkpoint: {weights * 12 / 1e6:,.0f} MB"
    )


def new_config(name: str, changes: dict[str, Any]) -> AlbertConfig:
    """The sizes of a new model: those of an official one or of a file, with some of them changed."""
    if Path(name).is_file():
        return replace(AlbertConfig.from_json(name), **changes)
    return AlbertConfig.preset(name, **changes)


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
