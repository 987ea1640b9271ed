"""Taps: every point with its shape at every visit, recording that changes nothing, editing that changes one visit."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import POINTS, AlbertForPreTraining, AlbertModel, Editor, Recorder, chain
from minialbert.errors import InputError, MiniAlbertError, NameUnknown
from tests.conftest import random_batch, tiny_bert, tiny_config

LETTERS = {"B": 3, "T": 9, "E": 7, "H": 12, "A": 3, "D": 4, "F": 20, "V": 31}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AlbertForPreTraining(tiny_config(initializer_range=0.3)).eval()


def test_every_point_passes_the_tap_at_its_layers_with_its_shape(model):
    tape = Recorder(*POINTS)
    model(**random_batch(model.config), tap=tape)
    layers = {"0": [0], "0..L": range(7), "1..L": range(1, 7)}
    expected = {(name, layer) for name, (where, _, _) in POINTS.items() for layer in layers[where]}
    assert set(tape) == expected
    for name, layer in expected:
        letters = POINTS[name][1].strip("[]").split(", ")
        shape = [int(s) if s.isdigit() else LETTERS[s] for s in letters]
        assert list(tape[name, layer].shape) == shape, name


@pytest.mark.parametrize("config", [tiny_config(), tiny_config(num_hidden_groups=2, inner_group_num=2), tiny_bert()])
def test_a_plain_function_is_a_tap_and_hears_every_visit(config):
    heard = []
    AlbertModel(config)(**random_batch(config), tap=lambda name, layer, x: heard.append((name, layer)) or x)
    per_layer = [name for name, (where, _, _) in POINTS.items() if where != "0"]
    for layer in range(1, config.num_visits + 1):
        assert sorted(n for n, number in heard if number == layer) == sorted(per_layer)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(sorted(POINTS)), min_size=1), st.integers(0, 99), st.booleans())
def test_recording_changes_no_bit_of_the_output(model, names, seed, training):
    batch = random_batch(model.config, seed=seed)
    model.train(training)
    torch.manual_seed(1)
    plain = model(**batch)
    torch.manual_seed(1)
    taped = model(**batch, tap=chain(Recorder(*names), lambda name, layer, x: x))
    model.eval()
    assert torch.equal(plain.prediction_logits, taped.prediction_logits)
    assert torch.equal(plain.sop_logits, taped.sop_logits)


LAYERED = [name for name, (where, _, _) in POINTS.items() if where == "1..L"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([*LAYERED, "hidden"]), st.integers(1, 6))
def test_editing_a_layer_leaves_those_below_bit_equal_and_changes_it(model, name, layer):
    batch, before, after = random_batch(model.config), Recorder("hidden"), Recorder("hidden")
    torch.manual_seed(0)
    with torch.no_grad():
        model(**batch, tap=before)
        model(**batch, tap=chain(Editor(name, layer, fn=lambda x: torch.randn_like(x)), after))
    for below in range(layer):
        assert torch.equal(before["hidden", below], after["hidden", below])
    assert not torch.equal(before["hidden", layer], after["hidden", layer])


def test_silencing_one_head_at_one_visit_is_three_lines(model):
    def silence(probs):
        probs = probs.clone()
        probs[:, 2] = 0
        return probs

    batch, tape = random_batch(model.config), Recorder("attention.context")
    model(**batch, tap=chain(Editor("attention.probs", layer=3, fn=silence), tape))
    assert (tape["attention.context", 3][:, 2] == 0).all() and (tape["attention.context", 3][:, 1] != 0).any()
    assert (tape["attention.context", 4][:, 2] != 0).any()


@pytest.mark.parametrize("name", ["attention.scores", "attention.probs", "hidden", "ffn.inner"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_edit_in_place_counts_and_an_identity_edit_changes_no_bit(model, name, mode):
    def zero_one(x):
        x[:, 1] = 0
        return x

    batch, before = random_batch(model.config), Recorder("hidden")
    with mode():
        want = model(**batch, tap=before)
        edited = model(**batch, tap=Editor(name, 3, fn=zero_one))
        elsewhere = model(**batch, tap=Editor(name, 3, fn=lambda x: zero_one(x.clone())))
        same = model(**batch, tap=Editor(name, 3, fn=lambda x: x))
    assert torch.equal(edited.sop_logits, elsewhere.sop_logits)
    assert not torch.equal(edited.prediction_logits, want.prediction_logits)
    assert torch.equal(same.prediction_logits, want.prediction_logits)


def test_a_plain_function_that_works_in_place_is_heard_too(model):
    def tap(name, layer, x):
        if (name, layer) == ("attention.probs", 3):
            x[:, 1] = 0
        return x

    batch = random_batch(model.config)
    with torch.no_grad():
        assert not torch.equal(model(**batch, tap=tap).prediction_logits, model(**batch).prediction_logits)


def test_gradients_of_recorded_tensors_are_on_request(model):
    tape = Recorder("attention.probs", "hidden", layers=[2], detach=False)
    out = model(**random_batch(model.config), tap=tape)
    for key in tape:
        tape[key].retain_grad()
    out.sop_logits.sum().backward()
    assert all(tape[key].grad.abs().sum() > 0 for key in tape)
    kept = Recorder("hidden")
    model(**random_batch(model.config), tap=kept)
    assert not kept["hidden", 2].requires_grad


def test_recorded_probs_are_rows_that_sum_to_one_and_make_the_context(model):
    batch, tape = random_batch(model.config), Recorder("attention.probs", "attention.v", "attention.context")
    with torch.no_grad():
        model(**batch, tap=tape)
    for layer in range(1, 7):
        probs = tape["attention.probs", layer]
        assert (probs.sum(-1) - 1).abs().max() < 1e-6
        assert (probs[batch["attention_mask"][:, None, None, :].expand_as(probs) == 0] == 0).all()
        assert (probs @ tape["attention.v", layer] - tape["attention.context", layer]).abs().max() < 1e-5


def test_layers_and_names_filter_what_is_kept(model):
    tape = Recorder("hidden", "attention.probs", layers=[0, 3])
    model(**random_batch(model.config), tap=tape)
    assert sorted(tape) == [("attention.probs", 3), ("hidden", 0), ("hidden", 3)] and len(tape) == 3
    assert "hidden, 3: [3, 9, 12]" in repr(tape)
    single = Recorder("pooled")
    model(**random_batch(model.config), tap=single)
    assert torch.equal(single["pooled"], single["pooled", 0])


def test_nothing_is_left_behind_on_the_model(model):
    before = {name: list(m.__dict__) for name, m in model.named_modules()}
    model(**random_batch(model.config), tap=Recorder(*POINTS))
    assert before == {name: list(m.__dict__) for name, m in model.named_modules()}
    assert not any(m._forward_hooks for m in model.modules())


def test_a_recorder_can_be_pickled(model):
    tape = Recorder("pooled")
    model(**random_batch(model.config), tap=tape)
    assert torch.equal(pickle.loads(pickle.dumps(tape))["pooled"], tape["pooled"])


@pytest.mark.parametrize("make, words", [
    (lambda: Recorder("attention"), "Nearest: attention.q, attention.k, attention.v, attention.scores"),
    (lambda: Recorder("hiden"), "Nearest: hidden"),
    (lambda: Editor("xyzzy", fn=abs), "Nearest: none"),
])  # fmt: skip
def test_unknown_points_are_refused_with_the_nearest_right_one(make, words):
    with pytest.raises(NameUnknown) as caught:
        make()
    assert "no point named" in str(caught.value) and words in str(caught.value)
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, MiniAlbertError)


def test_asking_for_what_was_not_kept_says_what_was(model):
    tape = Recorder("hidden", layers=[1, 2])
    with pytest.raises(NameUnknown, match="nothing kept yet"):
        tape["hidden", 1]
    model(**random_batch(model.config), tap=tape)
    with pytest.raises(NameUnknown, match="hidden, 1"):
        tape["hidden", 5]
    with pytest.raises(NameUnknown, match="say which"):
        tape["hidden"]
    with pytest.raises(InputError, match="layer -1"):
        Recorder("hidden", layers=[-1])


def test_an_editor_must_keep_the_shape(model):
    with pytest.raises(
        InputError, match=r"editor of mid at layer 2 gave \[3, 9, 11\] torch.float32, expected \[3, 9, 12\]"
    ):
        model(**random_batch(model.config), tap=Editor("mid", 2, fn=lambda x: x[..., 1:]))
    with pytest.raises(InputError, match="gave NoneType"):
        model(**random_batch(model.config), tap=Editor("mid", 2, fn=lambda x: None))
    with pytest.raises(InputError, match=r"gave .* torch.float64, expected .* torch.float32"):
        model(**random_batch(model.config), tap=Editor("mid", 2, fn=torch.Tensor.double))


def test_taps_that_can_never_fire_are_refused(model):
    batch = random_batch(model.config)
    for tap in (Editor("mid", 7, fn=abs), Recorder("hidden", layers=[8, 9]), chain(Editor("mid", [30], fn=abs))):
        with pytest.raises(InputError, match=r"this run has layers 0\.\.6"):
            model(**batch, tap=tap)
    with pytest.raises(InputError, match=r"layers 0\.\.2"):
        model(**batch, tap=Editor("mid", 3, fn=abs), depth=2)
    model(**batch, tap=Recorder("hidden", layers=[0, 6, 12]))
    for make, words in [
        (lambda: Recorder(), "at least one point"),
        (lambda: Editor("mid", fn=5), "fn is a int"),
        (lambda: chain(5), "a int is no tap"),
        (lambda: model(**batch, tap=[tap]), "chain"),
    ]:
        with pytest.raises(InputError, match=words):
            make()
