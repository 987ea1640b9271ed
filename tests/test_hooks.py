"""Taps: every point with its shape at every visit, recording that changes nothing, editing that changes one visit."""

import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import POINTS, AlbertForPreTraining, AlbertModel, Editor, Recorder, chain
from minialbert.errors import InputError, MiniAlbertError, NameUnknown
from minialbert.hooks import HEADS, TOKENS
from minialbert.tools.count import counted
from tests.conftest import pair_of, random_batch, tiny_bert, tiny_config

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


@pytest.mark.parametrize("config", [tiny_config(), tiny_bert(), tiny_config(num_hidden_groups=2, inner_group_num=2)])
def test_gradients_of_every_point_are_those_of_the_written_out_model(config):
    torch.manual_seed(0)
    model = AlbertForPreTraining(config).double().eval()
    batch = random_batch(config)

    def loss(tap):
        out = model(**batch, tap=tap)
        return out.prediction_logits.square().mean() + out.sop_logits.square().sum()

    tape, graph = Recorder(*POINTS, gradients=True), Recorder(*POINTS, detach=False)
    loss(tape).backward()
    with pytest.raises(NameUnknown, match="nothing kept for"):
        tape.gradients["hidden", 99]
    value = loss(graph)
    for (key, x), g in zip(graph.kept.items(), torch.autograd.grad(value, list(graph.kept.values())), strict=True):
        assert torch.equal(tape.gradients[key], g) and g.shape == tape[key].shape, key
        assert not tape[key].requires_grad and torch.equal(tape[key], x.detach())
    parts = Recorder("attention.v", "hidden", tokens=[4, 2], gradients=True)
    loss(parts).backward()
    assert (parts.gradients["hidden", 3] - tape.gradients["hidden", 3][:, [2, 4]]).abs().max() < 1e-15
    # a step along the gradient of one visit changes the loss by what the gradient says
    step = 1e-6 * tape.gradients["mid", 2]
    moved = loss(Editor("mid", 2, fn=lambda x: x + step))
    assert ((moved - value) / (1e-6 * tape.gradients["mid", 2].square().sum()) - 1).abs() < 1e-3


def test_without_gradients_in_the_run_there_are_none_to_keep(model):
    tape = Recorder("hidden", gradients=True)
    with torch.no_grad():
        model(**random_batch(model.config), tap=tape)
    assert len(tape) == 7 and not tape.gradients


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_heads_and_tokens_keep_the_part_they_name_and_no_memory_beside_it(model, data):
    name = data.draw(st.sampled_from(sorted(TOKENS)))
    heads = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=1)) if name in HEADS else None
    tokens = data.draw(st.none() | st.integers(0, 8) | st.lists(st.integers(0, 8), min_size=1))
    batch = random_batch(model.config)
    whole, part = Recorder(name), Recorder(name, heads=heads, tokens=tokens)
    with torch.no_grad():
        plain = model(**batch, tap=whole)
        taped = model(**batch, tap=part)
    assert torch.equal(plain.prediction_logits, taped.prediction_logits)
    for key, x in whole.kept.items():
        if heads is not None:
            x = x[:, sorted(set(heads))]
        if tokens is not None:
            x = x.index_select(TOKENS[name], torch.tensor(sorted({tokens} if isinstance(tokens, int) else set(tokens))))
        assert torch.equal(part[key], x) and part[key].dim() == x.dim()
        if heads is not None or tokens is not None:
            assert part[key].untyped_storage().nbytes() == x.numel() * x.element_size()


def test_what_is_kept_can_have_another_dtype(model):
    tape = Recorder("hidden", layers=2, dtype=torch.float16, device="cpu")
    model(**random_batch(model.config), tap=tape)
    assert tape["hidden", 2].dtype == torch.float16


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([n for n in POINTS if n in TOKENS]), min_size=1, unique=True),
    st.none() | st.lists(st.integers(0, 8), min_size=1),
    st.none() | st.lists(st.integers(0, 6), min_size=1),
    st.sampled_from([None, torch.float16]),
    st.sampled_from([None, 2]),
)
def test_a_recorder_tells_its_size_before_anything_runs(model, names, tokens, layers, dtype, depth):
    tape = Recorder(*names, tokens=tokens, layers=layers, dtype=dtype)
    told = tape.size(model.config, 3, 9, depth)
    if layers and depth is not None and min(layers) > depth:
        return
    with torch.no_grad():
        model(**random_batch(model.config), tap=tape, depth=depth)
    assert told == sum(x.numel() * x.element_size() for x in tape.kept.values())


def test_the_size_of_everything_counts_every_point_and_gradients_again(model):
    tape = Recorder(*POINTS)
    model(**random_batch(model.config), tap=tape)
    total = sum(x.numel() * x.element_size() for x in tape.kept.values())
    assert tape.size(model.config, 3, 9) == total
    assert Recorder(*POINTS, gradients=True).size(model.config, 3, 9) == 2 * total


def test_heads_and_tokens_that_are_not_there_are_refused(model):
    batch = random_batch(model.config)
    for make, words in [
        (
            lambda: Recorder("attention.q", "hidden", heads=1),
            r"heads=1: hidden has no axis of heads, it is \[B, T, H\]",
        ),
        (lambda: Recorder("pooled", tokens=1), r"pooled has no axis of tokens, it is \[B, H\]"),
        (lambda: Recorder("hidden", tokens=-1), "token -1: tokens are counted from 0"),
        (lambda: Recorder("hidden", layers=[]), "an empty list names none"),
        (lambda: Editor("mid", [0, 2], fn=abs), r"mid never passes at layer 0, it does at 1\.\.L"),
        (lambda: Recorder("hidden", layers=2.0), "layers are whole numbers, not a float"),
        (lambda: model(**batch, tap=Editor("mid", [3, 7], fn=abs)), r"mid at layer 7: this run has layers 0\.\.6"),
        (lambda: model(**batch, tap=Recorder("attention.q", heads=[0, 3])), r"no head 3, there are heads 0\.\.2"),
        (lambda: model(**batch, tap=Editor("mid", 2, fn=abs, tokens=9)), r"no token 9, there are tokens 0\.\.8"),
    ]:
        with pytest.raises(InputError, match=words):
            make()


def test_an_editor_of_a_part_sees_the_part_and_leaves_the_rest(model):
    seen = []

    def fn(x):
        seen.append(list(x.shape))
        return x * 2

    batch, plain, edited = random_batch(model.config), Recorder("attention.q"), Recorder("attention.q")
    with torch.no_grad():
        want = model(**batch, tap=plain)
        model(**batch, tap=chain(Editor("attention.q", 2, fn=fn, heads=[2, 0], tokens=[1, 5, 6]), edited))
        same = model(**batch, tap=Editor("attention.q", 2, fn=lambda x: x, heads=1, tokens=3))
    assert seen == [[3, 2, 3, 4]]
    expected = plain["attention.q", 2].clone()
    expected[:, [[0], [2]], [[1, 5, 6]]] *= 2
    assert torch.equal(edited["attention.q", 2], expected)
    assert torch.equal(same.prediction_logits, want.prediction_logits)


# ---- every class, autocast, compile ----


CLASSES = ["Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
           "ForQuestionAnswering", "ForMultipleChoice"]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("training", [False, True])
def test_taps_work_in_every_class_in_training_too(name, training):
    config = tiny_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    torch.manual_seed(0)
    model = getattr(minialbert, f"Albert{name}")(config).train(training)
    batch = random_batch(config)
    if name == "ForMultipleChoice":
        batch = {key: x[:, None].expand(3, 2, 9) for key, x in batch.items()}
    tape, outputs = Recorder("hidden", "attention.context", layers=[0, 4], gradients=True), []
    for tap in (tape, minialbert.model.no_tap):
        torch.manual_seed(1)
        outputs.append(model(**batch, tap=tap)[-1 if name != "Model" else 0])
    assert torch.equal(*outputs)
    outputs[0].sum().backward()
    assert set(tape) == set(tape.gradients) == {("hidden", 0), ("hidden", 4), ("attention.context", 4)}
    edited = model.eval()(**batch, tap=Editor("hidden", 4, fn=torch.zeros_like))[-1 if name != "Model" else 0]
    assert not torch.equal(edited, model(**batch)[-1 if name != "Model" else 0])


def test_under_autocast_what_is_kept_is_what_passed(model):
    batch, tape = random_batch(model.config), Recorder(*POINTS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = model(**batch)
        taped = model(**batch, tap=tape)
        zeroed = model(**batch, tap=Editor("attention.q", 3, fn=torch.zeros_like, heads=1))
    assert torch.equal(plain.prediction_logits, taped.prediction_logits)
    assert tape["attention.q", 2].dtype == torch.bfloat16 and tape["embeddings.word", 0].dtype == torch.float32
    assert not torch.equal(zeroed.prediction_logits, plain.prediction_logits)


def test_taps_work_under_torch_compile(model):
    batch = random_batch(model.config)
    tape, again = Recorder("hidden", "attention.probs", "ffn.inner"), Recorder("hidden", "attention.probs", "ffn.inner")
    compiled = torch.compile(model, backend="aot_eager")
    silence = Editor("attention.context", 3, fn=torch.zeros_like, heads=1)
    with torch.no_grad():
        want = model(**batch, tap=chain(silence, tape))
        found = compiled(**batch, tap=chain(silence, again))
    assert (found.prediction_logits - want.prediction_logits).abs().max() < 1e-6
    assert set(again) == set(tape) and all((again[key] - tape[key]).abs().max() < 1e-6 for key in tape)


def test_a_compiled_model_hears_another_tap_at_another_layer(model):
    batch = random_batch(model.config)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for layer in (3, 1, 2, 3):
            silence, tape = Editor("hidden", layer, fn=torch.zeros_like), Recorder("mid", layers=layer)
            want = model(**batch, tap=silence).prediction_logits
            assert (compiled(**batch, tap=chain(silence, tape)).prediction_logits - want).abs().max() < 1e-6
            assert list(tape) == [("mid", layer)]


# ---- the trap ----


def test_a_plain_forward_hook_fires_for_every_visit_under_one_name_and_a_dictionary_keeps_the_last(tmp_path):
    config = tiny_config(num_hidden_layers=4)
    ours, theirs = pair_of(config, tmp_path)
    batch = random_batch(config)
    batch["attention_mask"][:] = 1
    calls, kept = Counter(), {}
    for name, module in theirs.named_modules():
        if name.startswith("encoder.albert_layer_groups.0.albert_layers.0"):

            def hook(_, __, output, name=name):
                calls[name] += 1
                kept[name] = output

            module.register_forward_hook(hook)
    tape = Recorder("hidden", "ffn.out", "attention.q")
    with torch.no_grad():
        hidden = theirs(**batch, output_hidden_states=True).hidden_states
        ours(**batch, tap=tape)

    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    assert calls[layer] == calls[f"{layer}.ffn_output"] == 4, "one name, four visits"
    block = kept[layer][0] if isinstance(kept[layer], tuple) else kept[layer]
    assert torch.equal(block.view(hidden[4].shape), hidden[4]), "only the last visit is left"
    assert not torch.equal(block.view(hidden[4].shape), hidden[3])
    last = kept[f"{layer}.ffn_output"]
    distances = [(last - tape["ffn.out", number]).abs().max().item() for number in range(1, 5)]
    assert distances[3] < 1e-10 and min(distances[:3]) > 1e-3
    for number in range(5):  # a tap gives each one
        assert (tape["hidden", number] - hidden[number]).abs().max() < 1e-10
    listed = torch.nn.ModuleList([theirs.encoder.albert_layer_groups[0]] * 4)  # and this is no cure
    weights = [n for n in listed.state_dict() if n.endswith("ffn.weight")]
    assert len(weights) == 4 and sum(n.endswith("ffn") for n, _ in listed.named_modules()) == 1


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


# ---- memory ----


def test_recording_one_layer_of_a_base_size_model_takes_at_most_a_tenth_more_memory_than_none():
    config = minialbert.AlbertConfig.preset("albert-base-v2")
    model = AlbertModel(config).eval()
    batch = {"input_ids": torch.ones(8, 128, dtype=torch.long), "attention_mask": torch.ones(8, 128, dtype=torch.long)}

    def peak(tap=minialbert.model.no_tap):
        with torch.inference_mode():
            return counted(lambda: model(**batch, tap=tap)).peak_bytes

    plain = peak()
    for names in (["hidden"], ["ffn.out"], ["attention.q"]):
        tape = Recorder(*names, layers=6)
        ratio = peak(tape) / plain
        print(f"{names[0]}: {ratio:.3f} of a plain forward, {tape.size(config, 8, 128) / 2**20:.1f} MiB kept")
        assert ratio <= 1.1
    head = Recorder("attention.context", layers=6, heads=0)
    assert peak(head) / plain <= 1.01
    assert head["attention.context", 6].untyped_storage().nbytes() == head.size(config, 8, 128) == 8 * 128 * 64 * 4
