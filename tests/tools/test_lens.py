"""Looking inside: what is shown is what the model computed, padding counts for nothing, and nothing is left behind."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import (
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
    Recorder,
)
from minialbert.errors import InputError
from minialbert.tools import lens
from tests.conftest import random_batch, tiny_bert, tiny_config

CLASSES = (AlbertModel, AlbertForMaskedLM, AlbertForPreTraining, AlbertForTokenClassification)


@st.composite
def models(draw, classes=CLASSES):
    """A small ALBERT, with groups or none, or a BERT, in any class and mode, with a padded batch."""
    layers, bert = draw(st.integers(1, 4)), draw(st.booleans())
    groups = draw(st.integers(1, layers))
    sizes = {"num_hidden_layers": layers, "initializer_range": 0.3, "hidden_dropout_prob": 0.4}
    config = tiny_bert(**sizes) if bert else tiny_config(num_hidden_groups=groups, **sizes)
    torch.manual_seed(draw(st.integers(0, 99)))
    model = draw(st.sampled_from(classes))(config).train(draw(st.booleans()))
    if draw(st.booleans()):
        model.double()
    batch = random_batch(config, B=draw(st.integers(1, 3)), T=draw(st.integers(1, 9)), seed=draw(st.integers(0, 99)))
    return model, batch


def tiny(cls=AlbertForPreTraining, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return cls(tiny_config(initializer_range=0.3, **changes)).eval().to(dtype)


def logits_of(output):
    return output.prediction_logits if hasattr(output, "prediction_logits") else output.logits


def wider(batch, more):
    """The same batch with `more` padded positions of arbitrary ids."""
    B = len(batch["input_ids"])
    fill = {"input_ids": 5, "attention_mask": 0, "token_type_ids": 1}
    return {name: torch.cat([x, torch.full((B, more), fill[name])], 1) for name, x in batch.items()}


# ---- nothing is left behind ----


@settings(max_examples=15, deadline=None)
@given(models())
def test_looking_changes_neither_the_weights_nor_the_mode_and_leaves_no_hook(pair):
    model, batch = pair
    frozen = next(model.children()).eval()  # a part that is in another mode than the rest
    modes = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grad = torch.is_grad_enabled()
    lens.attention_maps(model, batch)
    lens.layer_distances(model, batch)
    lens.pairwise_distances(model, batch)
    lens.position_similarity(model, batch)
    lens.token_path(model, batch)
    lens.head_importance(model, batch)
    if hasattr(model, "mlm"):
        lens.logit_lens(model, batch)
    assert [module.training for module in model.modules()] == modes and not frozen.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled() == grad and all(p.grad is None for p in model.parameters())


def test_the_mode_is_put_back_when_the_model_refuses_the_batch():
    model = tiny().train()
    with pytest.raises(InputError):
        lens.layer_distances(model, {"input_ids": torch.tensor([[999]])})
    assert model.training and torch.is_grad_enabled()


def test_what_is_handed_out_can_be_used_in_a_graph():
    model, batch = tiny(), random_batch(tiny_config())
    maps = lens.attention_maps(model, batch)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (weight @ maps[0].sum((0, 2, 3))).backward()
    assert weight.grad is not None


def test_dropout_is_off_while_looking():
    model, batch = tiny(hidden_dropout_prob=0.5), random_batch(tiny_config())
    calm = lens.layer_distances(model, batch)
    assert torch.equal(lens.layer_distances(model.train(), batch).l2, calm.l2)


# ---- maps and rollout ----


@settings(max_examples=30, deadline=None)
@given(models(), st.integers(0, 4))
def test_rows_of_maps_sum_to_1_and_a_padded_key_gets_exactly_0(pair, more):
    model, batch = pair
    batch = wider(batch, more)
    maps = lens.attention_maps(model, batch)
    (B, T), A = batch["input_ids"].shape, model.config.num_attention_heads
    assert len(maps) == model.config.num_visits
    for probs in maps:
        assert probs.shape == (B, A, T, T)
        assert (probs.sum(-1) - 1).abs().max() < 1e-5
        assert (probs.transpose(1, 3)[batch["attention_mask"] == 0] == 0).all()


def test_maps_are_those_of_a_recorder_for_the_layers_and_heads_asked_for():
    model, batch = tiny(), random_batch(tiny_config())
    tape = Recorder("attention.probs")
    model(**batch, tap=tape)
    all_maps = lens.attention_maps(model, batch)
    assert all(torch.equal(all_maps[layer - 1], tape["attention.probs", layer]) for layer in range(1, 7))
    some = lens.attention_maps(model, batch, layers=[2, 5], heads=[0, 2])
    assert torch.equal(torch.stack(some), torch.stack([all_maps[1], all_maps[4]])[:, :, [0, 2]])
    assert torch.equal(lens.attention_maps(model, batch, layers=3)[0], all_maps[2])
    assert len(lens.attention_maps(model, batch, depth=9)) == 9
    assert lens.attention_maps(tiny(dtype=torch.bfloat16), batch)[0].dtype == torch.float32
    with pytest.raises(InputError, match=r"layers \[0, 7\]: this run has attention at layers 1..6"):
        lens.attention_maps(model, batch, layers=[0, 3, 7])


@settings(max_examples=30, deadline=None)
@given(models(), st.sampled_from(["mean", "max", "min"]))
def test_rows_of_a_rollout_sum_to_1_and_one_layer_is_its_map_mixed_with_the_identity(pair, fuse):
    maps = lens.attention_maps(*pair)
    rolled = lens.attention_rollout(maps, fuse)
    B, _, T, _ = maps[0].shape
    assert rolled.shape == (len(maps), B, T, T)
    assert (rolled.sum(-1) - 1).abs().max() < 1e-5 and (rolled >= 0).all()
    mixed = 0.5 * maps[0].double().mean(1) + 0.5 * torch.eye(T)
    assert (lens.attention_rollout(maps[:1])[0] - mixed).abs().max() < 1e-6
    stacked = torch.stack([x.mean(1) for x in maps])
    assert torch.equal(lens.attention_rollout(stacked), lens.attention_rollout(list(stacked)))


def test_a_rollout_of_two_layers_by_hand():
    first, second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    # mixed with the identity: [[1, 0], [.5, .5]], then [[.5, .5], [0, 1]]; second @ first
    rolled = lens.attention_rollout([first, second])
    assert rolled[1, 0].tolist() == [[0.75, 0.25], [0.5, 0.5]]
    with pytest.raises(InputError, match="fuse='sum' must be one of mean, max, min"):
        lens.attention_rollout([first], fuse="sum")
    with pytest.raises(InputError, match="no map in the list"):
        lens.attention_rollout([])


# ---- distances and paths ----


def test_distances_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).double(), torch.tensor([[3.0, 4.0], [0.0, 2.0]]).double()
    found = lens.distances(a, b)  # the first stays, the second turns by 90 degrees over a length of sqrt(5)
    assert found.l2 == pytest.approx(math.sqrt(5) / 2) and found.cosine == pytest.approx(0.5)
    assert found.degrees == pytest.approx(45)
    assert lens.distances(a, -a).degrees == 180 and lens.distances(a, 7 * a).degrees < 1e-13
    assert not lens.distances(a, torch.zeros_like(a)).degrees.isnan()


@settings(max_examples=25, deadline=None)
@given(models(), st.integers(1, 5))
def test_padding_a_batch_more_moves_no_number(pair, more):
    model, batch = pair
    model.double()
    for function in (lens.layer_distances, lens.pairwise_distances, lens.position_similarity):
        for before, after in zip(function(model, batch), function(model, wider(batch, more)), strict=True):
            assert torch.allclose(before, after, rtol=0, atol=1e-9, equal_nan=True)
    before, after = lens.token_path(model, batch), lens.token_path(model, wider(batch, more))
    assert before.points.shape == after.points.shape and (before.share - after.share).abs().max() < 1e-9
    for before, after in zip(
        lens.head_importance(model, batch), lens.head_importance(model, wider(batch, more)), strict=True
    ):
        assert (before is None) == (after is None) and (before is None or (before - after).abs().max() < 1e-9)


def test_padding_moves_distances_of_the_shipped_model_by_less_than_a_hundred_thousandth():
    model, tokenizer = minialbert.load()
    batch = tokenizer(["The river burst its banks.", "She put the money in the bank."])
    batch = {name: torch.as_tensor(batch[name]) for name in batch}
    for before, after in zip(
        lens.layer_distances(model, batch), lens.layer_distances(model, wider(batch, 9)), strict=True
    ):
        assert ((before - after).abs() / before.abs().clamp_min(1)).max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(models())
def test_pairs_of_layers_hold_the_steps_from_layer_to_layer(pair):
    steps, pairs = lens.layer_distances(*pair), lens.pairwise_distances(*pair)
    L = pair[0].config.num_visits
    for step, table in zip(steps, pairs, strict=True):
        assert step.shape == (L,) and table.shape == (L + 1, L + 1) and step.dtype == torch.float64
        assert torch.equal(table.diagonal(1), step) and (table - table.T).abs().max() < 1e-9
    assert (pairs.l2.diagonal() == 0).all() and (pairs.degrees.diagonal() == 0).all()
    assert (pairs.cosine.diagonal() - 1).abs().max() < 1e-12


def test_distances_are_means_over_real_tokens_and_go_on_beyond_the_last_layer():
    model, batch, tape = tiny(), random_batch(tiny_config()), Recorder("hidden")
    model(**batch, tap=tape, depth=9)
    found = lens.layer_distances(model, batch, depth=9)
    kept = batch["attention_mask"] == 1
    for layer in range(1, 10):
        a, b = tape["hidden", layer - 1][kept], tape["hidden", layer][kept]
        cosines = torch.cosine_similarity(a, b, dim=-1)
        assert found.l2[layer - 1] == pytest.approx((a - b).norm(dim=-1).mean().item(), abs=1e-12)
        assert found.cosine[layer - 1] == pytest.approx(cosines.mean().item(), abs=1e-12)
        assert found.degrees[layer - 1] == pytest.approx(cosines.arccos().rad2deg().mean().item(), abs=1e-6)
    with pytest.raises(InputError, match="depth=9"):
        lens.layer_distances(AlbertModel(tiny_bert()), batch, depth=9)


@settings(max_examples=25, deadline=None)
@given(models(), st.data())
def test_a_path_has_the_two_widest_axes_of_its_text_and_fixed_signs(pair, data):
    model, batch = pair
    row = data.draw(st.integers(0, len(batch["input_ids"]) - 1))
    path = lens.token_path(model, batch, row=row)
    hidden, real = lens.hidden_states(model, batch)
    x = torch.stack([layer[row, real[row]].double() for layer in hidden])
    assert path.points.shape == (*x.shape[:2], 2) and torch.equal(path.points, lens.token_path(*pair, row=row).points)
    flat, points = x.flatten(0, 1), path.points.flatten(0, 1)
    total = (flat - flat.mean(0)).square().sum()
    assert torch.allclose(points.square().sum(0), path.share * total, atol=1e-9)
    assert path.share[0] >= path.share[1] >= 0 and path.share.sum() <= 1 + 1e-12
    assert (torch.pdist(points) <= torch.pdist(flat) + 1e-9).all()  # a projection brings points nearer, never apart
    farthest = points.gather(0, points.abs().argmax(0, keepdim=True))
    assert (farthest >= 0).all()


# ---- collapse ----


def test_similarity_is_the_mean_cosine_of_every_pair_of_real_tokens():
    model, batch = tiny(), random_batch(tiny_config(), B=3)
    found = lens.position_similarity(model, batch)
    hidden, real = lens.hidden_states(model, batch)
    for layer in range(7):
        texts = [hidden[layer][row][real[row]] for row in range(3)]
        for values, groups in (
            (found.positions, [text for text in texts if len(text) > 1]),
            (found.first, [torch.stack([text[0] for text in texts])]),
            (found.mean, [torch.stack([text.mean(0) for text in texts])]),
        ):
            cosines = [torch.cosine_similarity(x[:, None], x[None], dim=-1) for x in groups]
            means = [(c.sum() - c.diagonal().sum()) / (c.numel() - len(c)) for c in cosines]
            assert values[layer] == pytest.approx(torch.stack(means).mean().item(), abs=1e-12)
    one = lens.position_similarity(model, {"input_ids": torch.tensor([[4, 5]])})
    assert one.first.isnan().all() and one.mean.isnan().all() and not one.positions.isnan().any()


def test_the_alarm_names_the_layer_from_which_on_all_positions_are_alike():
    values = torch.tensor([0.1, 0.96, 0.7, 0.95, 0.97], dtype=torch.float64)
    similarity = lens.Similarity(values, values, values)
    assert lens.collapsed_from(similarity) == 3 and lens.collapsed_from(similarity, 0.05) == 0
    assert lens.collapsed_from(similarity, 0.98) is None
    assert lens.collapse_alarm(similarity) == (
        "collapse: from layer 3 of 4 on all positions of a text are alike, "
        "mean cosine 0.950 there and 0.970 at the end (alarm at 0.95)"
    )
    assert lens.collapse_alarm(similarity, 0.98) == (
        "no collapse: at the last layer, 4, the mean cosine between positions is 0.970 (alarm at 0.98)"
    )


def test_a_model_whose_positions_are_one_sets_off_the_alarm_and_the_shipped_one_does_not():
    model, tokenizer = minialbert.load()
    batch = tokenizer("The river burst its banks after a week of rain.")
    assert lens.collapsed_from(lens.position_similarity(model, batch)) is None
    attention, ffn = model.encoder.attentions[0], model.encoder.feed_forwards[0]
    with torch.no_grad():  # whatever comes in, the last LayerNorm hands out its bias
        ffn.norm.weight.zero_()
        ffn.norm.bias.normal_()
        attention.norm.bias.zero_()
    assert lens.collapsed_from(lens.position_similarity(model, batch)) == 1


# ---- the lens ----


@settings(max_examples=40, deadline=None)
@given(models([AlbertForMaskedLM, AlbertForPreTraining]), st.data())
def test_the_lens_at_the_last_layer_is_the_models_own_logits_bit_for_bit(pair, data):
    model, batch = pair
    L = model.config.num_visits
    depth = data.draw(st.integers(0, L))
    found = lens.logit_lens(model, batch, top=3, depth=depth, keep_logits=True)
    with torch.no_grad():
        own = logits_of(model.eval()(**batch, depth=depth))
    assert torch.equal(found.logits[depth], own) and len(found.logits) == depth + 1
    probabilities, ids = own.softmax(-1).topk(3)
    assert torch.equal(found.ids[depth], ids) and (found.probabilities[depth] - probabilities).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_that_holds_for_the_shipped_model_and_in_half_precision(dtype):
    from minialbert.tools.ask import load_with_head

    model, tokenizer = load_with_head(AlbertForPreTraining, None)
    model.to(dtype)
    batch = tokenizer(["The capital of France is [MASK].", "One."])
    found = lens.logit_lens(model, batch, keep_logits=True, layers=[6, 0])
    with torch.no_grad():
        assert torch.equal(found.logits[0], model(**batch).prediction_logits)
    assert found.layers == [6, 0] and found.probabilities.dtype == torch.float32
    assert lens.logit_lens(model, batch).logits is None


@settings(max_examples=25, deadline=None)
@given(models([AlbertForMaskedLM]), st.data())
def test_probability_and_rank_of_a_target_are_those_of_a_full_sort(pair, data):
    model, batch = pair
    target = torch.where(torch.rand(batch["input_ids"].shape) < 0.3, -100, batch["input_ids"])
    found = lens.logit_lens(model, batch, target=target, keep_logits=True, top=31)
    for k, logits in enumerate(found.logits):
        for b, t in torch.cartesian_prod(*map(torch.arange, target.shape)).tolist():
            wanted, chance, rank = target[b, t], found.target_probability[k, b, t], found.target_rank[k, b, t]
            if wanted == -100:
                assert chance.isnan() and rank == 0
            else:
                assert chance == pytest.approx(logits[b, t].softmax(-1)[wanted].item(), abs=1e-6)
                assert rank == 1 + (logits[b, t] > logits[b, t, wanted]).sum()
    one = data.draw(st.integers(0, 30))
    everywhere = lens.logit_lens(model, batch, target=one)
    assert torch.equal(
        everywhere.target_rank, lens.logit_lens(model, batch, target=torch.full(target.shape, one)).target_rank
    )


def test_a_lens_without_head_layer_or_target_says_so_in_one_line():
    batch = random_batch(tiny_config())
    with pytest.raises(InputError, match="AlbertModel has no head for masked words"):
        lens.logit_lens(tiny(AlbertModel), batch)
    for keywords, line in (
        ({"layers": [2, 7]}, r"layers \[7\]: this run has layers 0..6"),
        ({"top": 32}, "top=32 must be from 1 to 31"),
        ({"target": 31}, "target runs from 31 to 31, the word table has rows 0..30"),
        ({"target": [1, 2]}, r"target is \[2\] torch.int64, expected one id or ids \[3, 9\]"),
        ({"target": 0.5}, "target is .*float32, expected one id"),
    ):
        with pytest.raises(InputError, match=line):
            lens.logit_lens(tiny(), batch, **keywords)


# ---- heads ----


@pytest.mark.parametrize("cls", [AlbertModel, AlbertForMaskedLM])
def test_importance_is_what_changes_when_the_context_of_one_head_is_zero_at_one_visit(cls):
    model, batch = tiny(cls, num_hidden_layers=3), random_batch(tiny_config())
    found, real = lens.head_importance(model, batch), batch["attention_mask"] == 1

    def run(layer=None, head=None):
        def tap(name, number, x):
            if (name, number) == ("attention.context", layer):
                x = x.clone()
                x[:, head] = 0
            return x

        with torch.no_grad():
            output = model(**batch, tap=tap)
            hidden = lens.encoder_of(model)(**batch, tap=tap).last_hidden_state[real]
        return hidden, logits_of(output)[real].softmax(-1) if cls is AlbertForMaskedLM else None

    hidden, words = run()
    assert found.change.shape == (3, 3) and found.metric is None and (found.divergence is None) == (words is None)
    for layer, head in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
        h, w = run(layer + 1, head)
        change = ((h - hidden).norm(dim=-1) / hidden.norm(dim=-1)).mean()
        assert found.change[layer, head] == pytest.approx(change.item(), rel=1e-9)
        if words is not None:
            divergence = (words * (words / w).log()).sum(-1).mean()
            assert found.divergence[layer, head] == pytest.approx(divergence.item(), rel=1e-6)
    assert len(found.change.unique()) == 9, "one block, yet every visit has its own importances"


@settings(max_examples=20, deadline=None)
@given(models([AlbertModel, AlbertForPreTraining]), st.integers(0, 2))
def test_a_head_without_values_has_no_importance(pair, head):
    model, batch = pair
    D = 4
    with torch.no_grad():
        for attention in lens.encoder_of(model).encoder.attentions:
            attention.value.weight[head * D : head * D + D] = 0
            attention.value.bias[head * D : head * D + D] = 0
    found = lens.head_importance(model, batch, metric=lambda output: output[0].sum() if output[0] is not None else 1)
    for values in found:
        assert values is None or (values[:, head] == 0).all()


def test_a_metric_of_the_reader_is_the_difference_to_the_whole_model():
    model = tiny(AlbertForSequenceClassification, num_hidden_layers=2)
    batch = random_batch(model.config) | {"labels": torch.tensor([0, 1, 1])}
    found = lens.head_importance(model, batch, metric=lambda output: output.loss)
    with torch.no_grad():
        whole = model(**batch).loss

        def silent(name, layer, x):
            return x * torch.tensor([1, 0, 1])[:, None, None] if (name, layer) == ("attention.context", 2) else x

        assert found.metric[1, 1] == pytest.approx((model(**batch, tap=silent).loss - whole).item(), abs=1e-12)
    assert found.divergence is None


def test_masked_positions_and_choices_are_looked_at_too():
    batch = random_batch(tiny_config())
    masked = lens.head_importance(tiny(num_hidden_layers=2), batch | {"masked_positions": [[1, 2], [0, 3], [4, 0]]})
    assert (masked.divergence > 0).all()
    model = tiny(AlbertForMultipleChoice, num_hidden_layers=2)
    choices = {name: x[None] for name, x in batch.items()}  # one question, three choices
    flat = lens.layer_distances(model.albert, batch)
    assert torch.equal(lens.layer_distances(model, choices).l2, flat.l2)
    assert torch.equal(lens.head_importance(model, choices).change, lens.head_importance(model.albert, batch).change)


def test_a_batch_that_nothing_can_be_said_about_is_refused():
    model, batch = tiny(), random_batch(tiny_config(), B=2)
    for more, line in (
        ({"attention_mask": torch.zeros(2, 9)}, "0 everywhere, expected at least one real token"),
        ({"attention_mask": torch.ones(2, 1, 9, 9, dtype=torch.bool)}, r"expected \[2, 9\]: here it says which tokens"),
    ):
        with pytest.raises(InputError, match=line):
            lens.layer_distances(model, batch | more)
    for function in (lens.layer_distances, lens.pairwise_distances, lens.head_importance):
        with pytest.raises(InputError, match="depth=0 visits no layer"):
            function(model, batch, depth=0)
    with pytest.raises(InputError, match=r"row=2: the batch has rows 0..1"):
        lens.token_path(model, batch, row=2)
    empty = batch | {"attention_mask": torch.tensor([[1] * 9, [0] * 9])}
    with pytest.raises(InputError, match="row 1 has no real token"):
        lens.token_path(model, empty, row=1)
    with pytest.raises(InputError, match="a Linear has no encoder"):
        lens.layer_distances(torch.nn.Linear(2, 2), batch)
