"""What is frozen stays to the bit, what learns moves, and visits without a gradient give none and keep nothing."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import (
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
    AlbertModel,
    Recorder,
    gradient_by_visit,
    layer_parameters,
    unshare,
)
from minialbert.errors import InputError, NameUnknown
from minialbert.finetune.freeze import counts, forward_from, freeze, learn_only, parameters_of, table
from minialbert.finetune.lora import Lora, with_lora
from minialbert.tools.count import counted
from tests.conftest import random_batch, tiny_bert, tiny_config

CONFIGS = [
    tiny_config(),
    tiny_config(num_hidden_groups=2),
    tiny_config(num_hidden_groups=3, inner_group_num=2, num_hidden_layers=3),
    tiny_config(parameter_sharing="attention"),
    tiny_bert(),
]
CLASSES = [
    AlbertModel, AlbertForPreTraining, AlbertForMaskedLM, AlbertForSequenceClassification,
    AlbertForTokenClassification, AlbertForQuestionAnswering, AlbertForMultipleChoice,
]  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


def made(cls, config, seed=0):
    torch.manual_seed(seed)
    model = cls(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def learning(model):
    return {name.removeprefix("albert.") for name, p in model.named_parameters() if p.requires_grad}


def names(model):
    return {name.removeprefix("albert.") for name, _ in model.named_parameters()}


# ---- parts ----


@pytest.mark.parametrize(
    "part, belongs",
    [
        ("embeddings", lambda name: name.startswith("embeddings.") and "projection" not in name),
        ("projection", lambda name: name.startswith("embeddings.projection")),
        ("attention", lambda name: name.startswith("encoder.attentions.")),
        ("ffn", lambda name: name.startswith("encoder.feed_forwards.")),
        ("block", lambda name: name.startswith("encoder.")),
        ("pooler", lambda name: name.startswith("pooler.")),
        ("head", lambda name: name.startswith(("mlm.", "sop."))),
        ("norms", lambda name: ".norm." in name),
        ("biases", lambda name: name.endswith("bias")),
    ],
)
def test_a_part_is_these_parameters_and_no_other(part, belongs):
    model = made(AlbertForPreTraining, tiny_config(num_hidden_groups=2))
    expected = {name for name in names(model) if belongs(name)}
    assert expected
    freeze(model, part)
    assert learning(model) == names(model) - expected
    learn_only(model, part)
    assert learning(model) == expected


@pytest.mark.parametrize("config", CONFIGS)
def test_the_parts_counted_are_the_model_with_nothing_twice(config):
    model = made(AlbertForPreTraining, config)
    found, expected = counts(model), config.count_parameters()
    for part in ("embeddings", "projection", "attention", "ffn", "pooler"):
        assert found.get(part, (0, 0)) == (expected[part], expected[part])
    assert found["head"] == (expected["mlm"] + expected["sop"],) * 2
    assert sum(total for _, total in found.values()) == expected["pretraining"]


def test_the_table_says_what_learns_and_who_shares():
    model = made(AlbertForSequenceClassification, tiny_config(num_hidden_groups=2))
    learn_only(model, "norms", "head")
    lines = table(model).splitlines()
    assert [line.split() for line in lines[:2]] == [["part", "learns", "of"], ["embeddings", "14", "357"]]
    assert lines[3].split() == ["attention", "48", "1,296", "2", "for", "6", "layers"]
    assert lines[-2].split() == ["head", "26", "26"]
    assert lines[-1].split() == ["all", str(14 + 48 + 48 + 26), "3,003"]
    assert sum(p.numel() for p in model.parameters()) == 3003


def test_the_word_table_is_one_tensor_of_the_embeddings_also_where_the_head_uses_it():
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    table_of_words = model.albert.embeddings.word.weight
    freeze(model, "head")
    assert table_of_words.requires_grad
    learn_only(model, "head")
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert table_of_words.grad is None and model.mlm.bias.grad is not None


def test_a_layer_of_a_shared_block_is_no_part_until_it_is_unshared():
    model = made(AlbertForMaskedLM, tiny_config())
    with pytest.raises(InputError, match=r"layer 3 has no attention .*unshare\(model\), or finetune --unshare"):
        freeze(model, "head", "layer 3")
    assert learning(model) == names(model)  # the head neither
    apart = unshare(model)
    freeze(apart, "layer 3")
    assert not any(p.requires_grad for p in layer_parameters(apart, 3).values())
    assert all(p.requires_grad for layer in (1, 2, 4, 5, 6) for p in layer_parameters(apart, layer).values())
    learn_only(made(AlbertModel, tiny_bert()), "layer 1", "layer 4")
    with pytest.raises(InputError, match=r"layer 7: the layers with weights are 1\.\.6"):
        freeze(apart, "layer 7")


def test_names_that_are_no_parts_are_refused_with_the_nearest_and_nothing_changes():
    model = made(AlbertForTokenClassification, tiny_bert())
    with pytest.raises(
        NameUnknown, match=r"no part named 'embedings'\. Nearest: embeddings.*All parts: .*layer 1\.\.4"
    ):
        learn_only(model, "head", "embedings")
    with pytest.raises(NameUnknown, match="Nearest: layer 3"):
        freeze(model, "layer3")
    with pytest.raises(
        NameUnknown, match="AlbertForTokenClassification has no pooler; its parts are embeddings, attent"
    ):
        freeze(model, "pooler")
    with pytest.raises(NameUnknown, match="has no projection"):
        freeze(model, "projection")
    with pytest.raises(NameUnknown, match="AlbertModel has no head"):
        freeze(made(AlbertModel, tiny_config()), "head")
    with pytest.raises(InputError, match="name at least one part: embeddings"):
        learn_only(model)
    with pytest.raises(InputError, match="a Linear has no encoder of ours"):
        freeze(torch.nn.Linear(2, 2), "biases", "head")
    assert learning(model) == names(model)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(CONFIGS),
    st.sets(st.sampled_from(["embeddings", "attention", "ffn", "block", "head", "norms", "biases"]), min_size=1),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_is_frozen_is_bit_equal_after_steps_of_an_optimizer_and_the_rest_is_not(config, parts, only, seed):
    model, batch = made(AlbertForMaskedLM, config, seed).train(), random_batch(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()  # all have moments now, and a gradient that waits for a second step
    (learn_only if only else freeze)(model, *parts)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        loss = model(**batch, labels=batch["input_ids"]).loss
        if loss.requires_grad:
            loss.backward()
    optimizer.step()
    meant = {id(p) for part in parts for p in parameters_of(model, part)}
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
        assert p.requires_grad == ((id(p) in meant) == only), name


# ---- visits ----


def labels_for(cls, batch):
    B = len(batch["input_ids"])
    return {
        AlbertForPreTraining: {"labels": batch["input_ids"], "sentence_order_label": torch.ones(B, dtype=torch.long)},
        AlbertForMaskedLM: {"labels": batch["input_ids"]},
        AlbertForSequenceClassification: {"labels": torch.ones(B, dtype=torch.long)},
        AlbertForTokenClassification: {"labels": batch["input_ids"] % 2},
        AlbertForQuestionAnswering: {k: torch.ones(B, dtype=torch.long) for k in ("start_positions", "end_positions")},
    }.get(cls, {})


def value_of(output):
    return output.loss if hasattr(output, "loss") else output.last_hidden_state.square().mean()


def seeded(seed, call):
    torch.manual_seed(seed)
    return call()


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([cls for cls in CLASSES if cls is not AlbertForMultipleChoice]),
    st.sampled_from([*CONFIGS, tiny_config(**DROPOUT)]),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 99),
)
def test_gradients_come_from_the_later_visits_alone(cls, config, visits, training, seed):
    visits = min(visits, config.num_visits)
    model, batch = made(cls, config, seed).train(training), random_batch(config, seed=seed)
    labels = labels_for(cls, batch)
    whole = seeded(seed, lambda: value_of(model(**batch, **labels)))
    value = seeded(seed, lambda: value_of(forward_from(model, batch, visits, **labels)))
    assert torch.equal(value, whole)
    if not value.requires_grad:
        assert cls is AlbertModel and visits == config.num_visits
        return
    value.backward()
    rows = gradient_by_visit(model, lambda m: seeded(seed, lambda: value_of(m(**batch, **labels))))
    for kind, blocks in enumerate((model_encoder(model).attentions, model_encoder(model).feed_forwards)):
        for number, block in enumerate(blocks):
            users = [v for v, pair in enumerate(config.sharing_plan()) if pair[kind] == number and v >= visits]
            for name, p in block.named_parameters():
                expected = rows[f"{('attention', 'ffn')[kind]}.{name}"][users].sum(0)
                assert (users == []) == (p.grad is None)
                if p.grad is not None:
                    assert (p.grad - expected).abs().max() <= 1e-12 * max(1, expected.abs().max()), name
    for name, p in model_encoder(model, trunk=True).embeddings.named_parameters():
        tied = name == "word.weight" and hasattr(model, "mlm")
        assert (p.grad is not None) == (tied or visits == 0), name


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "cls, lora",
    [(AlbertForPreTraining, None), (AlbertForSequenceClassification, False), (AlbertForQuestionAnswering, True)],
)
def test_what_counts_as_learning_is_what_has_a_gradient(cls, config, lora):
    bare, batch = made(cls, config), random_batch(config)
    maps = ("query", "ffn")
    model = bare if lora is None else with_lora(bare, Lora(config, 2, parts=maps, per_visit=lora), learn=["head"])
    for visits in (0, 1, config.num_visits - 1, config.num_visits):
        model.zero_grad()
        value_of(forward_from(model, batch, visits, **labels_for(cls, batch))).backward()
        found = counts(model, visits)
        reached = {name: p.numel() for name, p in model.named_parameters() if p.grad is not None}
        assert sum(learn for learn, _ in found.values()) == sum(reached.values())
        assert found["head"][0] == found["head"][1] and [total for _, total in found.values()] == [
            total for _, total in counts(model).values()
        ]


def test_the_table_knows_of_visits_without_a_gradient():
    model = made(AlbertForSequenceClassification, tiny_config())
    rows = {line.split()[0]: line.split()[1] for line in table(model, visits=3).splitlines()}
    assert rows["embeddings"] == rows["projection"] == "0"
    assert rows["ffn"] == dict(line.split()[:2] for line in table(model).splitlines())["ffn"] != "0"  # 4..6 use it too
    apart = unshare(model)
    assert [counts(apart, visits)["ffn"][0] * 6 for visits in range(7)] == [
        counts(apart)["ffn"][1] * (6 - visits) for visits in range(7)
    ]
    assert counts(model, 0) == counts(model) and counts(model, 6)["attention"][0] == 0
    with pytest.raises(InputError, match=r"\(visits\) 7: .* are 0\.\.6"):
        table(model, visits=7)


def model_encoder(model, trunk=False):
    inside = getattr(model, "albert", model)
    return inside if trunk else inside.encoder


def test_the_word_table_learns_from_the_output_side_of_the_masked_words_alone():
    model, batch = made(AlbertForMaskedLM, tiny_config()), random_batch(tiny_config())
    forward_from(model, batch, 2, labels=batch["input_ids"]).loss.backward()
    found = model.albert.embeddings.word.weight.grad.clone()
    model.zero_grad()
    hidden = model.albert(**batch).last_hidden_state.detach()
    words = model.mlm(hidden, model.albert.embeddings.word.weight)
    torch.nn.functional.cross_entropy(words.flatten(0, 1), batch["input_ids"].flatten()).backward()
    assert (found - model.albert.embeddings.word.weight.grad).abs().max() < 1e-12


def test_nothing_of_the_first_visits_is_kept():
    config = tiny_config()
    model, batch = made(AlbertForSequenceClassification, config), random_batch(config)
    labels = torch.ones(3, dtype=torch.long)

    def saved(call):
        return counted(call).saved_bytes

    whole = saved(lambda: model(**batch, labels=labels))
    by_visits = [saved(lambda k=k: forward_from(model, batch, k, labels=labels)) for k in range(7)]
    steps = [before - after for before, after in pairwise(by_visits)]
    print(f"bytes kept for the backward pass: {whole} whole, {by_visits} from visit 0..6")
    assert by_visits[0] == whole and len(set(steps[1:])) == 1 and steps[0] >= steps[1] > 0  # each visit the same
    assert by_visits[6] < 0.1 * whole


def test_dropout_is_active_in_training_and_not_in_eval_as_everywhere_under_no_grad():
    model, batch = made(AlbertModel, tiny_config(**DROPOUT)), random_batch(tiny_config())
    a, b = (forward_from(model, batch, 6).last_hidden_state for _ in range(2))
    assert torch.equal(a, b)
    model.train()
    a, b = (forward_from(model, batch, 6).last_hidden_state for _ in range(2))
    assert not torch.equal(a, b)


def test_labels_may_be_in_the_batch_masks_may_be_missing_and_a_tap_sees_each_point_once():
    config = tiny_config()
    model, batch = made(AlbertForSequenceClassification, config), random_batch(config)
    labels = torch.ones(3, dtype=torch.long)
    seen = []

    def watch(name, layer, tensor):
        seen.append((name, layer))
        return tensor

    inside = forward_from(model, batch | {"labels": labels}, 3, tap=watch)
    assert torch.equal(inside.loss, forward_from(model, batch, 3, labels=labels).loss)
    first, seen = seen, []
    model(**batch, tap=watch)
    assert first == seen
    bare = {"inputs_embeds": torch.randn(2, 5, 7, dtype=torch.float64)}
    assert torch.equal(forward_from(model, bare, 4).logits, model(**bare).logits)
    assert torch.equal(forward_from(model, batch, 2, depth=9).logits, model(**batch, depth=9).logits)


def test_what_cannot_be_run_in_two_halves_is_refused():
    model, batch = made(AlbertModel, tiny_config()), random_batch(tiny_config())
    for visits in (-1, 7, 2.0):
        with pytest.raises(InputError, match=rf"--no-gradient \(visits\) {visits}: the layers that can .* are 0\.\.6"):
            forward_from(model, batch, visits)
    with pytest.raises(InputError, match=r"\(visits\) 5: .* are 0\.\.4"):
        forward_from(model, batch, 5, depth=4)
    with pytest.raises(InputError, match=r"AlbertForMultipleChoice runs its .* takes no hidden_states"):
        forward_from(made(AlbertForMultipleChoice, tiny_config()), batch, 2)
    with pytest.raises(InputError, match="hidden at layer 9"):
        forward_from(model, batch, 2, tap=Recorder("hidden", layers=9))
    with pytest.raises(InputError, match="give either input_ids"):
        forward_from(model, {}, 2)


def test_the_shipped_model_keeps_half_when_its_first_half_is_run_without_a_gradient():
    model, _ = minialbert.load()
    L = model.config.num_visits
    batch = {"input_ids": torch.randint(5, 1000, (2, 32))}
    whole = counted(lambda: model(**batch)).saved_bytes
    half = counted(lambda: forward_from(model, batch, L // 2)).saved_bytes
    print(f"the shipped model, L={L}, [2, 32]: {whole:,} bytes kept, {half:,} from visit {L // 2}")
    assert 0.49 < half / whole < 0.51
