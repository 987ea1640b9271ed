"""Segment pairs: neighbours of one document, a label that is never a guess, every sentence used."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import heads
from minialbert.pretrain.sop import IN_ORDER, NO_LABEL, RANDOM, SWAPPED, cut, pairs, stretch, swapped

FEW = settings(max_examples=50, deadline=None)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)
SEEDS = st.integers(0, 1 << 32)
OTHER = (1000, 1003)  # a stretch of another document


def made(lengths, seed, room=61, **how):
    return list(pairs(lengths, room, np.random.default_rng(seed), elsewhere=lambda wanted: OTHER, **how))


def test_labels_are_those_of_the_head():
    assert (IN_ORDER, SWAPPED, NO_LABEL) == (heads.IN_ORDER, heads.SWAPPED, heads.IGNORED)


@given(LENGTHS, SEEDS)
@FEW
def test_both_segments_are_neighbours_in_the_document_and_the_label_says_which_is_first(lengths, seed):
    for pair in made(lengths, seed):
        if len(lengths) == 1:
            assert pair == ((0, 1), (1, 1), NO_LABEL, "single")
        else:
            earlier, later = (pair.second, pair.first) if pair.label == SWAPPED else (pair.first, pair.second)
            assert pair.label in (IN_ORDER, SWAPPED)
            assert 0 <= earlier[0] < earlier[1] == later[0] < later[1] <= len(lengths)


@given(LENGTHS, SEEDS, st.sampled_from(["sop", "none"]), st.booleans())
@FEW
def test_every_sentence_is_used_and_only_the_one_before_the_last_can_be_used_twice(lengths, seed, order, google):
    found = [r for pair in made(lengths, seed, order=order, google_compat=google) for r in (pair.first, pair.second)]
    used = sorted(sentence for start, stop in found if (start, stop) != OTHER for sentence in range(start, stop))
    repeated = sorted({a for a, b in pairwise(used) if a == b})
    assert sorted(set(used)) == list(range(len(lengths)))
    assert not repeated or (repeated == [len(lengths) - 2] and order == "sop" and not google)


@given(LENGTHS, SEEDS)
@FEW
def test_swapping_twice_restores_the_pair(lengths, seed):
    for pair in made(lengths, seed):
        if pair.kind != "single":
            assert swapped(swapped(pair)) == pair != swapped(pair)
            assert swapped(pair).label == 1 - pair.label and swapped(pair).first == pair.second


@given(LENGTHS, SEEDS, st.sampled_from(["sop", "nsp"]))
@FEW
def test_google_compat_labels_single_sentences_one_with_a_stranger_beside_them(lengths, seed, order):
    for pair in made(lengths, seed, order=order, google_compat=True):
        sentences = sum(stop - start for start, stop in (pair.first, pair.second))
        if pair.kind == "random":
            assert pair.second == OTHER and pair.label == RANDOM
            assert order == "nsp" or pair.first[1] - pair.first[0] == 1
        else:
            assert sentences > 1 and pair.label in ((0,) if order == "nsp" else (0, 1))


@given(LENGTHS, SEEDS)
@FEW
def test_next_sentence_pairs_end_and_single_sentences_have_no_label(lengths, seed):
    found = made(lengths, seed, order="nsp")
    assert {pair.kind for pair in found} <= ({"single"} if len(lengths) == 1 else {"in order", "random"})
    assert all(pair.label == (pair.kind == "random") for pair in found if pair.kind != "single")


@given(LENGTHS, SEEDS)
@FEW
def test_without_order_there_is_one_segment_and_no_label(lengths, seed):
    for pair in made(lengths, seed, order="none"):
        assert pair.label == NO_LABEL and pair.second[0] == pair.second[1] and pair.first[0] < pair.first[1]


@given(LENGTHS, SEEDS, st.booleans())
@FEW
def test_next_sentence_pairs_use_every_sentence(lengths, seed, google):
    found = [r for pair in made(lengths, seed, order="nsp", google_compat=google) for r in (pair.first, pair.second)]
    assert {i for start, stop in found if (start, stop) != OTHER for i in range(start, stop)} == set(
        range(len(lengths))
    )


@given(LENGTHS, SEEDS, st.booleans())
@FEW
def test_without_another_document_nothing_is_labelled_random(lengths, seed, google):
    found = pairs(lengths, 61, np.random.default_rng(seed), "nsp", google_compat=google)
    assert "random" not in {pair.kind for pair in found}


@pytest.mark.parametrize("order", ["sop", "nsp"])
def test_the_label_is_a_fair_coin(order):
    labels = [pair.label for seed in range(60) for pair in made([20] * 100, seed, order=order)]
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / len(labels) ** 0.5)


def test_one_chunk_in_ten_is_short():
    found = [pair for seed in range(100) for pair in made([1] * 1000, seed)]
    sizes = np.array([pair.first[1] - pair.first[0] + pair.second[1] - pair.second[0] for pair in found])
    assert np.mean(sizes < 61) == pytest.approx(0.1 + 0.9 * 100 / len(found), abs=0.02), "and the end of each document"
    assert sizes.min() == 2 and sizes.max() == 61


@given(st.integers(0, 80), st.integers(0, 80), st.integers(2, 100), SEEDS)
@FEW
def test_cutting_takes_from_the_longer_piece_by_piece_and_from_the_second_on_ties(a, b, room, seed):
    (a0, a1), (b0, b1) = cut(a, b, room, np.random.default_rng(seed))
    assert 0 <= a0 <= a1 <= a and 0 <= b0 <= b1 <= b
    want = [a, b]
    while sum(want) > room:
        want[want[0] <= want[1]] -= 1
    assert [a1 - a0, b1 - b0] == want


def test_cutting_takes_from_both_ends_alike():
    rng = np.random.default_rng(0)
    fronts = [cut(30, 10, 30, rng)[0][0] for _ in range(2000)]  # 10 pieces go from the first segment
    assert np.mean(fronts) == pytest.approx(5, abs=0.2) and np.var(fronts) == pytest.approx(2.5, abs=0.4)


@given(LENGTHS, st.integers(-20, 100), SEEDS)
@FEW
def test_a_stretch_is_as_long_as_wanted_or_reaches_the_end(lengths, wanted, seed):
    start, stop = stretch(lengths, wanted, np.random.default_rng(seed))
    assert 0 <= start < stop <= len(lengths)
    assert sum(lengths[start:stop]) >= wanted or stop == len(lengths)
    assert stop == start + 1 or sum(lengths[start : stop - 1]) < wanted
