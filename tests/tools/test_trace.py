"""trace: statistics that equal those by hand, lines that are the lines, formulas for every point."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import POINTS, AlbertForMultipleChoice, AlbertForPreTraining, AlbertModel, Recorder, chain
from minialbert.errors import InputError, MiniAlbertError, NameUnknown
from minialbert.tools.trace import FORMULAS, Step, follow, formula, shared_with, statistics, trace
from tests.conftest import random_batch, tiny_bert, tiny_config

PACKAGE = Path(minialbert.__file__).parent
CONFIGS = {
    "albert": tiny_config(initializer_range=0.3),
    "bert": tiny_bert(initializer_range=0.3),
    "groups": tiny_config(initializer_range=0.3, num_hidden_groups=2, inner_group_num=2),
    "attention shared": tiny_config(initializer_range=0.3, parameter_sharing="attention", hidden_act="relu"),
}
CLASSES = [
    "AlbertModel", "AlbertForPreTraining", "AlbertForMaskedLM", "AlbertForSequenceClassification",
    "AlbertForTokenClassification", "AlbertForQuestionAnswering", "AlbertForMultipleChoice",
]  # fmt: skip


def model_of(name: str, cls: str = "AlbertForPreTraining"):
    torch.manual_seed(0)
    return getattr(minialbert, cls)(CONFIGS[name]).eval()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return model_of(request.param)


def batch_of(model) -> dict:
    batch = random_batch(model.config)
    if isinstance(model, AlbertForMultipleChoice):
        batch = {key: x[:, None].repeat(1, 2, 1) for key, x in batch.items()}
    return batch


# ---- formulas ----


def test_every_point_has_a_formula_that_fits_its_line():
    assert set(FORMULAS) == set(POINTS)
    for config in (None, *CONFIGS.values()):
        assert all(0 < len(formula(point, layer, config)) <= 48 for point in POINTS for layer in (0, 1, 48))


def test_a_formula_names_the_layer_below_the_projection_and_the_activation():
    assert formula("attention.q", 3).startswith("hidden[2] W_q")
    assert formula("mid", 1) == "LayerNorm(hidden[0] + attention.out)"
    assert formula("hidden", 3) == "LayerNorm(mid + ffn.out)"
    assert formula("hidden", 0, CONFIGS["albert"]) == formula("hidden", 0) == "embeddings W + b, from E to H"
    assert formula("hidden", 0, CONFIGS["bert"]) == "embeddings, H wide as they are"
    assert formula("ffn.inner", 1, CONFIGS["bert"]) == "gelu(ffn.pre)"
    with pytest.raises(NameUnknown, match=r"no point named 'ffn\.iner'. Nearest: ffn\.inner"):
        formula("ffn.iner", 1)


def test_the_formulas_are_what_the_model_computes():
    model, layer = model_of("albert").double(), 2
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is zero then
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tape, embeddings, encoder = Recorder(*POINTS), model.albert.embeddings, model.albert.encoder
    batch = random_batch(model.config, B=1)
    model(**batch, tap=tape)
    a, f, pooler, mlm, sop = encoder.attentions[0], encoder.feed_forwards[0], model.albert.pooler, model.mlm, model.sop

    def times(x, linear):  # x W + b
        return x @ linear.weight.T + linear.bias

    def cut(x):
        return x.unflatten(-1, (3, 4)).transpose(1, 2)

    word, token_type, position = (tape[f"embeddings.{name}"] for name in ("word", "token_type", "position"))
    q, k, v = (tape[f"attention.{name}", layer] for name in "qkv")
    x, last = tape["hidden", layer - 1], tape["hidden", 6]
    of = {name: tape[name, layer] for name, (where, _, _) in POINTS.items() if where != "0"}
    computed = {
        "embeddings.word": embeddings.word.weight[batch["input_ids"]],
        "embeddings.token_type": embeddings.token_type.weight[batch["token_type_ids"]],
        "embeddings.position": embeddings.position.weight[None, :9],
        "embeddings": embeddings.norm(word + token_type + position),
        "attention.q": cut(times(x, a.query)),
        "attention.k": cut(times(x, a.key)),
        "attention.v": cut(times(x, a.value)),
        "attention.scores": q @ k.mT / 4**0.5,
        "attention.probs": of["attention.scores"].softmax(-1),
        "attention.context": (q @ k.mT / 4**0.5).softmax(-1) @ v,
        "attention.out": times(of["attention.context"].transpose(1, 2).flatten(2), a.output),
        "mid": a.norm(x + of["attention.out"]),
        "ffn.pre": times(of["mid"], f.up),
        "ffn.inner": torch.nn.functional.gelu(of["ffn.pre"], approximate="tanh"),
        "ffn.out": times(of["ffn.inner"], f.down),
        "hidden": f.norm(of["mid"] + of["ffn.out"]),
        "pooled": torch.tanh(times(last[:, 0], pooler)),
        "mlm.logits": mlm.norm(mlm.act(times(last, mlm.dense))) @ embeddings.word.weight.T + mlm.bias,
        "sop.logits": times(tape["pooled"], sop.classifier),
    }
    assert set(computed) == set(FORMULAS)
    for point, value in computed.items():
        kept = of[point] if point in of else tape[point]
        assert (kept - value).abs().max() < 1e-12, f"{point}: {formula(point, layer)}"
    assert (tape["hidden", 0] - times(tape["embeddings"], embeddings.projection)).abs().max() < 1e-12


# ---- numbers ----


def vectors_of(tensor: np.ndarray, point: str, lengths: list[int]) -> list[np.ndarray]:
    """By hand: the vectors of real tokens, cut to real keys."""
    if "T" not in POINTS[point][1]:
        return list(tensor)
    if POINTS[point][1] == "[B, A, T, T]":
        return [row[:n] for text, n in zip(tensor, lengths, strict=True) for head in text for row in head[:n]]
    if "A" in POINTS[point][1]:
        return [row for text, n in zip(tensor, lengths, strict=True) for head in text for row in head[:n]]
    return [row for text, n in zip(tensor, lengths, strict=True) for row in text[:n]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_those_by_hand_over_real_tokens_in_float64(model, dtype):
    model, tape = copy.deepcopy(model).to(dtype), Recorder(*POINTS)
    batch = random_batch(model.config, B=4, seed=3)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert min(lengths) < 9
    model(**batch, tap=tape)
    steps = trace(model, batch)
    assert [(step.point, step.layer) for step in steps] == list(tape)  # each once, in the order of the forward
    for step in steps:
        tensor = tape[step.point, step.layer]
        vectors = vectors_of(tensor.double().numpy(), step.point, lengths)
        numbers = np.concatenate(vectors)
        norm = np.mean([np.sqrt((vector**2).sum()) for vector in vectors])
        want = (numbers.mean(), numbers.std(), norm, numbers.min(), numbers.max())
        assert np.abs(np.subtract((step.mean, step.std, step.norm, step.low, step.high), want)).max() < 1e-12, step
        assert step.shape == tuple(tensor.shape)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(0, 7), st.integers(0, 99))
def test_padding_changes_no_statistic(T, more, seed):
    model = model_of("albert").double()
    ids = torch.randint(0, 31, (1, T), generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([ids, torch.zeros(1, more, dtype=torch.long)], 1)
    plain = trace(model, {"input_ids": ids})
    mask = [[1] * T + [0] * more]
    for one, two in zip(plain, trace(model, {"input_ids": padded, "attention_mask": mask}), strict=True):
        for name in ("mean", "std", "norm", "low", "high"):
            assert abs(getattr(one, name) - getattr(two, name)) < 1e-12, (one, name)


def test_a_mask_of_pairs_counts_the_pairs_it_allows(model):
    batch = random_batch(model.config, B=2)
    row = batch["attention_mask"].bool()[:, None, None, :].expand(2, 1, 9, 9)
    as_pairs = trace(model, batch | {"attention_mask": row})
    for one, two in zip(trace(model, batch), as_pairs, strict=True):
        assert abs(one.mean - two.mean) < 1e-5 and abs(one.norm - two.norm) < 1e-5, one
    with pytest.raises(InputError, match=r"no real token"):
        trace(model, batch | {"attention_mask": torch.zeros(2, 9)})
    with pytest.raises(InputError, match=r"attention_mask is \[2, 8\]"):
        trace(model, batch | {"attention_mask": torch.ones(2, 8)})


def test_statistics_of_three_numbers_are_what_the_words_say():
    numbers = torch.tensor([[3.0, 4.0], [6.0, 8.0], [99.0, 99.0]], dtype=torch.float64)
    counted = torch.tensor([[True, True], [True, True], [False, False]])
    assert statistics(numbers, counted) == (5.25, np.std([3, 4, 6, 8]), 7.5, 3.0, 8.0)


# ---- places ----


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cls", CLASSES)
def test_the_line_given_is_the_line_where_the_point_stands(name, cls):
    model = model_of(name, cls)
    steps = trace(model, batch_of(model))
    assert {(step.point, step.layer) for step in steps} == points_of(model)
    for step in steps:
        line = (PACKAGE / step.file).read_text().splitlines()[step.line - 1].strip()
        assert f'"{step.point}"' in line and step.code == line, step
        assert step.file == ("heads.py" if step.point in ("mlm.logits", "sop.logits") else "model.py")
        assert re.search(r"tap\(", line)


class Wrapping(AlbertModel):
    """Somebody's own class, outside the package, that passes taps on in a wrapping."""

    def forward(self, *inputs, tap, **more):
        return super().forward(*inputs, tap=chain(lambda name, layer, x: tap(name, layer, x)), **more)


def test_a_tap_that_is_wrapped_on_its_way_still_finds_the_line():
    model = Wrapping(CONFIGS["albert"]).eval()
    steps, plain = trace(model, random_batch(model.config)), model_of("albert", "AlbertModel")
    want = trace(plain, random_batch(model.config))
    assert [(s.file, s.line, s.code) for s in steps] == [(s.file, s.line, s.code) for s in want]


def points_of(model) -> set[tuple[str, int]]:
    L = model.config.num_visits
    where = {"0": [0], "0..L": range(L + 1), "1..L": range(1, L + 1)}
    heads = {"AlbertModel": {"pooled"}, "AlbertForPreTraining": {"pooled", "mlm.logits", "sop.logits"},
             "AlbertForMaskedLM": {"mlm.logits"}, "AlbertForSequenceClassification": {"pooled"},
             "AlbertForMultipleChoice": {"pooled"}}.get(type(model).__name__, set())  # fmt: skip
    ours = set(POINTS) - {"pooled", "mlm.logits", "sop.logits"} | heads
    return {(name, layer) for name in ours for layer in where[POINTS[name][0]]}


def test_shapes_agree_with_their_letters(model):
    config = model.config
    sizes = {"B": 3, "T": 9, "E": config.embedding_size, "H": 12, "A": 3, "D": 4, "F": 20, "V": 31, "M": 2}
    places = torch.tensor([[0, 1]] * 3)
    for batch in (random_batch(config), random_batch(config) | {"masked_positions": places}):
        for step in trace(model, batch):
            letters = step.letters.strip("[]").split(", ")
            assert list(step.shape) == [int(s) if s.isdigit() else sizes[s] for s in letters], step
            assert step.letters == POINTS[step.point][1] or (len(batch) == 4 and step.letters == "[B, M, V]")


def test_a_step_names_the_module_and_shared_visits_name_the_same_one():
    for name in CONFIGS:
        model = model_of(name)
        for step in trace(model, random_batch(model.config)):
            inside = model.get_submodule(step.module)
            if step.layer:
                a, f = model.albert.encoder.plan[step.layer - 1]
                halves = model.albert.encoder.attentions[a], model.albert.encoder.feed_forwards[f]
                assert inside is halves[step.point.startswith(("ffn", "hidden"))]
            else:
                assert type(inside).__name__ in ("Embeddings", "AlbertModel", "MLMHead", "SOPHead")


# ---- the run ----


@settings(max_examples=10, deadline=None)
@given(st.sets(st.sampled_from(sorted(POINTS)), min_size=1), st.integers(0, 99), st.booleans())
def test_tracing_changes_no_bit_of_the_output(points, seed, training):
    model = model_of("albert").train(training)
    batch = random_batch(model.config, seed=seed)
    torch.manual_seed(1)
    plain = model(**batch)
    torch.manual_seed(1)
    _, traced = follow(model, batch, points=points)
    assert torch.equal(plain.prediction_logits, traced.prediction_logits)
    assert torch.equal(plain.sop_logits, traced.sop_logits)


def test_points_layers_and_depth_choose(model):
    batch = random_batch(model.config)
    everything = trace(model, batch)
    some = trace(model, batch, points=["hidden", "ffn.pre"], layers=[0, 2])
    assert some == [s for s in everything if s.point in ("hidden", "ffn.pre") and s.layer in (0, 2)]
    assert [(s.point, s.layer) for s in some] == [("hidden", 0), ("ffn.pre", 2), ("hidden", 2)]
    assert trace(model, batch, points="pooled") == [s for s in everything if s.point == "pooled"]
    assert trace(model, batch, points="pooled", layers=2) == []
    shallow = trace(model, batch, depth=2)
    assert max(s.layer for s in shallow) == 2
    assert [s for s in shallow if s.layer] == [s for s in everything if 1 <= s.layer <= 2]
    with pytest.raises(NameUnknown, match=r"no point named 'attention'. Nearest: attention\.q"):
        trace(model, batch, points=["attention"])
    with pytest.raises(InputError, match=r"layer 3: this run has layers 0\.\.2"):
        trace(model, batch, layers=[1, 3], depth=2)
    with pytest.raises(InputError, match=r"layer -1"):
        trace(model, batch, layers=-1)
    with pytest.raises(MiniAlbertError):
        trace(model, {"input_ids": [[99]]})
    with pytest.raises(InputError, match="Linear"):
        trace(torch.nn.Linear(1, 1), {})


def test_a_shared_block_can_be_traced_past_its_layers_and_half_a_run_too():
    model = AlbertModel(CONFIGS["albert"]).eval()
    batch, tape = random_batch(model.config), Recorder("hidden")
    deep = trace(model, batch, depth=9)
    assert max(s.layer for s in deep) == 9
    model(**batch, tap=tape)
    rest = {"hidden_states": tape["hidden", 4], "from_layer": 4, "attention_mask": batch["attention_mask"]}
    assert trace(model, rest) == [s for s in trace(model, batch) if s.layer > 4 or s.point == "pooled"]


def test_a_step_cannot_be_changed_and_lists_and_arrays_are_batches_too():
    model = AlbertForPreTraining(CONFIGS["albert"]).eval()
    one = trace(model, {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 0]]})
    two = trace(model, {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.array([[1, 1, 0]])})
    assert one == two and isinstance(one[0], Step)
    with pytest.raises(AttributeError):
        one[0].mean = 0.0


def test_whose_weights_a_visit_uses_is_told_in_words():
    albert, bert = [(0, 0)] * 7, [(i, i) for i in range(4)]
    assert shared_with(albert, 1) == "new weights (attention 0, feed-forward 0)"
    assert shared_with(albert, 2) == "the same weights as layer 1 (attention 0, feed-forward 0)"
    assert shared_with(albert, 3) == "the same weights as layers 1, 2 (attention 0, feed-forward 0)"
    assert shared_with(albert, 7) == "the same weights as layers 1-6 (attention 0, feed-forward 0)"
    assert shared_with(bert, 4) == "new weights (attention 3, feed-forward 3)"
    assert shared_with(CONFIGS["groups"].sharing_plan(), 5) == (
        "the same weights as layers 1, 3 (attention 0, feed-forward 0)"
    )
    assert shared_with([(0, 0), (0, 1), (0, 2)], 3) == "attention 0 as in layers 1, 2; feed-forward 2 is new"
