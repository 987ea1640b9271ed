"""A new LoRA changes nothing, a trained one is what merging it says, and a visit's own pair is that visit's alone."""

import copy
import warnings

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import (
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
    Editor,
    Recorder,
)
from minialbert.errors import InputError, NameUnknown
from minialbert.finetune.freeze import counts, forward_from, table
from minialbert.finetune.lora import MAPS, Lora, merge, with_lora
from minialbert.model import wants_attention
from tests.conftest import random_batch, tiny_bert, tiny_config

CONFIGS = [
    tiny_config(),
    tiny_config(num_hidden_groups=2),
    tiny_config(num_hidden_groups=3, inner_group_num=2, num_hidden_layers=3),
    tiny_config(parameter_sharing="attention", num_hidden_layers=3),
    tiny_config(parameter_sharing="ffn", num_hidden_layers=3),
    tiny_bert(),
]
CLASSES = [
    AlbertModel, AlbertForPreTraining, AlbertForMaskedLM, AlbertForSequenceClassification,
    AlbertForTokenClassification, AlbertForQuestionAnswering, AlbertForMultipleChoice,
]  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
SOME_MAPS = st.sets(st.sampled_from(list(MAPS)), min_size=1)
IDS = ["one", "groups", "inner", "attention", "ffn", "bert"]


def made(cls, config, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = cls(config).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def trained(lora, seed=0):
    """As if it had learned: every B is random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for *_, pair in lora.pairs():
            pair.B.copy_(torch.randn(pair.B.shape, generator=generator) * 0.2)
    return lora


def tensors(output):
    return [x for x in output if x is not None]


def apart(a, b):
    return max((x - y).abs().max().item() for x, y in zip(tensors(a), tensors(b), strict=True))


def batch_for(cls, config, seed=0):
    batch = random_batch(config, seed=seed)
    return {k: x[None] for k, x in batch.items()} if cls is AlbertForMultipleChoice else batch


def merged(model, lora):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return merge(model, lora)


# ---- what it is ----


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CLASSES), st.sampled_from(CONFIGS), SOME_MAPS, st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_new_lora_changes_no_bit_and_a_trained_one_does(cls, config, parts, per_visit, training, seed):
    model, batch = made(cls, config, seed, torch.float32), batch_for(cls, config, seed)
    lora = Lora(config, 3, parts=parts, per_visit=per_visit)
    with torch.no_grad():
        wrapped = with_lora(model.train(training), lora)
        torch.manual_seed(seed)
        bare = model(**batch)
        torch.manual_seed(seed)
        assert all(torch.equal(a, b) for a, b in zip(tensors(bare), tensors(wrapped(**batch)), strict=True))
        trained(lora, seed)
        torch.manual_seed(seed)
        assert apart(wrapped(**batch), bare) > 0
    assert wrapped.training == training


def test_only_the_sign_of_a_zero_may_differ_at_the_start():
    lora = Lora(tiny_config(), parts="ffn.up")
    out = torch.tensor([-0.0, 1.5, -3e-42]).repeat(20)[:20].expand(2, 5, 20)
    found = lora.added("ffn.up", 1, torch.randn(2, 5, 12), out)
    assert torch.equal(found, out) and out[0, 0, 0].signbit() and not found[0, 0, 0].signbit()
    assert found[out != 0].view(torch.int32).equal(out[out != 0].view(torch.int32))


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("per_visit", [False, True])
def test_parameters_are_named_by_block_or_visit_and_counted_by_the_formula(config, per_visit):
    H, F, L, r = config.hidden_size, config.intermediate_size, config.num_visits, 3
    lora = Lora(config, r, parts=["attention", "ffn"], per_visit=per_visit)
    plan = config.sharing_plan()
    attentions, feed_forwards = (L, L) if per_visit else (len({a for a, _ in plan}), len({f for _, f in plan}))
    expected = attentions * 4 * r * (H + H) + feed_forwards * 2 * r * (H + F)
    assert sum(p.numel() for p in lora.parameters()) == expected
    sets = [f"visit.{n}" for n in range(1, L + 1)] if per_visit else None
    names = {f"{s}.{part}.{m}" for s in sets or [] for part in MAPS for m in "AB"}
    names |= {
        f"block.{n}.{part}.{m}" for n in range(attentions) for part in MAPS if "att" in part for m in "AB"
    } - names
    names |= {f"block.{n}.{part}.{m}" for n in range(feed_forwards) for part in MAPS if "ffn" in part for m in "AB"}
    found = {name for name, _ in lora.named_parameters()}
    assert found == ({n for n in names if n.startswith("visit.")} if per_visit else names)
    assert all((p == 0).all() == name.endswith("B") for name, p in lora.named_parameters())


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(CLASSES), st.sampled_from(CONFIGS), SOME_MAPS, st.booleans(), st.integers(1, 12), st.integers(0, 99)
)
def test_merged_weights_compute_what_the_model_with_its_lora_does(cls, config, parts, per_visit, rank, seed):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, batch = made(cls, config, seed, dtype), batch_for(cls, config, seed)
        before = copy.deepcopy(model.state_dict())
        lora = trained(Lora(config, rank, 2.5, parts, per_visit), seed)
        wrapped = with_lora(model, lora)
        one = merged(model, lora)
        with torch.no_grad():
            got, want = one(**batch), wrapped(**batch)
        assert apart(got, want) <= tolerance * max(1, max(x.abs().max().item() for x in tensors(want)))
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
        assert all(p.requires_grad for p in one.parameters()) and type(one) is cls
        assert {p.data_ptr() for p in one.parameters()}.isdisjoint({p.data_ptr() for p in model.parameters()})


def test_merging_a_lora_of_each_visit_gives_each_layer_its_weights_says_so_and_transformers_loads_it(tmp_path):
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    lora = trained(Lora(config, 4, parts=["attention", "ffn"], per_visit=True))
    with pytest.warns(UserWarning, match="the merged model has 6 groups, each layer its own weights"):
        one = merge(model, lora)
    assert one.config.num_hidden_groups == 6 and model.config == config
    one.save_pretrained(tmp_path)
    theirs = transformers.AlbertModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    with torch.no_grad():
        assert (
            theirs(**batch).last_hidden_state - with_lora(model, lora)(**batch).last_hidden_state
        ).abs().max() < 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to say where nothing is unshared
        assert merge(model, Lora(config)).config == config
        bert = made(AlbertModel, tiny_bert())
        assert merge(bert, Lora(bert.config, per_visit=True)).config == bert.config


def test_a_real_model_merges_within_float32(minilm):
    model = AlbertModel.from_pretrained(minilm)
    lora = trained(Lora(model.config, 8, parts=["attention", "ffn"]))
    with torch.no_grad():
        for *_, pair in lora.pairs():
            pair.B.mul_(0.05)
    batch = random_batch(model.config)
    with torch.no_grad():
        bare = model(**batch)
        wrapped = with_lora(model, lora)(**batch)
        assert apart(merge(model, lora)(**batch), wrapped) < 1e-5
    assert apart(bare, wrapped) > 0.01


# ---- one pair for each visit ----


def with_equal_pairs(shared, config):
    """A LoRA of each visit that starts from a shared one."""
    own = Lora(config, shared.rank, shared.alpha, shared.parts, per_visit=True)
    for number, half, name, pair in own.pairs():
        pair.load_state_dict(shared.pair(f"{half}.{name}", number).state_dict())
    return own


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([*CONFIGS, tiny_config(**DROPOUT)]), SOME_MAPS, st.booleans(), st.integers(0, 99))
def test_equal_pairs_are_a_shared_one_whose_gradient_is_the_sum_of_theirs(config, parts, training, seed):
    model, batch = made(AlbertForMaskedLM, config, seed).train(training), random_batch(config, seed=seed)
    shared = trained(Lora(config, 3, parts=parts), seed)
    losses = []
    for lora in (shared, own := with_equal_pairs(shared, config)):
        torch.manual_seed(seed)
        losses.append(with_lora(model, lora)(**batch, labels=batch["input_ids"]).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for number, half, name, pair in shared.pairs():
        visits = [v for v in range(1, config.num_visits + 1) if shared.number(half, v) == number]
        for matrix in "AB":
            whole = getattr(pair, matrix).grad
            terms = torch.stack([getattr(own.pair(f"{half}.{name}", v), matrix).grad for v in visits])
            assert (terms.sum(0) - whole).abs().max() <= 1e-12 * max(1, whole.abs().max())


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(CONFIGS), st.integers(1, 6), st.sampled_from(list(MAPS)))
def test_the_pair_of_a_visit_is_asked_at_that_visit_alone(config, layer, part):
    layer = min(layer, config.num_visits)
    model, batch = made(AlbertModel, config), random_batch(config)
    lora = Lora(config, 3, parts=part, per_visit=True)
    with torch.no_grad():
        lora.pair(part, layer).B.fill_(0.3)
    before, after = Recorder("hidden"), Recorder("hidden")
    with torch.no_grad():
        model(**batch, tap=before)
        with_lora(model, lora)(**batch, tap=after)
    same = [torch.equal(before["hidden", n], after["hidden", n]) for n in range(config.num_visits + 1)]
    assert same == [n < layer for n in range(config.num_visits + 1)]


def test_a_lora_of_each_visit_ends_at_the_last_and_a_shared_one_does_not():
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    own = with_lora(model, Lora(config, per_visit=True))
    with pytest.raises(
        InputError, match=r"depth=7: this LoRA has a pair for each of the visits 1\.\.6 and none for later"
    ):
        own(**batch, depth=7)
    assert own(**batch, depth=2).last_hidden_state.shape == (3, 9, 12)
    lora = trained(Lora(config, parts=["query", "ffn"]))
    deeper = with_lora(model, lora)(**batch, depth=11)
    assert apart(deeper, merge(model, lora)(**batch, depth=11)) < 1e-12


# ---- training ----


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([*CONFIGS, tiny_config(**DROPOUT)]), st.booleans(), st.integers(0, 99))
def test_the_frozen_model_is_bit_equal_after_steps_and_the_lora_and_the_head_have_moved(config, per_visit, seed):
    model, batch = made(AlbertForSequenceClassification, config, seed), random_batch(config, seed=seed)
    lora = Lora(config, 3, parts=["attention", "ffn"], per_visit=per_visit, dropout=0.1)
    before = copy.deepcopy(model.state_dict())
    wrapped = with_lora(model, lora).train()
    start = copy.deepcopy(lora.state_dict())
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for _ in range(4):
        loss = wrapped(**batch, labels=torch.tensor([0, 1, 1])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) != name.startswith("classifier."), name
    assert all(not torch.equal(weight, start[name]) for name, weight in lora.state_dict().items())


def test_what_else_learns_can_be_chosen_and_the_table_has_the_lora():
    config = tiny_config()
    model = made(AlbertForSequenceClassification, config)
    wrapped = with_lora(model, Lora(config, 3), learn=("pooler", "norms"))
    found = counts(wrapped)
    assert found["lora"] == (2 * 3 * 24, 2 * 3 * 24) and found["head"] == (0, 26) and found["pooler"] == (156, 156)
    assert "lora" in table(wrapped) and sum(t for _, t in found.values()) == sum(
        p.numel() for p in wrapped.parameters()
    )
    assert counts(with_lora(model, Lora(config), learn=()))["head"] == (0, 26)
    assert counts(with_lora(model, Lora(config)))["head"] == (26, 26)
    assert not any(p.requires_grad for p in with_lora(made(AlbertModel, config), Lora(config)).model.parameters())
    model(**random_batch(config)).logits.sum().backward()
    with pytest.raises(NameUnknown, match="no part named 'hed'"):
        with_lora(model, Lora(config), learn=("hed",))
    assert counts(model)["head"] == (26, 26) and model.classifier.weight.grad is not None
    again = with_lora(model, Lora(config).requires_grad_(False), learn=())
    assert all(p.requires_grad for p in again.lora.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert wrapped.config is model.config and wrapped.device.type == "cpu"


def test_dropout_is_on_the_input_of_the_pairs_in_training_only():
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    wrapped = with_lora(model, trained(Lora(config, dropout=0.5)))
    calls = [wrapped(**batch).last_hidden_state for _ in range(2)]
    assert torch.equal(*calls)
    wrapped.train()
    calls = [wrapped(**batch).last_hidden_state for _ in range(2)]
    assert not torch.equal(*calls)


@pytest.mark.parametrize("per_visit", [False, True])
def test_it_learns_under_autocast_and_beside_a_model_in_bfloat16(per_visit):
    config = tiny_config(**DROPOUT)
    batch, labels = random_batch(config), torch.tensor([0, 1, 1])
    exact = with_lora(
        made(AlbertForSequenceClassification, config, dtype=torch.float32), Lora(config, per_visit=per_visit)
    )
    half = with_lora(
        made(AlbertForSequenceClassification, config, dtype=torch.bfloat16), Lora(config, per_visit=per_visit)
    )
    assert {p.dtype for p in half.lora.parameters()} == {torch.float32}
    for wrapped in (exact, half):
        lora = trained(wrapped.lora)
        with torch.no_grad():
            want = exact(**batch).logits if wrapped is exact else None
        wrapped.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=wrapped is exact):
            wrapped(**batch, labels=labels).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in lora.parameters())
        wrapped.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=wrapped is exact):
            found = wrapped(**batch).logits
        assert found.dtype == torch.bfloat16
        if want is not None:
            assert (found.float() - want).abs().max() < 0.1


def test_it_compiles_in_one_graph():
    config = tiny_config(num_hidden_layers=2)
    model, batch = made(AlbertModel, config), random_batch(config)
    wrapped = with_lora(model, trained(Lora(config, parts=["query", "ffn"], per_visit=True)))
    fast = torch.compile(wrapped, backend="aot_eager", fullgraph=True)
    assert apart(fast(**batch), wrapped(**batch)) < 1e-12


# ---- beside taps, and from stored hidden states ----


def test_the_fused_attention_is_kept_and_a_recorder_changes_no_bit():
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    wrapped = with_lora(model, trained(Lora(config, parts=["attention", "ffn"])))
    assert not wants_attention(wrapped.lora.tap(), 3)
    assert wants_attention(wrapped.lora.tap(Recorder("attention.probs")), 3)
    assert not wants_attention(wrapped.lora.tap(Recorder("hidden")), 3)
    assert not wrapped.lora.tap(Recorder("pooled")).wants("mlm.logits", 0)
    tape = Recorder("attention.q", "attention.probs", "ffn.out", "pooled")
    assert torch.equal(wrapped(**batch).last_hidden_state, wrapped(**batch, tap=tape).last_hidden_state)
    expected = Recorder("attention.q", "attention.probs", "ffn.out", "pooled")
    merge(model, wrapped.lora)(**batch, tap=expected)
    assert list(tape) == list(expected)
    assert all((tape[key] - expected[key]).abs().max() < 1e-12 for key in expected)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["hidden", "mid", "ffn.inner", "attention.context", "attention.q", "ffn.out"]), st.integers(1, 6)
)
def test_a_map_and_its_pair_read_the_same_input_also_where_a_tap_has_changed_it(point, layer):
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    lora = trained(Lora(config, 4, parts=["attention", "ffn"]))
    editor = Editor(point, layer, fn=lambda x: x.flip(-1) * 1.5)
    with torch.no_grad():
        found = with_lora(model, lora)(**batch, tap=editor)
        assert apart(found, merge(model, lora)(**batch, tap=editor)) < 1e-12
    plain = with_lora(model, lora)(**batch, tap=lambda name, layer, x: x)  # asks for everything
    assert apart(plain, with_lora(model, lora)(**batch)) < 1e-12


def test_it_goes_on_from_stored_hidden_states_and_runs_early_visits_without_a_gradient():
    config = tiny_config(**DROPOUT)
    model, batch = made(AlbertForSequenceClassification, config), random_batch(config)
    wrapped = with_lora(model, trained(Lora(config, 4, parts=["attention", "ffn"], per_visit=True)))
    tape = Recorder("hidden")
    whole = wrapped(**batch, tap=tape).logits
    later = wrapped(hidden_states=tape["hidden", 4], from_layer=4, attention_mask=batch["attention_mask"]).logits
    assert torch.equal(later, whole)
    wrapped.train()
    torch.manual_seed(3)
    whole = wrapped(**batch, labels=torch.tensor([0, 1, 1])).loss
    whole.backward()
    expected = {name: p.grad for name, p in wrapped.lora.named_parameters()}
    wrapped.zero_grad()
    torch.manual_seed(3)
    loss = forward_from(wrapped, batch, 4, labels=torch.tensor([0, 1, 1])).loss
    assert torch.equal(loss, whole)
    loss.backward()
    for name, p in wrapped.lora.named_parameters():
        if int(name.split(".")[1]) <= 4:
            assert p.grad is None
        else:
            assert torch.equal(p.grad, expected[name])


def test_a_tap_by_hand_does_for_one_call_what_the_wrapped_model_does():
    config = tiny_config()
    model, batch = made(AlbertModel, config), random_batch(config)
    lora = trained(Lora(config))
    by_hand = model(**batch, tap=lora.double().tap())
    assert torch.equal(by_hand.last_hidden_state, with_lora(model, lora)(**batch).last_hidden_state)
    with pytest.raises(InputError, match=r"the LoRA did not see what layer 3 starts from: .*with_lora\(model, lora\)"):
        model(hidden_states=by_hand.last_hidden_state, from_layer=2, tap=lora.tap())
    with pytest.raises(InputError, match=r"a Lora is no tap by itself: use with_lora"):
        model(**batch, tap=lora)
    with pytest.raises(InputError, match="tap is a str"):
        with_lora(model, lora)(**batch, tap="hidden")
    with pytest.raises(InputError, match="hidden at layer 9"):
        with_lora(model, lora)(**batch, tap=Recorder("hidden", layers=9))


# ---- what is refused ----


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"rank": 0}, r"--lora \(rank\) 0 must be a whole number from 1 to the width 12"),
        ({"rank": 13}, r"--lora \(rank\) 13 must be"),
        ({"rank": 2.0}, r"--lora \(rank\) 2.0 must be"),
        ({"rank": 9, "parts": "ffn"}, "from 1 to the width 8"),
        ({"alpha": 0}, r"--alpha \(alpha\) 0, dropout 0.0: expected alpha above 0"),
        ({"alpha": float("inf")}, r"\(alpha\) inf"),
        ({"dropout": 1.0}, "dropout 1.0: expected"),
        ({"parts": []}, "parts: name at least one of attention.query"),
    ],
)
def test_numbers_that_make_no_lora_are_refused(settings, line):
    with pytest.raises(InputError, match=line):
        Lora(tiny_config(intermediate_size=8), **settings)


def test_parts_are_understood_by_half_and_by_last_word_and_others_refused_with_the_nearest():
    assert Lora(tiny_config(), parts="ffn").parts == ("ffn.up", "ffn.down")
    assert Lora(tiny_config(), parts=["down", "query", "query"]).parts == ("attention.query", "ffn.down")
    assert Lora(tiny_config(), parts=MAPS).parts == tuple(MAPS)
    with pytest.raises(NameUnknown, match=r"no linear map named 'querry'\. Nearest: query.*All: attention.query"):
        Lora(tiny_config(), parts=["querry"])


def test_a_lora_of_another_configuration_is_refused():
    model = made(AlbertModel, tiny_config())
    for other in (tiny_config(hidden_size=24), tiny_config(intermediate_size=32), tiny_config(num_hidden_groups=2)):
        for act in (with_lora, merge):
            with pytest.raises(InputError, match=r"the LoRA was made for another configuration: it has .*, the model"):
                act(model, Lora(other))
    with pytest.raises(InputError, match="a LoraModel has no encoder of ours"):
        with_lora(with_lora(model, Lora(model.config)), Lora(model.config))
    assert any(p.requires_grad for p in made(AlbertModel, tiny_config()).parameters())
