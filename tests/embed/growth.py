"""What it takes to embed a corpus twice as large: twice the time, and the same memory.

    python -m tests.embed.growth --texts 100000
    python -m tests.embed.growth --texts 100000 --shards --model MODEL

N and then 2 N sentences go through `minialbert embed --input`, each in a process of its own that is watched from
outside (tests/pretrain/memory.py). No sentence comes twice, but for a few short ones; a seeded grammar makes them, in
lengths as English has them. Seconds of processors say more than seconds where the machine has other work.
"""

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minialbert.convert import tokenizer_of
from tests.pretrain.memory import Taken, watch

TIME, MEMORY = 2.1, 1.1  # the most that twice the texts may take: of processor seconds, of memory at the peak
COUNTED = 2000  # sentences whose tokens are counted
MEAN, SPREAD, SHORTEST, LONGEST = 2.7, 0.6, 4, 80  # of the logarithm of a sentence's words; and at least, at most

WORDS = """
the a this that every some each another no one

old new small large early late long short public private local foreign strong weak simple rich poor bright dark quiet
famous recent final common rare heavy light cold warm young

man woman child king queen doctor teacher writer soldier farmer friend city village river mountain street house school
church market garden bridge train ship letter book story song picture door window table machine company government
minister court army war peace law tax price bank money year night morning winter summer storm field forest animal horse
dog bird tree stone water fire question answer problem reason idea plan result

saw found took gave brought kept left built sold bought wrote read heard followed reached crossed opened closed painted
described remembered forgot lost won changed moved carried answered met helped watched

in on near under behind before after with without for from through beside against during

Anna Peter Maria John Paris London Berlin Alice Robert Clara Henry Vienna Boston Emma
"""
DETERMINERS, ADJECTIVES, NOUNS, VERBS, PREPOSITIONS, NAMES = (block.split() for block in WORDS.split("\n\n"))
LINKS = [", and", ", but", ", while", ", because", " when", " although", ", so", " until", " as if"]


# ---- text ----


def phrase(rng: random.Random) -> list[str]:
    """A noun and what stands around it: 1 to 7 words."""
    if rng.random() < 0.12:
        return [rng.choice(NAMES)]
    words = [rng.choice(DETERMINERS), *rng.choices(ADJECTIVES, k=rng.choice((0, 0, 1, 1, 2))), rng.choice(NOUNS)]
    if rng.random() < 0.25:
        words += [rng.choice(PREPOSITIONS), "the", rng.choice(NOUNS)]
    return words


def sentence(rng: random.Random) -> str:
    """Clauses up to a length that is drawn first: the logarithms of lengths are normal, as of sentences in books."""
    words: list[str] = []
    wanted = min(max(rng.lognormvariate(MEAN, SPREAD), SHORTEST), LONGEST)
    while True:
        words += [*phrase(rng), rng.choice(VERBS), *phrase(rng)]
        while len(words) < wanted and rng.random() < 0.4:
            words += [rng.choice(PREPOSITIONS), *phrase(rng)]
        if len(words) >= wanted:
            break
        words[-1] += rng.choice(LINKS)
    if rng.random() < 0.1:
        words += ["in", str(rng.randint(1500, 2020))]
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choices(".?!", (18, 1, 1))[0]


def sentences(seed: int = 0) -> Iterator[str]:
    """Without end; the same again for the same seed."""
    rng = random.Random(seed)
    while True:
        yield sentence(rng)


def write_texts(path: Path, count: int) -> None:
    """The first `count` sentences, a line each."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in itertools.islice(sentences(), count))


def about(count: int, model: str | None) -> str:
    """A line about the first `count` sentences."""
    some = list(itertools.islice(sentences(), count))
    lengths = [len(ids) for ids in tokenizer_of(model)(some, padding=False).input_ids]
    low, high = np.percentile(lengths, [5, 95])
    return (
        f"{np.mean(lengths):.1f} tokens a sentence, nine in ten have {low:.0f} to {high:.0f}; "
        f"{len(set(some))} of {count} differ, as: {some[0]}"
    )


# ---- figures ----


def embed(texts: Path, options: list[str]) -> Taken:
    """What `minialbert embed` takes for a file, from its start to its end."""
    return watch([sys.executable, "-m", "minialbert", "embed", "--input", str(texts), *options])


def verdict(once: Taken, twice: Taken) -> list[str]:
    """What grew more than it may, a line each."""
    grown = {"seconds of processors": (twice.processors / once.processors, TIME),
             "memory at the peak": (twice.peak / once.peak, MEMORY)}  # fmt: skip
    return [f"{name} grew {by:.2f} times, at most {most} expected" for name, (by, most) in grown.items() if by > most]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.embed.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=100_000, metavar="N", help="and then twice as many")
    parser.add_argument("--shards", action="store_true", help="write parts and a manifest in place of one .npy")
    parser.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    parser.add_argument("--layer", default="-1", metavar="SPEC", help="-1, so that every layer runs")
    given = parser.parse_args(arguments)
    options = ["--layer", given.layer, *(["--model", given.model] if given.model else [])]
    print(about(min(COUNTED, given.texts), given.model), flush=True)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in (given.texts, 2 * given.texts):
            texts, out = Path(temporary) / "texts.txt", Path(temporary) / f"vectors-{count}"
            write_texts(texts, count)
            taken = embed(texts, [*(("--shards", f"{out}") if given.shards else ("--output", f"{out}.npy")), *options])
            runs.append(taken)
            print(
                f"{count:,} texts: {taken.seconds:,.1f} s, of processors {taken.processors:,.1f} s; "
                f"{count / taken.seconds:,.0f} a second, {count / taken.processors:,.0f} a processor's second; "
                f"at most {taken.peak / 1e6:.1f} MB",
                flush=True,
            )
    once, twice = runs
    print(
        f"twice the texts: {twice.seconds / once.seconds:.2f} times the seconds, "
        f"{twice.processors / once.processors:.2f} times those of processors, "
        f"{twice.peak / once.peak:.3f} times the memory ({(twice.peak - once.peak) / 1e6:+.1f} MB)"
    )
    failed = verdict(once, twice)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
