"""One block taken apart into L and put together again, and the gradient of shared weights split by visit."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import (
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertForSequenceClassification,
    AlbertModel,
    Recorder,
    gradient_by_visit,
    share,
    unshare,
)
from minialbert.errors import InputError
from minialbert.sharing import layer_parameters
from tests.conftest import random_batch, tiny_bert, tiny_config

CONFIGS = [
    tiny_config(),
    tiny_config(num_hidden_groups=2),
    tiny_config(num_hidden_groups=3, inner_group_num=2),
    tiny_config(parameter_sharing="attention"),
    tiny_config(parameter_sharing="ffn", num_hidden_layers=4),
    tiny_config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
    tiny_bert(),
]
NAMES = {f"attention.{x}.{k}" for x in ("query", "key", "value", "output", "norm") for k in ("weight", "bias")}
NAMES |= {f"ffn.{x}.{k}" for x in ("up", "down", "norm") for k in ("weight", "bias")}


def made(cls, config, seed=0):
    torch.manual_seed(seed)
    model = cls(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def everything(model, batch):
    tape = Recorder("hidden", "attention.probs", "mid", "ffn.out")
    with torch.no_grad():
        return model(**batch, tap=tape), tape


# ---- unshare, share ----


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("cls", [AlbertModel, AlbertForPreTraining, AlbertForSequenceClassification])
def test_unshare_gives_each_layer_its_own_weights_and_changes_no_bit(cls, config):
    model, batch = made(cls, config), random_batch(config)
    apart = unshare(model)
    L = config.num_visits
    plan = (apart.albert if hasattr(apart, "albert") else apart).encoder.plan
    assert plan == [(layer, layer) for layer in range(L)] == apart.config.sharing_plan()
    (before, tape), (after, other) = everything(model, batch), everything(apart, batch)
    for a, b in zip(before, after, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert list(tape) == list(other) and all(torch.equal(tape[key], other[key]) for key in tape)
    addresses = [w.data_ptr() for layer in range(1, L + 1) for w in layer_parameters(apart, layer).values()]
    addresses += [w.data_ptr() for w in model.parameters()]
    assert len(set(addresses)) == len(addresses)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(CONFIGS[:5]), st.integers(0, 99))
def test_unshare_in_training_draws_the_same_dropout(config, seed):
    model = made(AlbertForMaskedLM, tiny_config(hidden_dropout_prob=0.3), seed).train()
    batch = random_batch(model.config, seed=seed)
    outputs = []
    for m in (model, unshare(model)):
        torch.manual_seed(seed)
        outputs.append(m(**batch).logits)
    assert torch.equal(*outputs)


def test_share_puts_together_what_unshare_took_apart_and_refuses_what_differs():
    model, batch = made(AlbertForPreTraining, tiny_config()), random_batch(tiny_config())
    apart = unshare(model)
    again = share(apart)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert torch.equal(again(**batch).sop_logits, model(**batch).sop_logits)
    with torch.no_grad():
        layer_parameters(apart, 4)["ffn.up.bias"][3] += 0.5
    with pytest.raises(InputError, match=r"layers 1 and 4 differ in ffn.up.bias, by 0.5 at most"):
        share(apart)


def test_a_bert_whose_layers_are_equal_becomes_an_albert():
    bert = unshare(share(unshare(made(AlbertModel, tiny_config(embedding_size=12)))))
    batch = random_batch(bert.config)
    one = share(bert)
    assert one.config.model_type == "albert" and one.config.num_hidden_groups == 1
    assert torch.equal(one(**batch).last_hidden_state, bert(**batch).last_hidden_state)
    with pytest.raises(InputError, match="layers 1 and 2 differ"):
        share(made(AlbertModel, tiny_bert()))


def test_transformers_loads_an_unshared_model_to_the_same_numbers(tmp_path):
    model, batch = made(AlbertModel, tiny_config()), random_batch(tiny_config())
    unshare(model).save_pretrained(tmp_path)
    theirs = transformers.AlbertModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert theirs.config.num_hidden_groups == 6 and len(theirs.encoder.albert_layer_groups) == 6
    with torch.no_grad():
        found = theirs(**batch).last_hidden_state
    assert (found - model(**batch).last_hidden_state).abs().max() < 1e-10


# ---- one layer ----


def test_the_weights_of_layer_3_alone_do_not_exist_in_a_shared_block_and_the_error_says_why():
    model = made(AlbertModel, tiny_config())
    with pytest.raises(InputError) as caught:
        layer_parameters(model, 3)
    assert "layer 3 has no attention weights of its own, layers 1, 2, 3, 4, 5, 6 use the same ones" in str(caught.value)
    assert "minialbert.unshare(model)" in str(caught.value)
    with pytest.raises(InputError, match="layer 2 has no feed-forward weights of its own"):
        layer_parameters(made(AlbertModel, tiny_config(parameter_sharing="ffn")), 2)
    with pytest.raises(InputError, match=r"the layers with weights are 1\.\.6"):
        layer_parameters(model, 0)
    assert set(layer_parameters(model, 3, own=False)) == NAMES


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 6))
def test_after_unshare_one_layer_can_be_frozen_and_another_edited_alone(layer):
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    apart = unshare(model)
    for weight in layer_parameters(apart, layer).values():
        weight.requires_grad_(False)
    before, tape = Recorder("hidden"), Recorder("hidden")
    apart(**batch, tap=before).logits.sum().backward()
    assert all(w.grad is None for w in layer_parameters(apart, layer).values())
    other = layer % 6 + 1
    assert all(w.grad is not None for w in layer_parameters(apart, other).values())
    with torch.no_grad():
        layer_parameters(apart, layer)["ffn.down.weight"].mul_(0.5)
        apart(**batch, tap=tape)
    for below in range(layer):
        assert torch.equal(before["hidden", below], tape["hidden", below])
    assert not torch.equal(before["hidden", layer], tape["hidden", layer])


# ---- the gradient, split ----


def loss_of(model, batch):
    torch.manual_seed(5)  # for dropout
    out = model(**batch, labels=batch["input_ids"])
    return out.loss


@pytest.mark.parametrize("config", CONFIGS)
def test_the_parts_of_the_gradient_are_those_of_the_unshared_layers_and_add_up_to_the_whole(config):
    model, batch = made(AlbertForMaskedLM, config).train(), random_batch(config)
    parts = gradient_by_visit(model, lambda m: loss_of(m, batch))
    assert set(parts) == NAMES and all(len(x) == config.num_visits for x in parts.values())
    assert all(weight.grad is None for weight in model.parameters())

    apart = unshare(model)
    loss_of(apart, batch).backward()
    loss_of(model, batch).backward()
    plan = config.sharing_plan()
    for name, rows in parts.items():
        kind = 0 if name.startswith("attention") else 1
        for layer in range(1, config.num_visits + 1):
            own = layer_parameters(apart, layer)[name].grad
            assert (rows[layer - 1] - own).abs().max() <= 1e-12 * max(1, own.abs().max()), (name, layer)
            users = [n for n, pair in enumerate(plan) if pair[kind] == plan[layer - 1][kind]]
            whole = layer_parameters(model, layer, own=False)[name].grad
            assert (rows[users].sum(0) - whole).abs().max() <= 1e-12 * max(1, whole.abs().max()), (name, layer)


def test_splitting_the_gradient_copies_no_weights_and_leaves_the_model_as_it_was():
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    seen = []

    def loss(m):
        seen.append({w.data_ptr() for w in (*m.parameters(), m.albert.encoder.attentions[4].query.weight)})
        return loss_of(m, batch)

    gradient_by_visit(model, loss)
    assert seen[0] <= {w.data_ptr() for w in model.parameters()}
    assert model.config == tiny_config() and list(model.state_dict()) == list(before)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(w.requires_grad and w.is_leaf for w in model.parameters())


def test_a_visit_behind_the_loss_has_no_gradient():
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    parts = gradient_by_visit(model, lambda m: m(**batch, depth=2).logits.square().sum())
    norms = parts["ffn.up.weight"].flatten(1).norm(dim=1)
    assert (norms[:2] > 0).all() and (norms[2:] == 0).all()


def test_more_visits_than_layers_have_their_parts_too_and_the_loss_must_use_the_model_it_gets():
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    with torch.no_grad():
        parts = gradient_by_visit(model, lambda m: loss_of(m, batch), depth=9)
    assert all(len(rows) == 9 for rows in parts.values())
    model(**batch, labels=batch["input_ids"], depth=9).loss.backward()
    whole = layer_parameters(model, 1, own=False)["ffn.up.weight"].grad
    assert (parts["ffn.up.weight"].sum(0) - whole).abs().max() < 1e-12
    with pytest.raises(InputError, match=r"use the m of loss\(m\)"):
        gradient_by_visit(model, lambda m: loss_of(model, batch))


def test_what_learns_in_any_layer_learns_in_the_shared_one():
    apart = unshare(made(AlbertModel, tiny_config()))
    for weight in layer_parameters(apart, 1).values():
        weight.requires_grad_(False)
    assert all(w.requires_grad for w in share(apart).parameters())
    for layer in range(2, 7):
        layer_parameters(apart, layer)["ffn.up.bias"].requires_grad_(False)
    frozen = {name for name, w in layer_parameters(share(apart), 1, own=False).items() if not w.requires_grad}
    assert frozen == {"ffn.up.bias"}


@pytest.mark.parametrize("loss", [lambda m: 3.0, lambda m: torch.ones(2), lambda m: torch.tensor(1.0)])
def test_a_loss_without_a_gradient_is_refused(loss):
    with pytest.raises(InputError, match="must give one number with a gradient"):
        gradient_by_visit(made(AlbertModel, tiny_config()), loss)


def test_a_stranger_is_refused():
    with pytest.raises(InputError, match="a Linear has no encoder of ours"):
        unshare(torch.nn.Linear(2, 2))
