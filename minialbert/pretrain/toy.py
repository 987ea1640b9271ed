"""A world small enough to be learnt in a minute, and the experiment that shows it: both losses of ALBERT fall.

A document is a story of sentences "time name verb the thing", such as "may clara paints the fence":

    times follow each other, month by month     which segment came first can be told: sentence order
    the name stays for a whole story            a masked name can be copied from another sentence
    the verb decides the thing                  each of the two can be told from the other

Some stories go on from december to january, so that no month by itself proves what came first: two must be compared.
With the special pieces the vocabulary has 43 entries. loop.py trains on it, as on any text. The whole experiment, which
exits 1 when a run has not learnt both:

    python -m minialbert.pretrain.toy [--seeds 4] [--optimizers adamw lamb] [--steps 1400] [--output DIR]
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from minialbert.config import AlbertConfig
from minialbert.errors import CheckpointError, InputError, MiniAlbertError
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.examples import Examples, Recipe
from minialbert.pretrain.loop import HELD_OUT_SEED, pretrain
from minialbert.pretrain.plan import Plan, Stage
from minialbert.pretrain.sop import IN_ORDER, SWAPPED
from minialbert.tokenizers import Tokenizer, WordPieceTokenizer
from minialbert.training import read_log
from minialbert.whole import whole_file, writing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TIMES = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
NAMES = ("anna", "ben", "clara", "david", "emma", "felix", "greta", "hugo", "ida")
THINGS = {
    "paints": "fence", "reads": "letter", "bakes": "bread", "feeds": "horse",
    "mends": "roof", "waters": "garden", "sings": "song", "sails": "boat",
}  # fmt: skip
VOCABULARY = (*SPECIAL, "the", *TIMES, *NAMES, *THINGS, *THINGS.values())
SENTENCES = 7  # of a story, each a month after the one before
STARTS = 8  # a story begins in one of the first eight months: two of them lead into the next year

CONFIG = AlbertConfig(
    vocab_size=len(VOCABULARY), embedding_size=32, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=256, max_position_embeddings=40,
    initializer_range=0.07,  # what counts is the deviation times sqrt(H): this is ALBERT's 0.02 for H = 768
)  # fmt: skip
RECIPE = Recipe(ngram=1, short=0.0)  # words are masked one by one: a run of three hides both the verb and its thing

# ---- the world ----


def stories(count: int, seed: int = 0, sentences: int = SENTENCES, starts: int = STARTS) -> list[list[str]]:
    """Documents, each a list of sentences. The same ones for a seed, and the first ones of a longer list.

    starts: in how many months, january first, a story may begin. With so few that none goes past december, a late month
    in front is a sign of a swap by itself, and order is learnt sooner; with all 12 no month is a sign, and it is learnt
    much later. Raises InputError.
    """
    for name, value, low, high in (("sentences", sentences, 2, len(TIMES) - 1), ("starts", starts, 1, len(TIMES))):
        if not low <= value <= high:
            raise InputError(f"{name}={value} must be from {low} to {high}")
    if count < 0 or seed < 0:
        raise InputError(f"count={count}, seed={seed}: expected neither to be negative")
    draws = np.random.default_rng(seed).random((count, 2 + sentences)).tolist()
    return [story(int(start * starts), name, verbs) for start, name, *verbs in draws]


def story(first: int, name: float, verbs: Sequence[float]) -> list[str]:
    """A story: the month in which it begins; whose it is and what is done, from numbers between 0 and 1."""
    who, deeds = NAMES[int(name * len(NAMES))], list(THINGS)
    chosen = [deeds[int(verb * len(deeds))] for verb in verbs]
    return [f"{month(first + i)} {who} {verb} the {THINGS[verb]}" for i, verb in enumerate(chosen)]


def month(number: int) -> str:
    return TIMES[number % len(TIMES)]


class World(NamedTuple):
    """What a run needs: the vocabulary, the text to learn from, and stories of the same world that are not in it."""

    tokenizer: Tokenizer
    corpus: Corpus
    held_out: Corpus
    length: int  # of an example: [CLS], a story of five words a sentence, two [SEP]; so each holds a whole story
    starts: int  # in how many months a story may begin


def split(training: int, held_out: int, seed: int = 0, **shape: int) -> tuple[list[list[str]], list[list[str]]]:
    """Stories to learn from, and others, none of which is among them. Raises InputError if there are not so many."""
    known = stories(training, seed, **shape)
    there = set(map(tuple, known))
    unseen = [story for story in stories(2 * held_out, seed + 1, **shape) if tuple(story) not in there][:held_out]
    if len(unseen) < held_out:
        raise InputError(f"training={training} stories leave too few of this world for held_out={held_out}; take fewer")
    return known, unseen


def write_world(
    directory: str | Path,
    training: int = 4000,
    held_out: int = 1000,
    *,
    sentences: int = SENTENCES,
    starts: int = STARTS,
) -> World:
    """Writes vocab.txt, stories.txt and held-out.txt (a sentence a line), and tokenizes both texts; or finds it all.

    training, held_out: how many stories. Raises InputError, FileError, CheckpointError for another world's directory.
    """
    directory = Path(directory)
    known, unseen = split(training, held_out, sentences=sentences, starts=starts)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "vocab.txt", "\n".join(VOCABULARY))
    names = {"stories": known, "held-out": unseen}
    for name, told in names.items():
        write_text(directory / f"{name}.txt", "\n\n".join("\n".join(story) for story in told))
    tokenizer = WordPieceTokenizer(directory / "vocab.txt")
    corpora = [prepare_corpus([directory / f"{name}.txt"], tokenizer, directory / name, "sentences") for name in names]
    return World(tokenizer, corpora[0], corpora[1], 5 * sentences + 3, starts)


def write_text(path: Path, text: str) -> None:
    """Writes a file, or finds it there. Raises CheckpointError for another text: runs may have been made from it."""
    data = f"{text}\n".encode()
    if path.exists() and path.read_bytes() != data:
        raise CheckpointError(f"{path}: is of another world than the one to be written; use a new directory")
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


# ---- what can be known of it ----


def best_possible(world: World, count: int = 1024) -> dict[str, float]:
    """The accuracies, named as in measure.py, of a reader who knows the rules and sees what the model sees.

    Not 1: a segment of one sentence says nothing of order when its month is masked, nor does a sentence whose verb and
    thing are both masked say which they were.
    """
    examples = Examples(world.held_out, world.tokenizer, replace(RECIPE, max_length=world.length), HELD_OUT_SEED)
    orders = words = total = 0
    for row in islice(examples.stream(), count):
        masked, turn, label, *_ = examples.example(*row)
        places = [*range(1, turn - 1), *range(turn, len(masked.ids) - 1)]  # without [CLS] and [SEP]
        seen = world.tokenizer.convert_ids_to_tokens(masked.ids[places].tolist())
        order, guess = restored([seen[i : i + 5] for i in range(0, len(seen), 5)], (turn - 2) // 5, world.starts)
        ids = masked.ids.copy()
        ids[places] = world.tokenizer.convert_tokens_to_ids([word for sentence in guess for word in sentence])
        orders += order == label
        words += int((ids[masked.positions] == masked.labels).sum())
        total += len(masked.positions)
    return {"sop_accuracy": orders / count, "mlm_accuracy": words / total}


def restored(seen: list[list[str]], border: int, starts: int) -> tuple[int, list[list[str]]]:
    """The likeliest order and words of a pair: its sentences as seen, of which `border` are in the first segment."""
    size = len(seen)
    places = {IN_ORDER: [*range(size)], SWAPPED: [*range(size - border, size), *range(size - border)]}
    tried = [(order, first) for order in places for first in range(starts)]

    def agree(way: tuple[int, int]) -> int:
        order, first = way
        return sum(month(first + place) == time for place, (time, *_) in zip(places[order], seen, strict=True))

    order, first = max(tried, key=agree)
    name = max(NAMES, key=[who for _, who, *_ in seen].count)
    verb_of = {thing: verb for verb, thing in THINGS.items()}
    guess = []
    for place, (_, _, verb, _, thing) in zip(places[order], seen, strict=True):
        deed = verb_of.get(thing) or (verb if verb in THINGS else next(iter(THINGS)))
        guess.append([month(first + place), name, deed, "the", THINGS.get(verb) or THINGS[deed]])
    return order, guess


# ---- one run ----

STEPS, BATCH = 1400, 32
PEAK = {"adamw": 2e-3, "lamb": 1e-2}
WARMUP = 700  # steps. Google's AdamW has no bias correction, so early steps are up to 3 times as long as the rate says
GOALS = {"sop_accuracy": 0.95, "mlm_accuracy": 0.85}
WINDOW, LEVEL = 50, 0.6  # the plateau of sentence order, ln 2 = 0.693, is left when the mean of so many steps is below


class Outcome(NamedTuple):
    """A finished run: the rows of its log, one a step; the figures on stories it has never seen, as measure.py says."""

    seed: int
    optimizer: str
    curve: list[dict[str, Any]]
    held_out: dict[str, float]

    @property
    def left(self) -> int | None:
        return left_plateau([row["sop_loss"] for row in self.curve])

    @property
    def seconds(self) -> float:
        """What the updates took, by the clock; more than usual on a machine with other work."""
        return sum(row["tokens"] / row["tokens_per_second"] for row in self.curve)

    @property
    def passed(self) -> bool:
        return all(self.held_out[name] > goal for name, goal in GOALS.items())


def left_plateau(losses: Sequence[float]) -> int | None:
    """The first step at which the mean sentence-order loss of the last WINDOW steps is below LEVEL; None if never.

    >>> left_plateau([0.693] * 300 + [0.1] * 300)
    308
    """
    sums = np.cumsum([0.0, *losses])
    below = np.flatnonzero(sums[WINDOW:] - sums[:-WINDOW] < WINDOW * LEVEL)
    return int(below[0]) + WINDOW if len(below) else None


def plan_for(optimizer: str, seed: int, steps: int, length: int, **changes: Any) -> Plan:
    """The plan of a run; changes: other fields of it. Raises InputError."""
    if optimizer not in PEAK:
        raise InputError(f"optimizer={optimizer!r} must be one of {', '.join(PEAK)}")
    usual: dict[str, Any] = {
        "recipe": RECIPE, "peak": PEAK[optimizer], "warmup": min(WARMUP, steps // 2),
        "log_every": 1, "save_every": steps, "keep_last": 1,
    }  # fmt: skip
    return Plan((Stage(length, steps, BATCH),), optimizer=optimizer, seed=seed, **(usual | changes))


def train(
    directory: str | Path,
    seed: int = 0,
    optimizer: str = "adamw",
    steps: int = STEPS,
    config: AlbertConfig = CONFIG,
    world: World | None = None,
    **changes: Any,
) -> Outcome:
    """Pre-trains a model in directory/runs/; or goes on, or finds it done. The usual world is written into `directory`.

    changes: other fields of the Plan, such as recipe=replace(RECIPE, order="nsp"); a run with another plan needs
    another directory. Raises what write_world and pretrain raise.
    """
    world = world or write_world(directory)
    plan = plan_for(optimizer, seed, steps, world.length, **changes)
    run = Path(directory) / "runs" / f"{optimizer}-{seed}"
    pretrain(run, config, world.corpus, world.tokenizer, plan, held_out=world.held_out, progress=False)
    rows = read_log(run)
    figures = {name.removeprefix("held_out/"): x for name, x in rows[-1].items() if name.startswith("held_out/")}
    return Outcome(seed, optimizer, [row for row in rows if "loss" in row], figures)


# ---- the experiment ----

COLUMNS = ("seed", "optimizer", "order right", "words right", "left ln 2", "seconds", "")


def line_of(run: Outcome) -> list[str]:
    """A run as the cells of COLUMNS."""
    figures = [f"{run.held_out[name]:.3f}" for name in GOALS]
    left = f"step {run.left}" if run.left else "never"
    return [str(run.seed), run.optimizer, *figures, left, f"{run.seconds:.0f}", "pass" if run.passed else "FAIL"]


def experiment(directory: Path, seeds: int, optimizers: Sequence[str], steps: int) -> bool:
    """All runs, one after the other; prints a line for each as it ends. True if every one has reached the GOALS."""
    best = best_possible(write_world(directory))
    print(f"{CONFIG.count_parameters()['pretraining']:,} parameters, {steps} steps of {BATCH} stories")
    print("to pass:  order above {sop_accuracy:.3f}, words above {mlm_accuracy:.3f}".format(**GOALS))
    print("possible: order about {sop_accuracy:.3f}, words about {mlm_accuracy:.3f}".format(**best))
    print("".join(f"{name:<13}" for name in COLUMNS).rstrip())
    good = True
    for optimizer in optimizers:
        for seed in range(seeds):
            run = train(directory, seed, optimizer, steps)
            print("".join(f"{cell:<13}" for cell in line_of(run)).rstrip(), flush=True)
            good &= run.passed
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """The experiment from the command line, on one thread: exit 0 if all runs pass, 1 if one fails, 2 for errors."""
    parser = argparse.ArgumentParser(prog="python -m minialbert.pretrain.toy", description="learns a world of 43 words")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="runs with each optimizer: seeds 0 to N - 1")
    parser.add_argument("--optimizers", nargs="+", choices=PEAK, default=list(PEAK), metavar="NAME")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keeps the runs; a second time it goes on in them")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            good = experiment(given.output or Path(scratch), given.seeds, given.optimizers, given.steps)
    except MiniAlbertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("pass" if good else "FAIL: see the lines above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
