"""Masked words: whole, within the budget, never special, never twice, and undone by their labels."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.pretrain.masking import (
    Masker,
    Masking,
    budget_of,
    chances,
    choose,
    starts_word,
    starts_word_google,
    starts_word_wordpiece,
    unmask,
    words_in,
)
from tests.conftest import GOLDEN

RECORDED = json.loads((GOLDEN / "pretraining-data-google" / "statistics.json").read_text())
FEW = settings(max_examples=50, deadline=None)
V, CLS, SEP, MASK = 40, 2, 3, 4
SPECIAL = range(5)
STARTS = np.arange(V) % 3 != 0  # two ids of three start a word
OTHERS = np.arange(5, V)


def masker(**rules) -> Masker:
    return Masker(STARTS, MASK, SPECIAL, OTHERS, Masking(**rules))


@st.composite
def sequences(draw) -> np.ndarray:
    """[CLS] A [SEP] B [SEP] of any ordinary pieces."""
    a, b = (draw(st.lists(st.integers(5, V - 1), max_size=60)) for _ in range(2))
    return np.array([CLS, *a, SEP, *b, SEP])


RULES = st.fixed_dictionaries({
    "probability": st.floats(0, 1), "max_predictions": st.integers(1, 30), "ngram": st.integers(1, 5),
    "favor_longer": st.booleans(), "whole_words": st.booleans(), "per_span": st.booleans(), "cross": st.booleans(),
})  # fmt: skip


@given(sequences(), RULES, st.integers(0, 1 << 32))
@FEW
def test_labels_put_back_give_the_sequence_and_no_special_piece_is_touched(ids, rules, seed):
    before = ids.copy()
    found = masker(**rules)(ids, np.random.default_rng(seed))
    assert (ids == before).all(), "the input is not changed"
    assert (unmask(found.ids, found.positions, found.labels) == ids).all()
    assert not np.isin(found.labels, SPECIAL).any()
    assert np.isin(found.ids[found.positions], [MASK, *OTHERS]).all(), "and none is put in"
    assert (np.diff(found.positions) > 0).all()


@given(sequences(), RULES, st.integers(0, 1 << 32))
@FEW
def test_runs_never_overlap_and_keep_to_the_budget(ids, rules, seed):
    found = masker(**rules)(ids, np.random.default_rng(seed))
    slots = [slot for draw in found.draws if draw.taken for slot in range(draw.start, draw.stop)]
    assert len(slots) == len(set(slots)) == len(found.positions) <= budget_of(len(ids), Masking(**rules))
    assert all(0 <= draw.taken <= draw.drawn <= min(draw.room, rules["ngram"]) for draw in found.draws)


@given(sequences(), RULES, st.integers(0, 1 << 32))
@FEW
def test_words_are_masked_whole_and_runs_stay_within_a_segment(ids, rules, seed):
    rules |= {"whole_words": True, "cross": False}
    found = masker(**rules)(ids, np.random.default_rng(seed))
    chosen = set(found.positions.tolist())
    for position in chosen:
        for neighbour in (position - 1, position + 1):
            later = max(position, neighbour)
            if not np.isin(ids[[position, neighbour]], SPECIAL).any() and not STARTS[ids[later]]:
                assert neighbour in chosen, "a continuation goes with its word"
    places = np.flatnonzero(~np.isin(ids, SPECIAL))
    for draw in found.draws:
        run = places[draw.start : draw.stop]
        assert run[-1] - run[0] == len(run) - 1


@given(sequences(), st.integers(0, 1 << 32))
@FEW
def test_the_same_seed_gives_the_same_bytes(ids, seed):
    first, second = (masker()(ids, np.random.default_rng(seed)) for _ in range(2))
    assert first.ids.tobytes() == second.ids.tobytes() and first.draws == second.draws


def test_a_sequence_of_special_pieces_has_nothing_to_guess():
    found = masker()(np.array([CLS, SEP, SEP]), np.random.default_rng(0))
    assert len(found.positions) == len(found.labels) == 0 and (found.ids == [CLS, SEP, SEP]).all()


def test_words_by_hand():
    ids = np.array([CLS, 6, 7, 9, 8, SEP, 12, 10, SEP])  # 6, 9 and 12 go on with a word
    maskable = np.isin(np.arange(V), SPECIAL, invert=True)
    places, borders, left = words_in(ids, STARTS, maskable, Masking())
    assert places.tolist() == [1, 2, 3, 4, 6, 7]
    assert borders.tolist() == [0, 1, 3, 4, 5, 6], "words: 6 | 7 9 | 8 || 12 | 10"
    assert left.tolist() == [3, 2, 1, 2, 1], "a run may not go on over [SEP]"
    _, borders, left = words_in(ids, STARTS, maskable, Masking(cross=True))
    assert borders.tolist() == [0, 1, 3, 5, 6], "as in Google's program the 12 belongs to the 8 before [SEP]"
    assert left.tolist() == [4, 3, 2, 1]
    assert words_in(ids, STARTS, maskable, Masking(whole_words=False))[1].tolist() == list(range(7))


def test_the_budget_is_googles_formula():
    assert RECORDED["expected_by_formula"]["target_predictions"].startswith("min(20, max(1, round_half_even(0.15")
    rules = Masking(max_predictions=20)
    assert [budget_of(n, rules) for n in (1, 10, 30, 50, 64, 133, 512)] == [1, 2, 4, 8, 10, 20, 20]
    assert budget_of(512, Masking(max_predictions=77)) == 77


def test_n_is_drawn_with_one_over_n():
    assert chances(3, False)[3] == pytest.approx([6 / 11, 9 / 11])
    assert chances(3, True)[3] == pytest.approx([2 / 11, 5 / 11])
    assert chances(3, False)[2] == pytest.approx([2 / 3]) and chances(3, False)[1] == []
    borders, rng = list(range(2001)), np.random.default_rng(0)
    counts: Counter[int] = Counter()
    for _ in range(40):  # 2000 words of one piece, so that hardly any run is near an end
        draws = choose(borders, [2000 - w for w in range(2000)], 300, Masking(), rng)
        counts.update(draw.drawn for draw in draws)
    total = sum(counts.values())
    for n, share in RECORDED["expected_by_formula"]["ngram_drawn_share_favor_shorter"].items():
        assert counts[int(n)] / total == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5)


@pytest.mark.parametrize("per_span", [False, True])
def test_eighty_ten_ten_for_each_piece_or_for_each_run(per_span):
    rng, make = np.random.default_rng(0), masker(per_span=per_span, max_predictions=300)
    fates: Counter[str] = Counter()
    mixed = runs = 0
    ids = np.array([CLS, *np.random.default_rng(1).integers(5, V, 2000), SEP])
    for _ in range(60):
        found = make(ids, rng)
        seen = found.ids[found.positions]
        fate = np.where(seen == MASK, "mask", np.where(seen == found.labels, "same", "other"))
        fates.update(fate.tolist())
        for draw in found.draws:
            if draw.taken and draw.stop - draw.start > 1:
                inside = fate[np.searchsorted(found.positions, range(draw.start + 1, draw.stop + 1))] == "mask"
                mixed, runs = mixed + (0 < inside.sum() < len(inside)), runs + 1
    total = sum(fates.values())
    near = 0.03 if per_span else 0.012
    assert fates["mask"] / total == pytest.approx(0.8, abs=near)
    assert fates["same"] / total == pytest.approx(0.1 + 0.1 / len(OTHERS), abs=near)
    assert (mixed == 0) if per_span else (mixed / runs > 0.25)


def test_word_starts_as_in_googles_recorded_examples():
    for piece, starts in RECORDED["start_piece_examples"].items():
        assert starts_word_google(piece) == starts, piece
    for piece, starts in RECORDED["wordpiece_start_examples"].items():
        assert starts_word_wordpiece(piece) == starts, piece


def test_our_rule_for_words_is_a_readers():
    starts = {"▁the": True, "ing": False, "2": False, "é": False, "ß": False, "\u0301": False, ",": True, "'": True,
              "(": True, "“": True, "€": True, "▁": True, "中": True, "の": True, "n't": False}  # fmt: skip
    assert {piece: starts_word(piece) for piece in starts} == starts
