"""Commands about texts: embed, tokenize."""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from minialbert.convert import load, tokenizer_of
from minialbert.embed import BLOCK_TEXTS, Embedder, finished
from minialbert.embed.files import WRITERS, open_writer
from minialbert.embed.pool import POOLINGS, RAGGED, WORD_POOLINGS
from minialbert.embed.post import Post, PostFit
from minialbert.embed.prepare import Lost
from minialbert.embed.shards import ShardWriter
from minialbert.embed.texts import read_texts
from minialbert.errors import InputError


def add_commands(commands) -> None:
    embed = commands.add_parser(
        "embed", help="text to vectors", epilog=(
            'example: minialbert embed "One text." "Another." --layer "mean(-4..-1)" --output vectors.npy'
        ), description="Text to vectors. Texts are arguments or a file's lines; vectors go to stdout, or to a file.",
    )  # fmt: skip
    _input(embed)
    embed.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    embed.add_argument("--output", metavar="F", type=Path, help=".npy .npz .safetensors .jsonl .parquet")
    embed.add_argument("--shards", metavar="DIR", type=Path, help="parts and a manifest; goes on after a kill")
    embed.add_argument("--part", type=int, default=2_000, metavar="N", help="texts in a part of --shards")
    embed.add_argument("--layer", metavar="SPEC",
                       help="-1 (default, unless the model names another for sentences), 3, all, embeddings, "
                       "mean(-4..-1), cat(1,6,-1)")  # fmt: skip
    embed.add_argument("--pooling", default="mean", choices=[p for p in POOLINGS if p != "spans"],
                       help="tokens to a vector; tokens and words give several a text")  # fmt: skip
    embed.add_argument("--word-pooling", default="mean", choices=WORD_POOLINGS, help="pieces to words")
    embed.add_argument("--normalize", action="store_true", help="length 1, the last step")
    embed.add_argument("--center", action="store_true", help="subtract the mean of all vectors")
    embed.add_argument("--standardize", action="store_true", help="center, and variance 1 in each column")
    embed.add_argument("--whiten", nargs="?", const=True, type=int, metavar="K",
                       help="center, and variance 1 in every direction; the K strongest alone")  # fmt: skip
    embed.add_argument("--save-post", metavar="F", type=Path, help="keep the fitted statistics (.safetensors)")
    embed.add_argument("--post", metavar="F", type=Path, help="use statistics kept earlier")
    embed.add_argument("--max-length", type=int, metavar="N", help="tokens, special ones included")
    embed.add_argument("--long", default="cut", choices=("cut", "window", "error"), help="texts beyond that")
    embed.add_argument("--exact", action="store_true", help="the same bits whatever else is embedded; slower")
    embed.add_argument("--batch-tokens", type=int, metavar="N", help="tokens that run together")
    embed.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    embed.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    embed.add_argument("--store", default="float32", choices=("float32", "float16"), help="numbers in the output")
    embed.add_argument("--json", action="store_true", help="JSON lines on stdout (the default without --output)")
    embed.set_defaults(run=run_embed)

    tokenize = commands.add_parser(
        "tokenize", help="pieces, ids, offsets, words",
        epilog='example: minialbert tokenize "It costs 92,000 francs."',
    )  # fmt: skip
    _input(tokenize)
    tokenize.add_argument(
        "--model", metavar="REF", help="what load takes, or a vocabulary file; else the one that ships"
    )
    tokenize.add_argument("--flavor", choices=("hf", "google"), help="whose rules; hf is the default")
    tokenize.add_argument("--json", action="store_true", help="a JSON object a text")
    tokenize.set_defaults(run=run_tokenize)


def _input(command: argparse.ArgumentParser) -> None:
    command.add_argument("texts", nargs="*", metavar="TEXT")
    command.add_argument(
        "--input",
        metavar="F",
        help=".txt (a text a line), .jsonl, both also .gz .xz; - is stdin, JSON lines if --field is given",
    )
    command.add_argument("--field", metavar="NAME", help="which field of .jsonl is the text")


def _texts(given: argparse.Namespace) -> Iterable[str]:
    if given.texts and given.input:
        raise InputError("texts are given both as arguments and with --input; which ones?")
    if given.input:
        return read_texts(given.input, given.field)
    if not given.texts:
        raise InputError("no text: give some as arguments, or a file with --input (- for stdin)")
    # what the shell passes may be no UTF-8: Python keeps such bytes as lone surrogates, here they become U+FFFD
    return [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in given.texts]


def run_embed(given: argparse.Namespace) -> int:
    fits = {"center": given.center, "standardize": given.standardize, "whiten": given.whiten}
    fitted = any(value is not None and value is not False for value in fits.values())
    _check(given, fitted)
    texts = _texts(given)
    model, tokenizer = load(given.model)
    embed = Embedder(model, tokenizer, batch_tokens=given.batch_tokens, device=given.device,
                     dtype=getattr(torch, given.dtype))  # fmt: skip
    layer, pooling = embed.default(given.layer, given.pooling), given.pooling
    origin = embed.provenance(layer, pooling, long=given.long, max_length=embed.limit(given.max_length),
                              word_pooling=given.word_pooling if pooling == "words" else None)  # fmt: skip
    post = Post.load(given.post) if given.post else None
    if post:
        post.check({**origin})
    options = {"word_pooling": given.word_pooling, "max_length": given.max_length, "long": given.long,
               "exact": given.exact}  # fmt: skip
    record = origin | {"normalize": given.normalize, "exact": given.exact}
    if post or fitted:
        record["post"] = (
            post.steps if post else [name for name, value in fits.items() if value is not None and value is not False]
        )
    shape = embed.row_shape(layer)
    if (post or fitted) and (len(shape) > 1 or pooling in RAGGED):
        raise InputError("centring and whitening are for one vector a text: one layer, mean(...) or cat(...)")

    print(tokenizer.describe(), file=sys.stderr)
    lost = Lost()
    started = time.perf_counter()
    if given.shards:
        width = post.width if post else shape[-1]
        with ShardWriter(given.shards, record, width, given.part, pooling in RAGGED, given.store) as out:
            if out.done_texts:
                print(f"going on after {out.done_texts} texts", file=sys.stderr)
            blocks = _blocks(embed, out.skip(texts), layer, pooling, _block(given.part), lost, post=post,
                             normalize=given.normalize, **options)  # fmt: skip
            for some, block in blocks:
                out.write(block.vectors, some, block.items)
    else:
        ragged = pooling if pooling in RAGGED else False
        if fitted:
            source = _fit(given, embed, texts, layer, pooling, lost, options, fits, origin)
            width, source = source[0].width, source[1]
        else:
            width = post.width if post else shape[-1]
            pairs = _blocks(embed, texts, layer, pooling, BLOCK_TEXTS, lost, post=post, normalize=given.normalize,
                            **options)  # fmt: skip
            source = ((some, block.vectors, block.items) for some, block in pairs)
        with open_writer(given.output, record, width, ragged, given.store) as out:
            for some, vectors, items in source:
                out.write(vectors, some, items)
    _summary(given, lost, embed.limit(given.max_length), time.perf_counter() - started)
    return 0


def _check(given: argparse.Namespace, fitted: bool) -> None:
    """Options that do not go together."""
    if given.output and given.shards:
        raise InputError("--output and --shards: choose one")
    if given.json and (given.output or given.shards):
        raise InputError("--json writes to stdout; leave it out, or name a .jsonl file as --output")
    if fitted and given.post:
        raise InputError("--post has its own steps; leave --center, --standardize and --whiten out")
    if fitted and given.shards:
        raise InputError("fit on a sample first (--save-post F), then give --post F with --shards")
    if given.output and given.output.suffix.lower() not in WRITERS:
        raise InputError(f"{given.output}: unknown ending, vectors are written to {', '.join(WRITERS)}")
    if given.save_post and given.save_post.suffix != ".safetensors":
        raise InputError(f"{given.save_post}: statistics are kept in a .safetensors file")
    if given.save_post and not fitted:
        raise InputError("--save-post keeps what --center, --standardize or --whiten fitted; none was asked for")


def _block(part: int) -> int:
    """How many texts to embed together: they must end where a part ends, or a run that goes on has other blocks."""
    return next(n for n in range(min(part, BLOCK_TEXTS), 0, -1) if part % n == 0)


def _blocks(embed: Embedder, texts: Iterable[str], layer, pooling, size: int, lost: Lost, **options) -> Iterator:
    """Texts with their vectors, block by block, with a progress bar on stderr."""
    kept: list[list[str]] = []

    def remembered() -> Iterator[str]:
        for number, text in enumerate(texts):
            if number % size == 0:
                kept.append([])
            kept[-1].append(text)
            yield text

    with tqdm(unit=" texts", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for block in embed.stream(remembered(), layer, pooling, block_texts=size, **options):
            lost.add(block.cut)
            bar.update(len(block.cut))
            yield kept.pop(0), block


def _fit(given, embed: Embedder, texts, layer, pooling, lost, options, fits, origin):
    """Embed everything, fit on it, and hand out the vectors again, changed; meanwhile they wait in a temporary file."""
    fitting = PostFit(embed.row_shape(layer)[0], fits["whiten"], center=fits["center"], standardize=fits["standardize"])
    waiting, count = tempfile.TemporaryFile(), 0  # noqa: SIM115  # lives as long as the generator below
    for some, block in _blocks(embed, texts, layer, pooling, BLOCK_TEXTS, lost, **options):
        fitting.add(block.vectors)
        pickle.dump((some, block.vectors), waiting)
        count += 1
    post = fitting.finish(origin)
    if given.save_post:
        post.save(given.save_post)

    def again() -> Iterator:
        waiting.seek(0)
        for _ in range(count):
            some, vectors = pickle.load(waiting)
            yield some, finished(vectors, post, given.normalize, given.exact), None

    return post, again()


def _summary(given: argparse.Namespace, lost: Lost, limit: int, seconds: float) -> None:
    if lost.cut:
        print(f"warning: {lost.line(limit)}", file=sys.stderr)
    target = given.output or given.shards
    if target:
        print(f"{lost.texts} texts in {seconds:.1f} s to {target}", file=sys.stderr)


def run_tokenize(given: argparse.Namespace) -> int:
    tokenizer = tokenizer_of(given.model, flavor=given.flavor)
    print(tokenizer.describe(), file=sys.stderr)
    for text in _texts(given):
        encoding = tokenizer(text, padding=False)
        rows = list(zip(encoding.tokens[0], encoding.input_ids[0], encoding.offsets[0], encoding.word_ids[0],
                        strict=True))  # fmt: skip
        if given.json:
            keys = ("piece", "id", "offset", "word")
            print(json.dumps({"text": text, "tokens": [dict(zip(keys, row, strict=True)) for row in rows]},
                             ensure_ascii=False))  # fmt: skip
            continue
        print(f"{'piece':<20} {'id':>6}  {'chars':>9}  {'word':>4}  source")
        for piece, number, (start, end), word in rows:
            at = f"{start}:{end}" if word is not None else ""
            print(f"{piece:<20} {number:>6}  {at:>9}  {'' if word is None else word:>4}  {text[start:end]!r}")
    return 0
