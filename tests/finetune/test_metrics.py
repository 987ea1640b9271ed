"""Figures equal scikit-learn's and SciPy's on random answers, and are defined where those have no answer."""

import json

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.finetune.metrics import (
    accuracy,
    averages,
    by_label,
    columns_of,
    confused,
    confusion,
    exact_match,
    f1,
    fitted,
    matthews,
    measure,
    pearson,
    ranks,
    report,
    softmax,
    spearman,
    standard_error,
    tally,
    tally_of,
)


@st.composite
def one_label(draw):
    """Truth, answers and how many labels there are; several of them often never occur."""
    C, N = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    numbers = st.lists(st.integers(0, C - 1), min_size=N, max_size=N)
    return np.array(draw(numbers)), np.array(draw(numbers)), C


@st.composite
def any_labels(draw):
    """Answers and truth, bool [N, C]."""
    N, C = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    table = st.lists(st.lists(st.booleans(), min_size=C, max_size=C), min_size=N, max_size=N)
    return np.array(draw(table)), np.array(draw(table))


def close(ours, theirs):
    return np.allclose(ours, theirs, rtol=0, atol=1e-12)


# ---- one label of several ----


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(one_label())
@settings(max_examples=60, deadline=None)
def test_one_label_figures_equal_scikit_learn(case):
    truth, answers, C = case
    table = confusion(truth, answers, C)
    assert (table == sklearn.metrics.confusion_matrix(truth, answers, labels=range(C))).all()
    assert accuracy(truth, answers) == sklearn.metrics.accuracy_score(truth, answers)
    counts = tally_of(table)
    theirs = sklearn.metrics.precision_recall_fscore_support(truth, answers, labels=range(C), zero_division=0)
    for our, their in zip((counts.precision, counts.recall, counts.f1, counts.true), theirs, strict=True):
        assert close(our, their)
    for name, value in averages(counts).items():
        kind = name.removesuffix("_f1")
        assert close(value, sklearn.metrics.f1_score(truth, answers, average=kind, zero_division=0))
    assert averages(counts)["micro_f1"] == pytest.approx(accuracy(truth, answers), abs=1e-12)
    assert close(matthews(table), sklearn.metrics.matthews_corrcoef(truth, answers))


@given(one_label())
@settings(max_examples=50, deadline=None)
def test_one_hot_tables_and_a_confusion_matrix_count_the_same(case):
    truth, answers, C = case
    one, other = tally(np.eye(C, dtype=bool)[answers], np.eye(C, dtype=bool)[truth]), tally_of(confusion(*case))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_matthews_is_one_minus_one_or_nothing():
    assert matthews(confusion([0, 1, 1], [0, 1, 1], 2)) == 1.0
    assert matthews(confusion([0, 1], [1, 0], 2)) == -1.0
    assert matthews(confusion([0, 0], [0, 0], 2)) == 0.0, "one label alone: not defined"
    assert matthews(np.diag([10**9, 10**9])) == pytest.approx(1.0), "counts whose fourth power is past int64"


def test_nothing_at_all_is_zero_everywhere():
    empty = np.zeros((0, 3), dtype=bool)
    assert averages(tally(empty, empty)) == {"micro_f1": 0.0, "macro_f1": 0.0, "weighted_f1": 0.0}
    assert (accuracy([], []), exact_match(empty, empty), matthews(np.zeros((3, 3), dtype=int))) == (0.0, 0.0, 0.0)
    assert pearson(np.array([]), np.array([])) == spearman(np.array([1.0]), np.array([2.0])) == 0.0


def test_a_label_that_does_not_occur_has_no_part_in_macro_f1_and_one_that_is_only_answered_has():
    assert averages(tally_of(confusion([0, 1], [0, 1], 5)))["macro_f1"] == 1.0
    assert averages(tally_of(confusion([0, 1], [0, 4], 5)))["macro_f1"] == pytest.approx(1 / 3)


def test_what_is_taken_for_what_is_told_with_the_commonest_first():
    table = confusion([0, 0, 0, 1, 2, 2], [1, 1, 0, 0, 2, 1], 3)
    assert confused(table, ["a", "b", "c"]) == [("a", "b", 2), ("b", "a", 1), ("c", "b", 1)]
    assert confused(table, ["a", "b", "c"], most=1) == [("a", "b", 2)]
    assert confused(np.diag([3, 4]), ["a", "b"]) == []


# ---- any number of labels ----


@given(any_labels())
@settings(max_examples=40, deadline=None)
def test_several_label_figures_equal_scikit_learn(case):
    answers, truth = case
    counts = tally(answers, truth)
    there = np.flatnonzero(counts.there)
    assert close(exact_match(answers, truth), (answers == truth).all(1).mean())
    if truth.shape[1] > 1:
        assert close(exact_match(answers, truth), sklearn.metrics.accuracy_score(truth, answers))
        for name, value in averages(counts).items() if len(there) > 1 else ():
            kind = name.removesuffix("_f1")
            theirs = sklearn.metrics.f1_score(truth, answers, labels=there, average=kind, zero_division=0)
            assert close(value, theirs)
    assert f1(answers, truth) == (averages(counts)["micro_f1"], averages(counts)["macro_f1"])


# ---- numbers ----

FEW = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25)  # many ties
MANY = st.lists(st.tuples(*[st.floats(-1e6, 1e6).map(lambda x: round(x, 3))] * 2), min_size=2, max_size=25)


@given(FEW | MANY)
@settings(max_examples=60, deadline=None)
def test_correlations_equal_scipy_ties_included(pairs):
    a, b = np.array(pairs, dtype=float).T
    assert (ranks(a) == scipy.stats.rankdata(a)).all()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert pearson(a, b) == spearman(a, b) == 0.0
        return
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-9)


@given(MANY, st.sampled_from([1e-200, 1e-9, 1.0, 1e200]), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_correlations_know_no_scale(pairs, scale, slope):
    a, b = np.array(pairs, dtype=float).T
    assert pearson(a * scale, b) == pytest.approx(pearson(a, b), abs=1e-6)
    assert spearman(a * scale, np.arctan(ranks(b)) * slope) == pytest.approx(spearman(a, b), abs=1e-9)


def test_a_perfect_rank_correlation_is_exactly_one():
    for n in range(2, 60):
        x = np.arange(n) ** 3.0
        assert spearman(x, x / 7) == 1.0 and spearman(x, -x) == -1.0


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits):
    p = softmax(np.array(logits, dtype=np.float32))
    assert p.sum() == pytest.approx(1.0) and (p >= 0).all() and p.dtype == np.float64
    assert p[np.argmax(np.float32(logits))] == p.max()


# ---- the table ----


def named(C):
    return [f"label {i}" for i in range(C)]


def test_a_table_of_few_labels_has_all_in_their_order_and_dashes_where_a_figure_means_nothing():
    truth, answers = [0, 0, 1, 1, 3], [0, 1, 1, 1, 0]
    labels = by_label(["yes", "no", "never", "only true"], tally_of(confusion(truth, answers, 4)))
    out = report(labels)
    assert [line.split()[0] for line in out] == ["label", "yes", "no", "only", "mean", "weighted", "1"]
    assert out[1].split() == ["yes", "0.500", "0.500", "0.500", "2", "2"]
    assert out[3].split() == ["only", "true", "-", "0.000", "0.000", "1", "0"]
    assert out[-1] == "1 more neither true nor answered here"
    assert labels["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "answered": 0}
    assert json.loads(json.dumps(labels)) == labels


@given(one_label())
@settings(max_examples=40, deadline=None)
def test_the_means_below_the_table_are_scikit_learns(case):
    truth, answers, C = case
    out = report(by_label(named(C), tally_of(confusion(truth, answers, C))))
    for title, kind in (("mean (macro)", "macro"), ("weighted mean", "weighted")):
        row = next(line for line in out if line.startswith(title))[34:].split()
        theirs = sklearn.metrics.precision_recall_fscore_support(truth, answers, average=kind, zero_division=0)
        assert [float(x) for x in row[:3]] == pytest.approx(theirs[:3], abs=6e-4)


def test_of_seventy_seven_labels_the_best_and_the_worst_are_shown():
    truth = np.repeat(np.arange(77), 10)
    answers = np.where(np.arange(770) % 10 < truth // 8, (truth + 1) % 77, truth)  # the later the label the worse
    labels = by_label(named(77), tally_of(confusion(truth, answers, 77)))
    out = report(labels)
    assert len(out) == 24 and out[11] == "... 57 more in between ..." and len(labels) == 77
    shown = [float(line[53:61]) for line in [*out[1:11], *out[12:22]]]
    assert shown == sorted(shown, reverse=True)
    every = sorted((row["f1"] for row in labels.values()), reverse=True)
    assert shown == pytest.approx(every[:10] + every[-10:], abs=6e-4)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=90)


@given(st.lists(NAMES, min_size=1, max_size=25, unique=True))
@settings(max_examples=60, deadline=None)
def test_every_line_fits_eighty_columns_whatever_the_labels_are_called(names):
    truth = np.arange(len(names))
    for line in report(by_label(names, tally_of(confusion(truth, truth, len(names))))):
        assert columns_of(line) <= 80 and line.isprintable()


@given(NAMES, st.integers(12, 40))
def test_a_name_fills_its_column_exactly(name, width):
    assert columns_of(fitted(name, width)) == width
    assert fitted("short", width) == "short".ljust(width)


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = fitted("the_first_part_of_a_very_long_name_and_the_last_part")
    assert name == "the_first_part_of_a_...e_last_part" and len(name) == 34
    assert fitted("標" * 40) == "標" * 7 + "..." + "標" * 8 + " "


# ---- for any kind of label ----


@given(one_label())
@settings(max_examples=40, deadline=None)
def test_measure_gives_the_two_figures_of_each_kind(case):
    truth, answers, C = case
    table = confusion(truth, answers, C)
    eye = np.eye(C)
    found = measure("classification", eye[answers], eye[truth])
    assert found == pytest.approx((accuracy(truth, answers), averages(tally_of(table))["macro_f1"]))
    assert measure("multilabel", eye[answers] - 0.5, eye[truth]) == f1(eye[answers] > 0, eye[truth] > 0)
    a, b = truth[:, None].astype(float), answers[:, None].astype(float)
    assert measure("regression", b, a) == (spearman(b[:, 0], a[:, 0]), pearson(b[:, 0], a[:, 0]))


def test_the_standard_error_of_an_accuracy_is_that_of_drawn_samples():
    drawn = np.random.default_rng(0).binomial(200, 0.8, 20_000) / 200
    error = standard_error("accuracy", 0.8, 200)
    assert error is not None and abs(error - drawn.std()) < 5e-4
    assert standard_error("micro F1", 0.8, 200) is None
