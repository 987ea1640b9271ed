"""AlbertVectorizer: the vectors of Embedder inside scikit-learn's pipelines, searches and pickles."""

import copy
import pickle
import shutil
from contextlib import nullcontext

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import minialbert
from minialbert import sklearn as ours
from minialbert.convert.sources import shipped
from minialbert.embed import Embedder
from minialbert.errors import CheckpointError, FileError, InputError, NameUnknown
from minialbert.sklearn import AlbertVectorizer, texts_of

OLD = ["the king rode his horse to the castle", "the queen wore a golden crown", "a knight with a sword",
       "the old tower of the castle", "a prince and his father the king", "the horses of the knights"]  # fmt: skip
NEW = ["the server sends a packet to the client", "press the key to start the program", "the file is on the disk",
       "the program reads the file", "a computer with a fast disk", "the client opens a connection"]  # fmt: skip
TEXTS, LABELS = OLD + NEW, [0] * 6 + [1] * 6


@pytest.fixture(scope="module")
def embed():
    return Embedder(*minialbert.load())


@pytest.fixture(autouse=True)
def nothing_loaded():
    ours._embedder.cache_clear()


# ---- vectors ----


@pytest.mark.parametrize(
    "settings", [{}, {"layer": 4, "pooling": "cls"}, {"layer": "cat(1,-1)", "normalize": True}, {"max_length": 6}]
)
def test_the_vectors_are_those_of_embedder(settings, embed):
    with pytest.warns(UserWarning, match="cut to 6") if "max_length" in settings else nullcontext():
        found, want = AlbertVectorizer(**settings).fit_transform(TEXTS), embed(TEXTS, **settings)
    assert found.dtype == np.float32 and np.array_equal(found, want)


def test_texts_come_as_lists_or_arrays_and_pairs_as_tuples_or_rows(embed):
    vectors = AlbertVectorizer().fit()
    want = vectors.transform(OLD)
    for X in (np.array(OLD), np.array(OLD, dtype=object), tuple(OLD), iter(OLD)):
        assert np.array_equal(vectors.transform(X), want)
    pairs = list(zip(OLD, NEW, strict=True))
    want = embed(pairs)
    for X in (pairs, [list(pair) for pair in pairs], np.array(pairs)):
        assert np.array_equal(vectors.transform(X), want)
    assert vectors.transform([]).shape == (0, 256)


def test_the_features_have_names():
    assert list(AlbertVectorizer().fit().get_feature_names_out()) == [f"albertvectorizer{i}" for i in range(256)]
    assert AlbertVectorizer(layer="embeddings").fit().n_features_out_ == 128


# ---- scikit-learn's own checks, those that need no numbers as input ----


CHECKS = ["check_estimator_cloneable", "check_no_attributes_set_in_init", "check_parameters_default_constructible",
          "check_get_params_invariance", "check_set_params", "check_estimator_repr", "check_valid_tag_types",
          "check_mixin_order"]  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks_pass(name):
    getattr(estimator_checks, name)("AlbertVectorizer", AlbertVectorizer())


def test_all_that_scikit_learn_checks_of_an_estimator_of_texts_passes():
    with pytest.warns(UserWarning, match="string=True"):
        told = estimator_checks.check_estimator(AlbertVectorizer())
    assert told and all(check["status"] == "passed" for check in told)


# ---- pipelines and searches ----


def test_a_grid_search_goes_over_layers_and_poolings_with_one_model_loaded(monkeypatch):
    loads = []
    monkeypatch.setattr(ours, "load", lambda ref: loads.append(ref) or minialbert.load(ref))
    pipe = make_pipeline(AlbertVectorizer(), LogisticRegression(max_iter=500))
    grid = {"albertvectorizer__layer": [2, 6, "mean(-2..-1)"], "albertvectorizer__pooling": ["mean", "cls"]}
    found = GridSearchCV(pipe, grid, cv=3).fit(TEXTS, LABELS)
    assert len(found.cv_results_["params"]) == 6 and found.best_score_ >= 0.75
    assert found.predict(["the king wore his crown", "the file on the computer"]).tolist() == [0, 1]
    assert loads == [None]


def test_a_bad_layer_is_found_when_fitting_and_names_itself():
    for settings, kind, words in [
        ({"layer": 9}, InputError, "layers 0..6"), ({"layer": "all"}, InputError, "7 vectors a text"),
        ({"pooling": "tokens"}, InputError, "several vectors"), ({"pooling": "meen"}, NameUnknown, "Nearest: mean"),
        ({"model": "nowhere/at/all"}, FileError, "nowhere"), ({"model": minialbert.load()}, InputError, "tuple"),
        ({"max_length": 2}, InputError, "max_length=2"), ({"device": "abacus"}, InputError, "device='abacus'"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=words):
            AlbertVectorizer(**settings).fit(TEXTS)


@pytest.mark.parametrize("X", ["one text", 7, [1.5], ["a", None], [("a", "b", "c")], [("a", 2)], [()], np.ones((2, 2))])
def test_what_is_no_list_of_texts_is_refused_with_its_number(X):
    with pytest.raises(InputError, match=r"X is a|X.[01]. is"):
        AlbertVectorizer().fit().transform(X)


@pytest.mark.parametrize(
    "missing, told",
    [
        (None, "None (NoneType)"), (float("nan"), "nan (float)"), (np.float64("nan"), "nan (float64)"),
        (3, "3 (int)"), (("a", None), "('a', None) (tuple)"), (np.ones((2, 2)), "[[1. 1.] [1. 1.]] (ndarray)"),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_in_one_line_with_the_number_of_the_first(missing, told):
    with pytest.raises(InputError) as caught:
        texts_of(["a", "", missing, None])
    assert str(caught.value) == f"X[2] is {told}, expected a string, or two for a pair; fill in or drop what is missing"


def test_before_fit_there_are_no_vectors():
    with pytest.raises(NotFittedError):
        AlbertVectorizer().transform(TEXTS)


def test_new_parameters_count_from_the_next_fit_on():
    vectors = AlbertVectorizer(layer=2).fit()
    want = vectors.transform(OLD)
    vectors.set_params(layer=5, pooling="cls", normalize=True)
    assert np.array_equal(vectors.transform(OLD), want)
    assert not np.array_equal(vectors.fit_transform(OLD), want)


# ---- clones, copies, pickles ----


def test_clones_and_copies_share_the_model_and_a_pickle_holds_none():
    first = AlbertVectorizer(layer=3).fit()
    second, third = clone(first).fit(), copy.deepcopy(first)
    again = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 2000
    for other in (second, third, again):
        assert other.get_params() == first.get_params()
        assert np.array_equal(other.transform(OLD), first.transform(OLD))
        assert other.embedder_ is first.embedder_


def test_the_steps_of_a_pipeline_can_be_remembered_on_disk(tmp_path, monkeypatch):
    pipe = make_pipeline(AlbertVectorizer(), LogisticRegression(), memory=joblib.Memory(tmp_path, verbose=0))
    want = pipe.fit(TEXTS, LABELS).predict_proba(TEXTS)
    monkeypatch.setattr(AlbertVectorizer, "fit", lambda *_: pytest.fail("embedded again"))
    again = clone(pipe).set_params(logisticregression__C=1.0).fit(TEXTS, LABELS)
    assert np.array_equal(again.predict_proba(TEXTS), want)


def test_a_model_that_changed_is_loaded_anew_by_fit_and_refused_by_a_pickle(tmp_path):
    ref = tmp_path / "model"
    shutil.copytree(shipped(), ref)
    first = AlbertVectorizer(ref).fit()
    before, kept = first.transform(OLD), pickle.dumps(first)
    assert np.array_equal(pickle.loads(kept).transform(OLD), before)
    other, _ = minialbert.load()
    other.embeddings.norm.bias.data += 1
    other.save_pretrained(ref)
    with pytest.raises(CheckpointError, match=r"is another model than when .* fit it again"):
        pickle.loads(kept).transform(OLD)
    assert not np.allclose(clone(first).fit_transform(OLD), before)
    assert np.array_equal(first.transform(OLD), before)  # what was fitted stays what it was
