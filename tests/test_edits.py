"""Ready-made editors: each changes what it names and nothing below, and a run can be patched into another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import POINTS, AlbertForPreTraining, AlbertModel, Recorder, chain
from minialbert.edits import add, mean_ablate, patch, replace, zero_ablate
from minialbert.errors import InputError, NameUnknown
from minialbert.hooks import HEADS, TOKENS
from tests.conftest import random_batch, tiny_bert, tiny_config

LAYERED = [name for name, (where, _, _) in POINTS.items() if where == "1..L"]


@pytest.fixture(scope="module", params=[tiny_config(), tiny_config(num_hidden_groups=2), tiny_bert()])
def model(request):
    torch.manual_seed(0)
    model = AlbertForPreTraining(request.param).eval().double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def run(model, batch, *taps):
    tape = Recorder(*POINTS)
    with torch.no_grad():
        model(**batch, tap=chain(*taps, tape))
    return tape


# ---- activation patching ----


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([*LAYERED, "hidden", "embeddings"]), st.integers(0, 99))
def test_patching_every_visit_from_run_b_turns_run_a_into_b(model, name, seed):
    batch_a, batch_b = random_batch(model.config, seed=seed), random_batch(model.config, seed=seed + 1)
    batch_b["attention_mask"] = batch_a["attention_mask"]
    a, b = run(model, batch_a), run(model, batch_b)
    patched = run(model, batch_a, patch(b, "hidden"), patch(b, name))
    for key in b:
        if key[0] != "embeddings.word" and key[0] not in ("embeddings.token_type", "embeddings"):
            assert (patched[key] - b[key]).abs().max() < 1e-12, key
    for key in (("hidden", 3), ("pooled", 0), ("sop.logits", 0), ("mlm.logits", 0)):
        assert torch.equal(patched[key], b[key]) and not torch.equal(a[key], b[key])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_patching_one_visit_one_token_leaves_the_rest_of_that_visit_and_all_below_bit_equal(model, data):
    layer = data.draw(st.integers(1, model.config.num_visits))
    tokens = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=3, unique=True))
    batch_a, batch_b = random_batch(model.config, seed=1), random_batch(model.config, seed=2)
    a, b = run(model, batch_a), run(model, batch_b)
    patched = run(model, batch_a, patch(b, "hidden", layer, tokens=tokens))
    for below in range(layer):
        assert torch.equal(patched["hidden", below], a["hidden", below])
    others = [t for t in range(9) if t not in tokens]
    assert torch.equal(patched["hidden", layer][:, tokens], b["hidden", layer][:, tokens])
    assert torch.equal(patched["hidden", layer][:, others], a["hidden", layer][:, others])


def test_patching_one_head_changes_that_head_alone(model):
    a, b = (run(model, random_batch(model.config, seed=seed)) for seed in (1, 2))
    patched = run(model, random_batch(model.config, seed=1), patch(b, "attention.context", 2, heads=1, tokens=[0, 4]))
    found = patched["attention.context", 2]
    want = a["attention.context", 2].clone()
    want[:, 1, [0, 4]] = b["attention.context", 2][:, 1, [0, 4]]
    assert torch.equal(found, want) and not torch.equal(found, a["attention.context", 2])
    assert torch.equal(patched["hidden", 1], a["hidden", 1]) and not torch.equal(patched["mid", 2], a["mid", 2])


def test_a_run_patched_with_its_own_tape_changes_no_bit(model):
    batch = random_batch(model.config)
    own = run(model, batch)
    for name in POINTS:
        if name not in ("attention.scores", "attention.probs"):  # changed probs take the written-out way
            again = run(model, batch, patch(own, name))
            assert all(torch.equal(again[key], own[key]) for key in own), name


def test_what_a_tape_did_not_keep_or_kept_in_another_shape_is_refused(model):
    tape = Recorder("hidden", layers=[2])
    with torch.no_grad():
        model(**random_batch(model.config), tap=tape)
    with pytest.raises(NameUnknown, match=r"nothing kept for \('hidden', 3\): hidden, 2: \[3, 9, 12\]"):
        patch(tape, "hidden", 3)
    with pytest.raises(NameUnknown, match="nothing kept for"):
        patch(tape, "mid")
    with pytest.raises(InputError, match="a dict is no tape: give the Recorder"):
        patch({}, "hidden")
    with pytest.raises(InputError, match=r"kept hidden at layer 2 as \[3, 9, 12\], this run has \[2, 9, 12\]"):
        model(**random_batch(model.config, B=2), tap=patch(tape, "hidden"))


# ---- the others ----


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([n for n in LAYERED if n in TOKENS]), st.integers(1, 4), st.data())
def test_zero_ablation_is_zero_where_it_says_and_nowhere_else(model, name, layer, data):
    batch = random_batch(model.config)
    heads = data.draw(st.none() | st.integers(0, 2)) if name in HEADS else None
    tokens = data.draw(st.none() | st.lists(st.integers(0, 8), min_size=1, max_size=4))
    plain, edited = run(model, batch), run(model, batch, zero_ablate(name, layer, heads=heads, tokens=tokens))
    want = plain[name, layer].clone()
    index = [slice(None)] * want.dim()
    chosen = torch.zeros(want.shape, dtype=torch.bool)
    if heads is not None:
        index[1] = slice(heads, heads + 1)
    picked = chosen[tuple(index)]
    picked.index_fill_(TOKENS[name], torch.tensor(sorted(set(tokens or range(9)))), True)
    assert torch.equal(edited[name, layer], want.masked_fill(chosen, 0))
    for below in range(layer):
        assert torch.equal(edited["hidden", below], plain["hidden", below])


def test_add_and_replace_take_what_broadcasts_and_refuse_what_does_not(model):
    batch = random_batch(model.config)
    plain = run(model, batch)
    vector = torch.linspace(-1, 1, 12, dtype=torch.float32)
    steered = run(model, batch, add("hidden", 2, vector, tokens=[1, 3]))
    assert torch.equal(steered["hidden", 2][:, [1, 3]], plain["hidden", 2][:, [1, 3]] + vector.double())
    assert torch.equal(steered["hidden", 2][:, 2], plain["hidden", 2][:, 2])
    put = run(model, batch, replace("hidden", 2, vector, tokens=4))
    assert torch.equal(put["hidden", 2][:, 4], vector.double().expand(3, 12))
    moved = run(model, batch, replace("hidden", 2, plain["hidden", 2][:, 5:6], tokens=4))  # token 5 in the place of 4
    assert torch.equal(moved["hidden", 2][:, 4], plain["hidden", 2][:, 5])
    for edit in (add, replace):
        with pytest.raises(InputError, match=r"a tensor \[7\] does not fit hidden, here \[3, 9, 12\]"):
            model(**batch, tap=edit("hidden", 2, torch.ones(7)))
        with pytest.raises(InputError, match="layers are whole numbers, not a Tensor"):
            edit("hidden", torch.ones(12), 3)
        with pytest.raises(InputError, match="does not fit"):
            model(**batch, tap=edit("hidden", 2, torch.ones(4, 3, 9, 12)))


def test_mean_ablation_puts_in_the_mean_of_real_tokens(model):
    batch = random_batch(model.config)
    plain, mask = run(model, batch), batch["attention_mask"]
    edited = run(model, batch, mean_ablate(plain, "ffn.out", 3, mask=mask))
    mean = plain["ffn.out", 3][mask == 1].mean(0)
    assert (edited["ffn.out", 3] - mean).abs().max() < 1e-14
    edited = run(model, batch, mean_ablate(plain, "attention.context", mask=mask, heads=[0, 2]))
    for layer in (1, 2):
        x = plain["attention.context", layer]
        for head in (0, 2):
            mean = sum(x[b, head, mask[b] == 1].sum(0) for b in range(3)) / mask.sum()
            if layer == 1:
                assert (edited["attention.context", layer][:, head] - mean).abs().max() < 1e-14
        assert layer > 1 or torch.equal(edited["attention.context", layer][:, 1], x[:, 1])
    one_token = run(model, batch, mean_ablate(plain, "hidden", 2, tokens=4))
    assert (one_token["hidden", 2][:, 4] - plain["hidden", 2].mean((0, 1))).abs().max() < 1e-14
    with pytest.raises(InputError, match="has no mean vector of a token"):
        mean_ablate(plain, "attention.probs")
    with pytest.raises(InputError, match=r"mask is \[3, 4\], the tape has 3 texts of 9 tokens"):
        mean_ablate(plain, "hidden", mask=torch.ones(3, 4))


def test_edits_work_in_training_and_gradients_pass_them():
    model = AlbertModel(tiny_config(hidden_dropout_prob=0.1)).train()
    batch = random_batch(model.config)
    vector = torch.zeros(12, requires_grad=True)
    model(**batch, tap=add("hidden", 3, vector, tokens=2)).last_hidden_state.square().sum().backward()
    assert vector.grad.abs().sum() > 0
