"""Linear probes: the solver against closed forms, the figures by hand, and a probe that finds what is there."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.cli import main
from minialbert.embed import Embedder
from minialbert.errors import InputError
from minialbert.finetune.data import Example, read_data
from minialbert.finetune.metrics import f1, measure, pearson, ranks, spearman, standard_error
from minialbert.tools.linear import STRENGTHS, Linear, fit, fit_well, marks_of, standardized, tf_idf, words_of
from minialbert.tools.probe import Cell, Probes, features, probe, sides


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the solver ----


@given(st.integers(0, 10**6), st.sampled_from([10.0, 1.0, 0.1, 0.01]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_regression_is_ridge_in_closed_form(seed, strength, sparse):
    x, y = draw(seed, 30, 4), draw(seed + 1, 30, 2) * 3 + 5
    a, b = x - x.mean(0), y - y.mean(0)
    weights = torch.linalg.solve(a.T @ a + 30 * strength * torch.eye(4, dtype=torch.float64), a.T @ b)
    found = fit(x.to_sparse() if sparse else x, y, "regression", strength)
    assert (found.weights - weights).abs().max() < 1e-5
    assert (found.bias - (y.mean(0) - x.mean(0) @ weights)).abs().max() < 1e-5


@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.1, 0.01]), st.sampled_from(["classification", "multilabel"]))
@settings(max_examples=25, deadline=None)
def test_at_the_least_loss_the_penalty_balances_the_errors(seed, strength, task):
    x, y = draw(seed, 40, 3), torch.eye(4, dtype=torch.float64)[torch.arange(40) % 4]
    found = fit(x, y, task, strength)
    chances = found(x).softmax(1) if task == "classification" else found(x).sigmoid()
    assert (x.T @ (y - chances) / 40 - strength * found.weights).abs().max() < 1e-5
    assert (y - chances).mean(0).abs().max() < 1e-5


def test_two_points_are_told_apart_as_by_hand():
    # x = 1 is label 0, x = -1 is label 1: with weights (w, -w) the loss is log(1 + exp(-2 w)) + strength w^2
    found = fit(torch.tensor([[1.0], [-1.0]]).double(), torch.eye(2).double(), "classification", 0.25)
    w = float(found.weights[0, 0])
    assert math.isclose(2 / (1 + math.exp(2 * w)), 0.5 * w, abs_tol=1e-5)
    assert torch.allclose(found.weights, torch.tensor([[w, -w]]).double(), atol=1e-5)
    assert found.bias.abs().max() < 1e-5


def test_a_search_that_goes_on_from_another_ends_in_the_same_place():
    x, y = draw(0, 50, 5), torch.eye(3, dtype=torch.float64)[torch.arange(50) % 3]
    cold = fit(x, y, "classification", 0.01)
    warm = fit(x, y, "classification", 0.01, fit(x, y, "classification", 1.0))
    assert (cold.weights - warm.weights).abs().max() < 1e-4


def test_the_strength_is_chosen_on_what_was_held_out():
    signal, held = draw(0, 200, 1), torch.arange(200) % 5 == 0
    y = signal + draw(1, 200, 1)
    alone, among = signal, torch.cat([signal, draw(2, 200, 150)], 1)
    assert fit_well(among, y, "regression", held)[1] >= 0.1  # or the 150 columns of noise would be learnt by heart
    model, strength = fit_well(alone, y, "regression", held)
    want = fit(alone, y, "regression", strength)
    assert strength in STRENGTHS
    assert (model.weights - want.weights).abs().max() < 1e-5  # fitted on all, not on what was left


def test_a_label_that_only_the_held_out_examples_have_is_no_trouble():
    y = torch.eye(3, dtype=torch.float64)[[0, 1] * 10 + [2] * 2]
    held = torch.tensor([False] * 20 + [True] * 2)
    model, _ = fit_well(draw(0, 22, 2), y, "classification", held)
    assert model.weights.shape == (2, 3)


def test_columns_are_standardized_by_the_training_data_and_dead_ones_are_zero():
    x = torch.cat([draw(0, 9, 2) * 5 + 3, torch.full((9, 1), 7.0).double() + 1e-8 * draw(1, 9, 1)], 1)
    a, b = standardized(x, x[:2] + 1)
    assert a.mean(0).abs().max() < 1e-12 and torch.allclose(a[:, :2].std(0, correction=0), torch.ones(2).double())
    assert not a[:, 2].any() and not b[:, 2].any()
    assert torch.allclose(b[:, :2], (x[:2, :2] + 1 - x[:, :2].mean(0)) / x[:, :2].std(0, correction=0))


# ---- the figures ----


def test_figures_are_as_by_hand():
    truth, scores = np.eye(3)[[0, 0, 1, 2]], np.eye(3)[[0, 1, 1, 1]]
    accuracy, macro = measure("classification", scores, truth)
    assert accuracy == 0.5 and math.isclose(macro, (2 / 3 + 1 / 2 + 0) / 3)
    assert measure("classification", np.eye(3)[[0, 0]], np.eye(3)[[0, 0]]) == (1, 1)  # what never occurs does not count
    micro, macro = measure("multilabel", np.array([[1.0, -1], [2, 3]]), np.array([[1, 0], [0, 1]]))
    assert math.isclose(micro, 2 * 2 / (3 + 2)) and math.isclose(macro, (2 / 3 + 1) / 2)
    assert f1(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == (0, 0)
    assert ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
    assert math.isclose(spearman(np.array([1, 2, 3]), np.array([1, 3, 2])), 0.5)
    assert math.isclose(pearson(np.array([0, 1, 2.0]), np.array([0, 1, 5.0])), 5 / math.sqrt(2 * 14), rel_tol=1e-9)
    assert spearman(np.ones(3), np.arange(3)) == pearson(np.arange(1), np.arange(1)) == 0
    assert standard_error("accuracy", 0.8, 100) == pytest.approx(0.04)
    assert standard_error("Spearman", 0.0, 103) == pytest.approx(0.1) and standard_error("micro F1", 0.5, 9) is None


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=12))
def test_spearman_asks_for_the_order_alone(values):
    x = np.array(values, float)
    assert spearman(x, np.exp(x)) == (1 if len(set(values)) > 1 else 0)
    assert spearman(x, -(x**3)) == (-1 if len(set(values)) > 1 else 0)


@given(st.floats(0.05, 0.95), st.integers(50, 400))
@settings(max_examples=20)
def test_the_standard_error_of_accuracy_is_what_repeated_draws_show(p, n):
    draws = np.random.default_rng(0).binomial(n, p, 4000) / n
    assert standard_error("accuracy", p, n) == pytest.approx(draws.std(), rel=0.06)


# ---- without a model ----


def test_a_bag_of_words_weighs_rare_words_more():
    a, b = tf_idf([["a", "b"], ["a"], ["a", "c", "c"]], [["a", "b"], [], ["unknown"]], [["c", "c", "a"]])
    idf = {word: math.log(4 / (1 + n)) + 1 for word, n in (("a", 3), ("b", 1), ("c", 1))}
    length = math.hypot(idf["a"], idf["b"])
    want = [[idf["a"] / length, idf["b"] / length, 0], [0, 0, 0], [0, 0, 0]]
    assert torch.allclose(a.to_dense(), torch.tensor(want).double())
    assert b.to_dense()[0, 2] / b.to_dense()[0, 0] == pytest.approx(2 * idf["c"] / idf["a"])
    assert tf_idf([[]], [[], []])[0].shape == (2, 1)


def test_words_of_pairs_say_where_they_are_and_whether_both_have_them():
    assert words_of("Don't — naïve_X 5.") == ["don", "t", "naïve", "x", "5"]
    assert marks_of(Example("a b", None, "", 1)) == ["a", "b"]
    marks = marks_of(Example("a b", "b c", "", 1))
    assert marks == [(1, "a"), (1, "b"), (2, "b"), (2, "c"), ("one", "a"), ("both", "b"), ("one", "c")]


# ---- with one ----


@pytest.fixture(scope="module")
def embed():
    return Embedder(*minialbert.load())


COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "yellow")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "ten", "twenty")
FRAMES = ("There were {} birds there.", "She had {} old houses.", "Where are my {} books?", "They saw {} horses.")


def written(directory, name, header, rows):
    path = directory / name
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n")
    return path


@pytest.fixture
def kinds(tmp_path):
    """Colours or numbers; the words of the second file are not in the first, so that a bag of words is at a loss."""
    rows = [(kind, frame.format(word)) for kind, words in (("colour", COLOURS), ("number", NUMBERS)) for word in words
            for frame in FRAMES]  # fmt: skip
    new = [row for row in rows if any(word in row[1] for word in ("black", "green", "three", "six"))]
    old = [row for row in rows if row not in new]
    head = ("label", "text")
    return written(tmp_path, "train.tsv", head, old), written(tmp_path, "dev.tsv", head, new)


def test_a_probe_finds_what_the_vectors_hold_and_words_alone_do_not(embed, kinds):
    train = read_data(kinds[0])
    dev = read_data(kinds[1], like=train)
    found = probe(embed, train, dev, layers=[0, 3, -1], poolings=("mean", "cls"), progress=False)
    assert found.layers == (0, 3, 6) and list(found.cells) == ["mean", "cls"] and found.shared == 0
    assert found.baselines["commonest label"].first == 0.5 and found.baselines["bag of words"].first <= 0.6
    pooling, layer = found.best()
    assert pooling == "mean" and max(cell.first for cell in found.cells["mean"]) >= 0.7
    first = found.cells["cls"][0]  # [CLS] before the first layer is the same for every text
    assert first.first == 0.5 and first.second == pytest.approx(1 / 3)
    lines = found.lines()
    assert lines[0] == f"16 examples of {kinds[1]}; fitted on {kinds[0]}"
    assert lines[2].split() == ["layer", *["accuracy", "±", "error", "macro", "F1"] * 2]
    assert [line.split()[0] for line in lines[3:6]] == ["0", "3", "6"]
    marked = [line for line in lines[3:6] if "*" in line]
    assert len(marked) == 1 and marked[0].startswith(str(layer)) and lines[6].startswith("commonest label")
    assert lines[-2] == "n = 16: too few to tell one layer from another" and "the best of 6" in lines[-1]
    told = json.loads(json.dumps(found.as_dict()))
    assert told["best"] == {"pooling": pooling, "layer": layer} and len(told["probes"]) == 6
    assert set(told["probes"][0]) - {"error"} == {"pooling", "layer", "accuracy", "macro_f1", "strength"}


def test_layers_in_one_pass_are_the_layers_asked_for_one_by_one(embed, tmp_path):
    path = written(
        tmp_path, "a.tsv", ("label", "premise", "hypothesis"), [("x", "One.", "Two."), ("y", "Two.", "A b.")]
    )
    data = read_data(path)
    first, second = sides(embed, data, (2, 5), "max")
    assert first.shape == second.shape == (2, 2, 256)
    for i, layer in enumerate((2, 5)):
        assert np.abs(first[:, i] - embed(["One.", "Two."], layer, "max")).max() < 1e-5
        assert np.abs(second[:, i] - embed(["Two.", "A b."], layer, "max")).max() < 1e-5


def test_a_pair_is_seen_with_its_difference_and_product():
    u, v = draw(0, 3, 4).float().numpy(), draw(1, 3, 4).float().numpy()
    ordered = features([u, v], "classification")
    assert np.allclose(ordered, np.concatenate([u, v, abs(u - v), u * v], 1), atol=1e-6)
    alike = features([u, v], "regression")
    assert alike.shape == (3, 8) and torch.allclose(alike, features([v, u], "regression"))
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    assert np.allclose(alike[:, 4:].sum(1), cosine, atol=1e-6)
    assert np.allclose(features([u], "classification"), u)


def test_scored_pairs_are_also_compared_without_fitting(embed, tmp_path):
    words = [*COLOURS, *NUMBERS]
    rows = [(5 * (a == b) + (i % 3) / 10, f"I saw a {a} birds there.", f"I saw a {b} birds here.")
            for i, a in enumerate(words) for b in (a, words[i - 3], words[i - 5])]  # fmt: skip
    head = ("score", "sentence1", "sentence2")
    train = read_data(written(tmp_path, "train.tsv", head, rows[::2]))
    dev = read_data(written(tmp_path, "dev.tsv", head, rows[1::2]), like=train)
    found = probe(embed, train, dev, layers=[1, 2], poolings=["mean"])
    for cell, layer in zip(found.cells["mean"], (1, 2), strict=True):
        u, v = (embed(list(texts), layer, normalize=True) for texts in zip(*dev.inputs, strict=True))
        assert cell.cosine == pytest.approx(spearman((u * v).sum(1), np.array(dev.targets)), abs=1e-3)
        assert cell.first > 0.5 and cell.cosine > 0.5
    assert list(found.baselines) == ["bag of words"] and found.baselines["bag of words"].cosine > 0.5
    lines = found.lines()
    assert lines[2].split() == ["layer", "Spearman", "±", "error", "Pearson", "cosine"]
    assert sum(line.count("*") for line in lines[3:5]) == 2  # the best probe, and the best plain cosine


@pytest.mark.parametrize("n", [12, 29, 30, 400])
def test_few_examples_are_called_few_and_no_figure_is_said_to_be_certain(n):
    cells = {"mean": [Cell(1.0, 1.0), Cell(0.75, 0.7)]}
    found = Probes("classification", "a.tsv", "b.tsv", n, 0, (0, 1), cells, {"commonest label": Cell(0.0, 0.0)})
    lines = found.lines()
    assert (f"n = {n}: too few to tell one layer from another" in lines) == (n < 30)
    rows = [line.split() for line in lines]
    assert rows[3] == ["0", "*1.000", "1.000"]  # sqrt(p (1 - p) / n) would be 0
    assert rows[4] == ["1", "0.750", "±", f"{(0.75 * 0.25 / n) ** 0.5:.3f}", "0.700"]
    told = found.as_dict()
    assert "error" not in told["probes"][0] and "error" in told["probes"][1]


def test_several_labels_and_numbers_of_single_texts_are_probed_too(embed, tmp_path):
    texts = [(("old," if "old" in frame else "") + ("colour" if word in COLOURS else "number"), frame.format(word))
             for word in [*COLOURS, *NUMBERS] for frame in FRAMES]  # fmt: skip
    train = read_data(written(tmp_path, "train.tsv", ("labels", "text"), texts[::3]))
    dev = read_data(written(tmp_path, "dev.tsv", ("labels", "text"), texts[1::3]), like=train)
    found = probe(embed, train, dev, [2], ["mean"])
    assert found.task == "multilabel" and found.metrics == ("micro F1", "macro F1")
    assert found.cells["mean"][0].first > found.baselines["commonest label"].first
    assert "error" not in found.lines()[2] and "error" not in found.as_dict()["probes"][0]
    lengths = [(len(text) + 0.5, text) for _, text in texts]
    train = read_data(written(tmp_path, "train.tsv", ("score", "text"), lengths[::3]))
    dev = read_data(written(tmp_path, "dev.tsv", ("score", "text"), lengths[1::3]), like=train)
    found = probe(embed, train, dev, [2], ["mean"])
    assert found.task == "regression" and found.cells["mean"][0].first > 0.3 and found.cells["mean"][0].cosine is None


def test_what_cannot_be_probed_is_one_line(embed, kinds, tmp_path):
    train = read_data(kinds[0])
    dev = read_data(kinds[1], like=train)
    one = read_data(written(tmp_path, "one.tsv", ("label", "text"), [("x", f"text {i}") for i in range(12)]))
    few = read_data(written(tmp_path, "few.tsv", ("label", "text"), [("x", "a"), ("y", "b")]))
    bare = read_data(written(tmp_path, "bare.tsv", ("text",), [("a",)]), like=train, labelled=False)
    for first, second, how, message in [
        (train, dev, {"poolings": ["median"]}, "pooling 'median': a probe takes mean, cls, max, pooler"),
        (train, dev, {"layers": [7]}, "layer 7: the model has layers 0..6"),
        (train, few, {}, "are not alike: read the second with like= the first"),
        (train, bare, {}, "bare.tsv: has no labels"),
        (one, one, {}, "every example has the label 'x'"),
        (few, few, {}, "fewer than 10 different texts"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            probe(embed, first, second, **how)
        assert "\n" not in str(caught.value)


def test_the_command_prints_a_table_json_and_a_figure(kinds, tmp_path, capsys):
    train, dev = map(str, kinds)
    plot = tmp_path / "probe.svg"
    assert main(["probe", train, dev, "--layers", "1", "-1", "--pooling", "mean", "--plot", str(plot)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("16 examples of") and "48 texts, classification, 2 labels" in err
    assert plot.read_text().startswith("<?xml")
    assert main(["probe", train, "--layers", "1", "--pooling", "mean", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["examples"] == 10 and told["dev"] == f"{train} (held out)" and "10 of these are held out" in err
    assert main(["probe", train, train, "--layers", "1", "--pooling", "mean"]) == 0
    assert f"48 of the 48 are also in {train}" in capsys.readouterr().err
    for more in (["--layers", "top"], ["--plot", "probe.gif"], ["--columns", "text=review,label=stars"]):
        assert main(["probe", train, *more]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.splitlines()[-1].startswith("error: ")


def test_a_linear_model_is_called_like_one():
    assert torch.equal(Linear(torch.eye(2), torch.ones(2))(torch.zeros(1, 2)), torch.ones(1, 2))
