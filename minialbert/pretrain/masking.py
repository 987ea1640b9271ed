"""Masked words: which pieces of a sequence the model must guess, and what it sees in their place.

Words are masked whole, in runs of n = 1, 2 or 3 words with p(n) ~ 1/n (Lan et al. 2020, section 3.1), until 15 % of the
pieces are chosen. Of the chosen pieces 80 % become [MASK], 10 % stay, 10 % become another piece (Devlin et al. 2019).
The guessing head is heads.MLMHead; sop.py makes the sequences, examples.py brings both together.

All randomness is `rng.random`, numbers between 0 and 1: few calls, and the same bytes from every version of NumPy.
"""

import bisect
import functools
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MARK = "▁"  # SentencePiece writes the space before a word so


@dataclass(frozen=True)
class Masking:
    """The rules. The defaults are the paper's; `max_predictions` is the number of slots M of an example."""

    probability: float = 0.15  # share of the pieces, [CLS] and [SEP] counted in
    max_predictions: int = 77
    ngram: int = 3  # the longest run of words
    favor_longer: bool = False  # turn p(n) ~ 1/n around
    whole_words: bool = True
    masked: float = 0.8
    kept: float = 0.1  # the rest becomes another piece
    per_span: bool = False  # one draw of the 80/10/10 for each run of words, not for each piece
    cross: bool = False  # may a run of words go on over a [SEP]? (Google's program)


class Draw(NamedTuple):
    """One attempt to mask a run of words, kept for the report."""

    start: int  # slots start:stop
    stop: int
    room: int  # how many words the run could have had, `ngram` at most
    drawn: int
    taken: int  # 0: dropped, and `why`
    why: str = ""  # "covered": touches a run already chosen; "too long": even one word is over the budget


class Masked(NamedTuple):
    """ids [T] as the model sees them; positions [M], rising, and the pieces that stood there; every attempt made."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    draws: list[Draw]


# ---- where words start ----

GOOGLE_PUNCTUATION = frozenset(
    '!"#$%&()*+,-./:;?@[\\]^_`{|}~'
)  # the list of Google's program: no quotation mark ', no = < >


def starts_word(piece: str) -> bool:
    """Does a word start with this SentencePiece piece?

    It does at the mark, at anything but a letter or a digit (punctuation stands alone), and at a character of a script
    that puts no spaces between words.
    """
    first = piece[:1]
    no_spaces = "\u2e80" <= first <= "\ua4cf" or "\uf900" <= first <= "\ufaff" or first >= "\U00020000"
    return first == MARK or no_spaces or unicodedata.category(first or " ")[0] not in "LNM"


def starts_word_google(piece: str) -> bool:
    """The rule of Google's program, as measured: also digits and letters outside a-z start a word, "[" does not.

    A piece starts a word if it begins with the mark or "<", is one punctuation character, or holds any character that
    is neither a-z (case ignored) nor punctuation.
    """
    if piece.startswith((MARK, "<")) or piece in GOOGLE_PUNCTUATION:
        return True
    return any(not ("a" <= c <= "z" or c in GOOGLE_PUNCTUATION) for c in piece.lower())


def starts_word_wordpiece(piece: str) -> bool:
    """In BERT's vocabularies what goes on with a word says so."""
    return not piece.startswith("##")


# ---- which pieces ----


def budget_of(length: int, rules: Masking) -> int:
    """How many pieces of a sequence are guessed; `length` counts [CLS] and [SEP]. Halves go to the even number."""
    return min(rules.max_predictions, max(1, round(rules.probability * length)))


def words_in(ids: np.ndarray, starts: np.ndarray, maskable: np.ndarray, rules: Masking):
    """The words of a sequence, as (places [C], borders [W + 1], left [W]).

    places: the positions that may be masked; word w has the slots borders[w]:borders[w + 1] of it; left[w] is how many
    words a run that begins with w could have.
    `starts`, `maskable`: tables [V], which ids start a word and which may be masked.
    """
    places = maskable[ids].nonzero()[0]
    begins = starts[ids[places]] if rules.whole_words else np.ones(len(places), dtype=bool)
    begins[:1] = True
    gaps = (places[1:] - places[:-1] > 1).nonzero()[0] + 1  # slots after a [SEP], or whatever else is never masked
    if rules.cross:
        gaps = gaps[:0]
    begins[gaps] = True
    first = begins.nonzero()[0]
    ends = np.concatenate([first.searchsorted(gaps), [len(first)]])  # words with which a stretch between gaps is over
    numbers = np.arange(len(first))
    left = ends[ends.searchsorted(numbers, side="right")] - numbers
    return places, np.concatenate([first, [len(places)]]), left


@functools.cache
def chances(ngram: int, favor_longer: bool) -> list[list[float]]:
    """For each room r = 0..ngram: the borders p(1), p(1) + p(2), ... when a run can have at most r words."""
    weights = [1 / n for n in range(1, ngram + 1)]
    if favor_longer:
        weights.reverse()
    return [[sum(weights[:n]) / sum(weights[:room]) for n in range(1, room)] for room in range(ngram + 1)]


def choose(borders: Sequence[int], left: Sequence[int], budget: int, rules: Masking, rng) -> list[Draw]:
    """Runs of whole words until the budget is used up. Runs never overlap.

    Words are tried in random order as the first of a run of n. A run too long for what is left of the budget gets
    shorter, word by word; one that touches a run already chosen is dropped.
    """
    order, luck = rng.random((2, len(left)))
    table = chances(rules.ngram, rules.favor_longer)
    taken = bytearray(borders[-1])
    draws = []
    for w in order.argsort().tolist():
        if not budget:
            break
        room = min(left[w], rules.ngram)
        drawn = words = 1 + bisect.bisect_right(table[room], luck[w])
        while words > 1 and borders[w + words] - borders[w] > budget:
            words -= 1
        start, stop = borders[w], borders[w + words]
        if stop - start > budget:
            draws.append(Draw(start, stop, room, drawn, 0, "too long"))
        elif any(taken[start:stop]):
            draws.append(Draw(start, stop, room, drawn, 0, "covered"))
        else:
            draws.append(Draw(start, stop, room, drawn, words))
            taken[start:stop] = b"\1" * (stop - start)
            budget -= stop - start
    return draws


# ---- what stands in their place ----


class Masker:
    """Masks sequences by the rules. Made once for a vocabulary.

    `starts` [V]: which ids start a word (see starts_word); `never`: ids that are never masked; `others`: ids that may
    stand in place of a chosen piece; `mask_id`: [MASK].
    """

    def __init__(
        self, starts: np.ndarray, mask_id: int, never: Collection[int], others: np.ndarray, rules: Masking | None = None
    ):
        self.rules, self.mask_id = rules or Masking(), mask_id
        self.starts = np.asarray(starts, dtype=bool)
        self.maskable = np.ones(len(self.starts), dtype=bool)
        self.maskable[list(never)] = False
        self.others = np.asarray(others)

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Masked:
        """One sequence [T], its [CLS] and [SEP] included, without padding."""
        rules = self.rules
        places, borders, left = words_in(ids, self.starts, self.maskable, rules)
        draws = choose(borders.tolist(), left.tolist(), budget_of(len(ids), rules), rules, rng)
        runs = sorted((draw.start, draw.stop) for draw in draws if draw.taken)
        slots = np.array([slot for start, stop in runs for slot in range(start, stop)], dtype=np.int64)
        positions = places[slots]
        labels = ids[positions]

        fate, which = rng.random((2, len(positions)))
        if rules.per_span:
            fate = fate[np.repeat(np.arange(len(runs)), [stop - start for start, stop in runs])]
        seen = labels.copy()
        seen[fate < rules.masked] = self.mask_id
        random = fate >= rules.masked + rules.kept
        seen[random] = self.others[(which[random] * len(self.others)).astype(np.int64)]
        ids = ids.copy()
        ids[positions] = seen
        return Masked(ids, positions, labels, draws)


def unmask(ids: np.ndarray, positions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The sequence as it was: the labels put back at their positions."""
    ids = ids.copy()
    ids[positions] = labels
    return ids
