"""Which layers, pooling and post-processing make good sentence vectors: a model's pairs of sentences scored every way.

    python -m tests.embed.sweep choose.tsv report.tsv [--model REF] [--against REF]

Both files have a header and the columns score, sentence1, sentence2. The way is chosen on the first and told for both,
as the Spearman correlation of cosines and scores; centring, standardizing and whitening are fitted on the sentences of
the first. Beside it: averaged random vectors, cosines of TF-IDF, and other models. weights/README.md has its figures.
"""

import argparse
import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.embed.post import Post
from minialbert.finetune.metrics import cosines, spearman

POSTS = ({}, {"center": True}, {"standardize": True}, {"whiten": 32}, {"whiten": 64}, {"whiten": 128})


class Pairs(NamedTuple):
    """Scores [N], and the two sentences of each pair."""

    scores: np.ndarray
    first: list[str]
    second: list[str]


def read_pairs(path: Path) -> Pairs:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return Pairs(
        np.array([float(row["score"]) for row in rows]),
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
    )


def words_of(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def tf_idf(pairs: Pairs, known: Pairs) -> np.ndarray:
    """Cosines of word counts, each weighted by log(N / how many sentences of `known` have it)."""
    texts = [Counter(words_of(text)) for text in (*known.first, *known.second)]
    found = Counter(word for counts in texts for word in counts)
    idf = lambda word: math.log((1 + len(texts)) / (1 + found[word])) + 1  # noqa: E731

    def cosine(a: str, b: str) -> float:
        x, y = ({w: n * idf(w) for w, n in Counter(words_of(text)).items()} for text in (a, b))
        lengths = math.hypot(*x.values()) * math.hypot(*y.values())
        return sum(value * y.get(word, 0.0) for word, value in x.items()) / max(lengths, 1e-12)

    return np.array([cosine(a, b) for a, b in zip(pairs.first, pairs.second, strict=True)])


def random_vectors(pairs: Pairs, width: int = 256, seed: int = 0) -> np.ndarray:
    """Cosines of means of random vectors, one for each word."""
    rng = np.random.default_rng(seed)
    table: dict[str, np.ndarray] = {}

    def mean(text: str) -> np.ndarray:
        rows = [table.setdefault(word, rng.standard_normal(width)) for word in words_of(text)]
        return np.mean(rows or [np.zeros(width)], axis=0)

    return cosines(np.stack([mean(t) for t in pairs.first]), np.stack([mean(t) for t in pairs.second]))


# ---- the sweep ----


def mixes(L: int) -> Iterator[tuple[str, slice]]:
    """Every run of layers 0..L, as the Embedder writes it."""
    for start in range(L + 1):
        for stop in range(start, L + 1):
            yield (str(start) if start == stop else f"mean({start}..{stop})"), slice(start, stop + 1)


def sweep(ref: str | None, choose: Pairs, report: Pairs) -> list[tuple[float, float, str]]:
    """(Spearman on choose, on report, the way) for every way, the best on `choose` first."""
    embed = Embedder(*load(ref))
    found = []
    for pooling in ("mean", "cls", "max"):
        sides = [
            embed(texts, "all", pooling, progress=False) for p in (choose, report) for texts in (p.first, p.second)
        ]
        for name, layers in mixes(embed.model.config.num_visits):
            mixed = [side[:, layers].mean(1) for side in sides]  # [N, H]
            for how in POSTS:
                vectors = mixed
                if how and not any(width > mixed[0].shape[1] for width in how.values()):
                    post = Post.fit(np.concatenate(mixed[:2]), **how)
                    vectors = [post.apply(v) for v in mixed]
                a, b = (cosines(*vectors[i : i + 2]) for i in (0, 2))
                told = " ".join(f"{k}" if v is True else f"{k} {v}" for k, v in how.items())
                way = f"layer {name}, {pooling}" + (f", {told}" if told else "")
                found.append((spearman(a, choose.scores), spearman(b, report.scores), way))
    return sorted(found, reverse=True)


def plain(ref: str | None, *pairs: Pairs) -> list[float]:
    """A model's last layer, averaged."""
    embed = Embedder(*load(ref))
    return [
        spearman(cosines(*(embed(texts, progress=False) for texts in (p.first, p.second))), p.scores) for p in pairs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choose", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--model", metavar="REF")
    parser.add_argument("--against", metavar="REF", action="append", default=[])
    parser.add_argument("--show", type=int, default=12, metavar="N")
    given = parser.parse_args()
    choose, report = read_pairs(given.choose), read_pairs(given.report)
    print(f"{'choose':>7} {'report':>7}  Spearman on {len(choose.scores)} and {len(report.scores)} pairs")
    rows = [(*(spearman(random_vectors(p), p.scores) for p in (choose, report)), "random vectors of words, averaged")]
    rows += [(*(spearman(tf_idf(p, choose), p.scores) for p in (choose, report)), "TF-IDF")]
    rows += [(*plain(ref, choose, report), f"{Path(ref).name}, last layer, mean") for ref in given.against]
    rows += [(*plain(given.model, choose, report), "this model, last layer, mean")]
    for a, b, way in rows + sweep(given.model, choose, report)[: given.show]:
        print(f"{a:7.3f} {b:7.3f}  {way}")


if __name__ == "__main__":
    main()
