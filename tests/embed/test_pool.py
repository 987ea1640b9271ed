"""The grammar of layers, and poolings against plain loops."""

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minialbert.embed import pool
from minialbert.embed.pool import Layers, parse_layers, pool_pieces, pool_texts
from minialbert.errors import InputError, NameUnknown

GOOD = {
    -1: ((12,), "one"), "3": ((3,), "one"), 0: ((0,), "one"), -13: ((0,), "one"), " -2 ": ((11,), "one"),
    "mean(-4..-1)": ((9, 10, 11, 12), "mean"), "cat(1,6,-1)": ((1, 6, 12), "cat"),
    "mean(0, 3..5)": ((0, 3, 4, 5), "mean"),
    "all": (tuple(range(13)), "all"), "embeddings": ((-1,), "one"), "cat(-1)": ((12,), "cat"),
    "cat(2,2)": ((2, 2), "cat"),
}  # fmt: skip
BAD = {
    "1..4": "did you mean mean(1..4) or cat(1..4)?", "-4:-1": "did you mean mean(-4..-1)",
    "1-4": "did you mean mean(1..4)",
    "13": "layers 0..12", "-14": "-13..-1", "mean()": "expected a number", "last": "expected a number",
    "mean(4..1)": "must rise", "cat(1,x)": "'x' is not a whole number", "sum(1,2)": "expected a number", "": "expected",
    "mean(1..2..3)": "must rise", "mean(1.5)": "not a whole number",
}  # fmt: skip


@pytest.mark.parametrize("spec", GOOD)
def test_layers_are_read(spec):
    assert parse_layers(spec, L=12) == Layers(*GOOD[spec])


@pytest.mark.parametrize("spec", BAD)
def test_what_is_no_layer_is_refused_with_what_was_meant(spec):
    with pytest.raises(InputError) as caught:
        parse_layers(spec, L=12)
    assert BAD[spec] in str(caught.value)


@given(st.sampled_from([k for k in GOOD if k != "embeddings"]))
def test_the_name_of_layers_reads_back_to_the_same_layers(spec):
    layers = parse_layers(spec, 12)
    assert parse_layers(layers.name, 12) == layers and "-" not in layers.name


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(pool).failed == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.sampled_from(["mean", "cls", "max"]))
def test_texts_are_pooled_as_a_loop_would(lengths, how):
    x = torch.randn(sum(lengths), 3, dtype=torch.float64)
    parts = x.split(lengths)
    want = [p.mean(0) if how == "mean" else p[0] if how == "cls" else p.amax(0) for p in parts]
    assert torch.allclose(pool_texts(x, lengths, how), torch.stack(want), atol=1e-12)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6),
    st.sampled_from(["mean", "first", "last", "sum", "max", "first+last"]),
)
def test_pieces_are_pooled_as_a_loop_would(groups, how):
    x = torch.randn(10, 3, dtype=torch.float64)
    loop = {
        "mean": lambda rows: rows.mean(0), "sum": lambda rows: rows.sum(0), "max": lambda rows: rows.amax(0),
        "first": lambda rows: rows[0], "last": lambda rows: rows[-1],
        "first+last": lambda rows: (rows[0] + rows[-1]) / 2,
    }[how]  # fmt: skip
    want = [loop(x[rows]) if rows else torch.zeros(3, dtype=torch.float64) for rows in groups]
    got = pool_pieces(x, groups, how)
    assert got.shape == (len(groups), 3)
    assert not groups or torch.allclose(got, torch.stack(want), atol=1e-12)


def test_unknown_poolings_are_refused_with_the_nearest():
    with pytest.raises(NameUnknown, match="Nearest: mean"):
        pool.check_pooling("meen")
    with pytest.raises(NameUnknown, match="no word_pooling named 'cls'"):
        pool.check_pooling("words", "cls")
