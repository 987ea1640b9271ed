"""Commands over vectors: drift compares two models, search finds texts."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from minialbert.cli.settings import note
from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.embed.shards import ShardReader
from minialbert.embed.texts import read_texts
from minialbert.errors import InputError
from minialbert.finetune.columns import Sentence
from minialbert.finetune.tasks import load_tuned, read
from minialbert.tools.drift import MOST, POOLINGS, distinct, drift
from minialbert.tools.search import (
    Hit,
    Part,
    embedder_like,
    judge_of,
    opened_shards,
    options_of,
    parts_of_shards,
    parts_of_texts,
    rerank,
    search,
)


def add_commands(commands) -> None:
    moved = commands.add_parser(
        "drift", help="what tuning changed in the vectors",
        description="The vectors of the same texts from two models, layer by layer: the mean cosine of a text with "
        "itself, how far it moved (|after - before| / |before|), CKA (1: the same but for a turn, a scale, a shift), "
        "and how many of the nearest texts still are; then which texts moved most and which pairs became or stopped "
        "being neighbours. The models may have other tokenizers and sizes; what needs one width is then left out.",
        epilog="example: minialbert drift minialbert-tiny-en run --input texts.txt",
    )  # fmt: skip
    moved.add_argument("before", metavar="BEFORE", help="what load takes, or a run of finetune")
    moved.add_argument("after", metavar="AFTER", help="the same")
    moved.add_argument("--input", metavar="F", required=True, help="the texts to compare, best some hundreds of the "
                       "kind you will embed: .txt (a text a line), .jsonl, -, or a data file of finetune, of which "
                       "labels are left aside")  # fmt: skip
    moved.add_argument("--field", metavar="NAME", help="which field of .jsonl is the text")
    moved.add_argument(
        "--columns", metavar="ROLE=NAME,...", help="of a table: text=NAME, and pair=NAME, as in finetune"
    )
    moved.add_argument("--layers", nargs="+", type=int, metavar="N", help="0, 3, -1 (the last of each); all both have")
    moved.add_argument("--pooling", default="mean", choices=POOLINGS, help="tokens to a vector")
    moved.add_argument("--neighbours", type=int, metavar="K", help="how many nearest texts are compared: 10")
    moved.add_argument("--top", type=int, default=5, metavar="N", help="how many texts and pairs are told")
    moved.add_argument("--most", type=int, default=MOST, metavar="N", help="the first N different texts are compared")
    moved.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    moved.add_argument("--json", action="store_true")
    moved.set_defaults(run=run_drift)

    find = commands.add_parser(
        "search", help="the texts nearest to a query",
        description="The texts of a file that are nearest to a query by the cosine of their vectors, all compared, in "
        "bounded memory; or of a directory that `embed --shards` wrote, in less time. A pair model that was "
        "fine-tuned (question and answer, text and paraphrase) can look again at the best and put them in order.",
        epilog='examples: minialbert search "Who was king?" --input corpus.txt\n'
        '          minialbert search "Who was king?" --shards vectors --input corpus.txt --rerank run --label yes',
    )  # fmt: skip
    find.add_argument("queries", nargs="+", metavar="QUERY")
    find.add_argument("--input", metavar="F", help="the texts to search in: .txt (a text a line), .jsonl, -; with "
                      "--shards those they were made from, to be shown")  # fmt: skip
    find.add_argument("--field", metavar="NAME", help="which field of .jsonl is the text")
    find.add_argument("--shards", metavar="DIR", type=Path, help="vectors written by embed --shards")
    find.add_argument(
        "--model", metavar="REF", help="what load takes, or a run of finetune; the one that ships if none"
    )
    find.add_argument("--layer", metavar="SPEC", help="as in embed; what the model says is best, or else the last")
    find.add_argument("--pooling", choices=POOLINGS, help="tokens to a vector: mean")
    find.add_argument("--max-length", type=int, metavar="N", help="tokens, special ones included")
    find.add_argument("--top", type=int, default=10, metavar="N", help="how many texts to show")
    find.add_argument("--rerank", metavar="RUN", help="a fine-tuned pair model that puts the nearest in its order")
    find.add_argument("--label", metavar="NAME", help="of --rerank: the label whose probability counts")
    find.add_argument("--candidates", type=int, default=50, metavar="N", help="of --rerank: so many of the nearest")
    find.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    find.add_argument("--json", action="store_true", help="a JSON object a query")
    find.set_defaults(run=run_search)


# ---- drift ----


def run_drift(given: argparse.Namespace) -> int:
    texts, more = distinct(_texts(given), given.most)
    if more:
        note(f"{given.input}: the first {len(texts):,} different texts are compared (--most)")
    before, after = (Embedder(*load(ref), device=given.device) for ref in (given.before, given.after))
    depths = [embed.model.config.num_visits for embed in (before, after)]
    if given.layers is None and depths[0] != depths[1]:
        note(f"{depths[0]} layers before, {depths[1]} after: those that both have are compared (--layers -1: the last)")
    found = drift(before, after, texts, given.layers, given.pooling, given.neighbours, given.top)
    print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if given.json else "\n".join(found.lines()))
    return 0


def _texts(given: argparse.Namespace) -> Iterator[str]:
    """The texts of a file of texts, or of a data file, both of a pair, and sentences of tagged words."""
    endings = [ending for ending in Path(given.input).suffixes if ending not in (".gz", ".xz")]
    if not endings or endings[-1].lower() in (".txt", ".jsonl"):
        if given.columns:
            raise InputError(f"--columns is for tables; {given.input} is a file of texts (--field for .jsonl)")
        yield from read_texts(given.input, given.field)
        return
    if given.field:
        raise InputError(f"--field is for .jsonl; name the columns of {given.input} with --columns text=NAME")
    for example in read(given.input, labelled=False, columns=given.columns).examples:
        names = ("text", "pair", "question", "context")
        found = [" ".join(example.words)] if isinstance(example, Sentence) else [getattr(example, n, "") for n in names]
        yield from filter(None, found)


# ---- search ----


def run_search(given: argparse.Namespace) -> int:
    _check(given)
    tuned = load_tuned(given.rerank) if given.rerank else None
    if tuned:
        judge_of(tuned[2], given.label)  # what cannot be ordered by is told before the search
        tuned[0].to(given.device or "cpu")
    texts = read_texts(given.input, given.field) if given.input else None
    if given.shards:
        reader: ShardReader = opened_shards(given.shards)
        embed = embedder_like(reader, *load(given.model), device=given.device)
        options, parts = options_of(reader), parts_of_shards(reader, texts)
    else:
        assert texts is not None  # _check
        embed = Embedder(*load(given.model), device=given.device)
        options = {"layer": given.layer, "pooling": given.pooling or "mean", "max_length": given.max_length}
        parts = parts_of_texts(embed, texts, **options)
    queries = [query.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for query in given.queries]
    pooling = options.get("pooling", "mean")
    note(f"layer {embed.layers(options.get('layer'), pooling).name}, {pooling}")
    many = max(given.top, given.candidates) if tuned else given.top
    found = search(embed, queries, _counted(parts), many, **options)
    if not any(found):
        raise InputError(f"{given.input or given.shards}: has no text to find")
    for query, hits in zip(queries, found, strict=True):
        best = rerank(*tuned, query, hits, given.label)[: given.top] if tuned else hits
        print(_told(given, query, best), flush=True)
    return 0


def _check(given: argparse.Namespace) -> None:
    """Options that do not go together."""
    if not (given.input or given.shards):
        raise InputError("search where? Give a file of texts (--input F), vectors (--shards DIR), or both")
    for name in ("layer", "pooling", "max_length") if given.shards else ():
        if getattr(given, name) is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is for texts; vectors in --shards have theirs, and the query gets the same")
    if given.rerank and not given.input:
        raise InputError("--rerank reads texts, shards have none; give those they were made from too (--input F)")
    if given.label and not given.rerank:
        raise InputError("--label is for --rerank RUN")


def _counted(parts: Iterable[Part]) -> Iterator[Part]:
    with tqdm(unit=" texts", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        for part in parts:
            yield part
            bar.update(len(part.vectors))


def _told(given: argparse.Namespace, query: str, hits: list[Hit]) -> str:
    """What was found for a query, as a table or as JSON."""
    if given.json:
        return json.dumps({"query": query, "hits": [hit._asdict() for hit in hits]}, ensure_ascii=False)
    judged = f"{(given.label or 'score')[:8]:>8}" if given.rerank else ""
    lines = [query, f"{judged}{'cosine':>8}{'text':>8}"]
    for hit in hits:
        first = "" if hit.judged is None else f"{hit.judged:>8.4f}"
        lines.append(f"{first}{hit.cosine:>8.4f}{hit.number:>8}  {' '.join((hit.text or '').split())}".rstrip())
    return "\n".join(lines)
