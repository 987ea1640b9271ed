"""Drift: figures by hand and by formula, a model against itself, turned, and of another size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.embed import Embedder
from minialbert.errors import InputError
from minialbert.tools.drift import cka, cosines, distances, distinct, drift, kept, order_of, ranks_of, varies

PEOPLE, PLACES = ("king", "queen", "knight", "child", "farmer", "horse"), ("castle", "river", "town", "field")
TEXTS = [f"The {who} walked to the {where}." for who in PEOPLE for where in PLACES] + ["Snow fell.", "It was night."]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def shipped():
    return Embedder(*minialbert.load())


@pytest.fixture(scope="module")
def other():
    """The shipped model, moved a little."""
    model, tokenizer = minialbert.load()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std().nan_to_num(0) * 0.3)
    return Embedder(model, tokenizer)


# ---- the figures ----


def test_cosines_and_distances_are_those_of_hand():
    x, y = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [0.0, 2.0], [0.0, 0.0]])
    assert np.allclose(cosines(x, y), [1, 0, 0])
    assert np.allclose(distances(x, y), [1, 5**0.5, 0])


@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_cka_is_hsic_of_the_centred_products_whichever_side_is_longer(seed, N, H, K):
    x, y = draw(seed, N, H) + 3, draw(seed + 1, N, K)
    centre = np.eye(N) - 1 / N
    a, b = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    want = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
    assert cka(x, y) == pytest.approx(want, abs=1e-9)
    assert 0 <= cka(x, y) <= 1 + 1e-12 and cka(x, y) == pytest.approx(cka(y, x), abs=1e-9)


@given(st.integers(0, 10**6), st.sampled_from([5, 40]))
@settings(max_examples=20, deadline=None)
def test_what_is_turned_scaled_and_shifted_has_cka_1_and_turning_keeps_all_neighbours(seed, N):
    x = draw(seed, N, 8)
    turn, _ = np.linalg.qr(draw(seed + 1, 8, 8))
    assert cka(x, 5 * x @ turn + draw(seed + 2, 8)) == pytest.approx(1, abs=1e-9)
    assert cosines(x, x @ turn).mean() < 0.9
    assert np.all(kept(order_of(x), order_of(x @ turn), 3) == 1)


def test_unrelated_vectors_have_little_in_common_and_those_that_are_all_equal_nothing_to_compare():
    x, y = draw(0, 2000, 8), draw(1, 2000, 8)
    assert cka(x, y) < 0.02 and kept(order_of(x[:200]), order_of(y[:200]), 10).mean() < 0.1
    still = np.tile(draw(2, 8), (2000, 1)).astype(np.float32)
    assert cka(x, still) is None and cka(still, x) is None and not varies(still + 1e-8 * x)


def test_neighbours_are_in_the_order_of_their_cosines_and_equals_in_their_own():
    x = np.array([[1, 0], [0, 1], [1, 0.1], [2, 0.2], [-1, 0]])
    order = order_of(x)
    assert order[0].tolist() == [2, 3, 1, 4] and order[2].tolist() == [3, 0, 1, 4]
    assert order[4].tolist() == [1, 2, 3, 0]
    assert order_of(np.array([[1, 1], [1, 1.001], [1, 1]]))[2].tolist() == [0, 1]
    assert order_of(np.array([[1, 1.001], [1, 1], [1, 1]]))[2].tolist() == [0, 1]  # closer than float32 can tell
    places = ranks_of(order)
    assert np.array_equal(places, places.T) and places[2, 3] == 1
    assert places[0, 2] == 2  # text 2 is the nearest of text 0, which is the second nearest of text 2
    assert kept(order, order[:, ::-1], 2).tolist() == [0] * 5 and kept(order, order, 4).tolist() == [1] * 5


@given(st.integers(0, 10**6), st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_the_order_is_that_of_a_plain_sort(seed, N):
    x = draw(seed, N, 5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i, row in enumerate(order_of(x)):
        assert row.tolist() == sorted((j for j in range(N) if j != i), key=lambda j: -(unit[i] @ unit[j]))


# ---- models ----


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_model_against_itself_has_not_moved(pooling, shipped):
    found = drift(shipped, Embedder(*minialbert.load()), TEXTS, pooling=pooling)
    assert [row.before for row in found.layers] == [row.after for row in found.layers] == list(range(7))
    for row in found.layers[1 if pooling == "cls" else 0 :]:
        assert row.cosine == pytest.approx(1, abs=1e-6) and row.distance == 0
        assert row.cka == pytest.approx(1, abs=1e-9) and row.kept == 1
    if pooling == "cls":  # before the first layer [CLS] is one vector, whatever the text
        assert found.layers[0].cka is None and found.layers[0].kept is None
    assert found.became == found.stopped == () and all(row.kept == 1 for row in found.moved)


def test_a_model_whose_output_is_turned_has_cka_1_and_another_cosine(shipped):
    model, tokenizer = minialbert.load()
    H = model.config.hidden_size
    turn = torch.randperm(H, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # other names for the numbers of a vector: a turn that LayerNorm does not notice
        for name, parameter in model.named_parameters():
            part = name.split(".")[-2]
            if part in ("query", "key", "value", "up") and name.endswith("weight"):
                parameter.copy_(parameter[:, turn])
            elif part in ("projection", "output", "down") or (part == "norm" and len(parameter) == H):
                parameter.copy_(parameter[turn])
    found = drift(shipped, Embedder(model, tokenizer), TEXTS)
    for row in found.layers:
        assert row.cka == pytest.approx(1, abs=1e-5) and row.kept > 0.99 and row.cosine < 0.9


def test_a_model_that_moved_is_measured_as_by_hand(shipped, other):
    found = drift(shipped, other, TEXTS, layers=[2, -1], k=3, top=4)
    assert [(row.before, row.after) for row in found.layers] == [(2, 2), (6, 6)] and found.k == 3
    x, y = (np.float64(embed(TEXTS, layer=6)) for embed in (shipped, other))
    last = found.layers[-1]
    each = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert last.cosine == pytest.approx(each.mean(), abs=1e-6) and 0.1 < last.cosine < 0.999
    assert last.distance == pytest.approx((np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)).mean(), abs=1e-5)
    assert [row.text for row in found.moved] == [TEXTS[i] for i in np.argsort(each, kind="stable")[:4]]
    assert 0 < last.kept < 1


def test_pairs_that_became_and_stopped_being_neighbours_are_so_from_both_sides(shipped, other):
    found = drift(shipped, other, TEXTS, k=3, top=100)
    orders = [order_of(embed(TEXTS, layer=6)) for embed in (shipped, other)]

    def place(order, pair):
        i, j = TEXTS.index(pair.first), TEXTS.index(pair.second)
        return max(order[i].tolist().index(j), order[j].tolist().index(i)) + 1

    assert found.became and found.stopped
    for pair in (*found.became, *found.stopped):
        assert (place(orders[0], pair), place(orders[1], pair)) == (pair.before, pair.after)
    assert all(pair.before > 3 >= pair.after for pair in found.became)
    near = [ranks_of(order) <= 3 for order in orders]
    np.fill_diagonal(near[0], True)
    assert len(found.became) == (near[1] & ~near[0]).sum() / 2  # and these are all
    assert all(pair.after > 3 >= pair.before for pair in found.stopped)
    assert [pair.before for pair in found.became] == sorted((pair.before for pair in found.became), reverse=True)
    back = drift(other, shipped, TEXTS, k=3, top=100)
    assert {(pair.first, pair.second) for pair in back.became} == {(p.first, p.second) for p in found.stopped}


def test_models_of_other_tokenizers_and_widths_are_compared_by_what_needs_neither(shipped, minilm):
    wide = Embedder(*minialbert.load(minilm))
    found = drift(shipped, wide, TEXTS, layers=[0, -1])
    for row in found.layers:
        assert row.cosine is None and row.distance is None and 0 < row.cka < 1 and 0 < row.kept < 1
    assert all(row.cosine is None for row in found.moved)
    assert [row.kept for row in found.moved] == sorted(row.kept for row in found.moved)
    assert any("-" in line.split() for line in found.lines())


def test_models_of_other_depths_are_compared_as_deep_as_both_go(shipped):
    model = minialbert.AlbertModel.from_pretrained(minialbert.convert.sources.shipped(), num_hidden_layers=3)
    found = drift(shipped, Embedder(model, shipped.tokenizer), TEXTS)
    assert [row.before for row in found.layers] == [0, 1, 2, 3]
    assert all(row.cosine == pytest.approx(1, abs=1e-5) for row in found.layers)
    last = drift(shipped, Embedder(model, shipped.tokenizer), TEXTS, layers=[-1])
    assert [(row.before, row.after) for row in last.layers] == [(6, 3)] and last.lines()[2].startswith("6 | 3")


# ---- texts, pages, errors ----


def test_each_text_counts_once_and_blank_ones_not_at_all():
    assert distinct(["a  b", "", "c", "a b", " ", "d"], 2) == (["a b", "c"], True)
    assert distinct(["a", "b", "a"], 2) == (["a", "b"], False)


def test_the_page_fits_80_columns_and_holds_every_layer(shipped, other):
    found = drift(shipped, other, [*TEXTS, "word " * 60, "other words " * 40], k=3)
    lines = found.lines()
    assert max(map(len, lines)) <= 80 and [line.split()[0] for line in lines[2:9]] == list("0123456")
    assert sum("neighbours" in line for line in lines) == 2 and found.as_dict()["layers"][6]["before"] == 6
    bare = drift(shipped, other, TEXTS, layers=[0], pooling="cls")
    assert bare.moved == bare.became == () and len(bare.lines()) == 3


@pytest.mark.parametrize("texts, how, words", [
    (TEXTS[:2], {}, "2 texts"), (TEXTS, {"k": 26}, "from 1 to 25"),
    (TEXTS, {"k": 0}, "k=0"), (TEXTS, {"pooling": "words"}, "mean, cls, max, pooler"),
    (TEXTS, {"layers": [7]}, r"layers 0\.\.6"),
])  # fmt: skip
def test_what_cannot_be_compared_is_one_line(texts, how, words, shipped):
    with pytest.raises(InputError, match=words) as told:
        drift(shipped, shipped, texts, **how)
    assert "\n" not in str(told.value)
