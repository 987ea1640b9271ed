"""Every layer, attention map, head and loss against Hugging Face, in float64 to 1e-10 and in float32 at base size."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import Recorder
from minialbert.config import PRESETS, AlbertConfig
from tests.conftest import pair_of, random_batch, theirs_of, tiny_bert, tiny_config

ALBERTS = {
    "one group": {},
    "two groups": {"num_hidden_groups": 2},
    "three groups": {"num_hidden_groups": 3, "hidden_act": "relu"},
    "six groups": {"num_hidden_groups": 6, "hidden_act": "gelu"},
    "uneven groups": {"num_hidden_layers": 5, "num_hidden_groups": 2},
    "inner groups": {"num_hidden_groups": 3, "inner_group_num": 2},
    "E = H": {"embedding_size": 12, "project_embeddings": True, "inner_group_num": 3, "num_hidden_layers": 2},
    "quick gelu": {"hidden_act": "quick_gelu"},
    "silu": {"hidden_act": "silu"},
}
BERTS = {"gelu": {}, "gelu_new": {"hidden_act": "gelu_new"}, "relu": {"hidden_act": "relu", "num_hidden_layers": 1}}
CONFIGS = {f"albert, {k}": tiny_config(**v) for k, v in ALBERTS.items()}
CONFIGS |= {f"bert, {k}": tiny_bert(**v) for k, v in BERTS.items()}


def assert_same_inside(ours, theirs, batch, tolerance, real_tokens_only=False):
    """Every hidden state, attention map and pooled vector; the first place that differs is named."""
    counts = batch["attention_mask"] if real_tokens_only else torch.tensor(1)
    tape = Recorder("hidden", "attention.probs", "embeddings")
    with torch.no_grad():
        out = ours(**batch, tap=tape)
        want = theirs(**batch, output_hidden_states=True, output_attentions=True)
        fused = ours(**batch).last_hidden_state
    for layer, reference in enumerate(want.hidden_states):
        apart = (tape["hidden", layer] - reference).abs().amax(-1) * counts
        assert apart.max() < tolerance, f"first difference at layer {layer}"
    assert len(want.attentions) == ours.config.num_visits
    for layer, reference in enumerate(want.attentions, start=1):
        apart = (tape["attention.probs", layer] - reference).abs().amax((1, 3)) * counts
        assert apart.max() < tolerance, f"first difference in the attention of layer {layer}"
    assert (out.pooler_output - want.pooler_output).abs().max() < tolerance
    assert ((fused - want.last_hidden_state).abs().amax(-1) * counts).max() < tolerance


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_and_attention_map_equals_hugging_face_in_float64(name, tmp_path):
    config = CONFIGS[name]
    ours, theirs = pair_of(config, tmp_path)
    assert ours.config.num_visits == config.num_visits
    assert_same_inside(ours, theirs, random_batch(config), 1e-10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_configurations_equal_hugging_face_in_float64(data, tmp_path):
    heads = data.draw(st.integers(1, 4), "heads")
    layers = data.draw(st.integers(1, 5), "layers")
    bert = data.draw(st.booleans(), "bert")
    hidden = heads * data.draw(st.integers(1, 4), "head width")
    sizes = {
        "vocab_size": 31, "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
        "intermediate_size": data.draw(st.integers(1, 9), "F"), "max_position_embeddings": 16,
        "type_vocab_size": data.draw(st.integers(1, 3), "types"),
        "hidden_act": data.draw(st.sampled_from(["gelu", "gelu_new", "relu"]), "activation"),
        "layer_norm_eps": data.draw(st.sampled_from([1e-12, 1e-5]), "epsilon"),
    }  # fmt: skip
    if bert:
        config = AlbertConfig(**sizes, embedding_size=hidden, model_type="bert", parameter_sharing="none")
    else:
        groups = data.draw(st.integers(1, layers), "groups")
        embedding = data.draw(st.sampled_from([hidden, 5, 7]), "E")
        sizes |= {"num_hidden_groups": groups, "inner_group_num": data.draw(st.integers(1, 2), "inner")}
        config = AlbertConfig(**sizes, embedding_size=embedding, project_embeddings=True)
    seed = data.draw(st.integers(0, 999), "seed")
    ours, theirs = pair_of(config, tmp_path, seed=seed)
    batch = random_batch(config, B=data.draw(st.integers(1, 3), "B"), T=data.draw(st.integers(1, 8), "T"), seed=seed)
    if data.draw(st.booleans(), "positions given"):
        batch["position_ids"] = torch.randint(0, 16, batch["input_ids"].shape)
    if data.draw(st.booleans(), "embeddings given"):
        ids = batch.pop("input_ids")
        batch["inputs_embeds"] = torch.randn(*ids.shape, config.embedding_size, dtype=torch.float64)
    for key in ("attention_mask", "token_type_ids"):
        if data.draw(st.booleans(), f"without {key}"):
            del batch[key]
    assert_same_inside(ours, theirs, batch, 1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_row_with_nothing_to_attend_to_equals_the_eager_attention(groups, tmp_path):
    config = tiny_config(num_hidden_groups=groups)
    ours, theirs = pair_of(config, tmp_path)
    batch = random_batch(config)
    batch["attention_mask"][1] = 0
    assert_same_inside(ours, theirs, batch, 1e-10)


@pytest.mark.parametrize("name", ["albert-base-v2", "bert-base-uncased"])
def test_float32_at_base_size_is_within_1e_5(name, tmp_path):
    config = AlbertConfig.preset(name)
    ours, theirs = pair_of(config, tmp_path, dtype=torch.float32, deviation=0.01)
    assert_same_inside(ours, theirs, random_batch(config, B=2, T=24), 1e-5)


@pytest.mark.parametrize("name", ["albert, one group", "albert, inner groups", "albert, E = H", "bert, gelu"])
def test_pretraining_logits_and_losses_equal_hugging_face(name, tmp_path):
    config = CONFIGS[name]
    ours, theirs = pair_of(config, tmp_path, "ForPreTraining")
    batch = random_batch(config)
    labels = torch.randint(0, 31, (3, 9)).masked_fill(torch.rand(3, 9) < 0.6, -100)
    labels[0, 0] = 3
    order = torch.tensor([0, 1, 1])
    theirs_order = "next_sentence_label" if config.model_type == "bert" else "sentence_order_label"
    theirs_logits = "seq_relationship_logits" if config.model_type == "bert" else "sop_logits"
    with torch.no_grad():
        got = ours(**batch, labels=labels, sentence_order_label=order)
        want = theirs(**batch, labels=labels, **{theirs_order: order})
        alone = ours(**batch, labels=labels)
    assert (got.prediction_logits - want.prediction_logits).abs().max() < 1e-10
    assert (got.sop_logits - want[theirs_logits]).abs().max() < 1e-10
    assert abs(got.loss - want.loss) < 1e-10
    assert abs(got.mlm_loss + got.sop_loss - got.loss) < 1e-12
    assert alone.sop_loss is None and alone.loss == alone.mlm_loss == got.mlm_loss


def task_cases():
    single, several = torch.tensor([0, 2, 1]), torch.rand(3, 3).round()
    tokens = torch.randint(0, 3, (3, 9)).masked_fill(torch.rand(3, 9) < 0.3, -100)
    yield "ForMaskedLM", {}, {"labels": tokens}
    yield "ForSequenceClassification", {"num_labels": 3}, {"labels": single}
    yield "ForSequenceClassification", {"num_labels": 3}, {"labels": several.double()}
    yield "ForSequenceClassification", {"num_labels": 1}, {"labels": torch.tensor([0.1, 2, -1]).double()}
    yield "ForSequenceClassification", {"num_labels": 3, "problem_type": "regression"}, {"labels": several.double()}
    yield "ForTokenClassification", {"num_labels": 3}, {"labels": tokens}
    yield (
        "ForQuestionAnswering",
        {},
        {"start_positions": torch.tensor([1, 0, 99]), "end_positions": torch.tensor([2, 9, -1])},
    )


@pytest.mark.parametrize("family", ["albert", "bert"])
@pytest.mark.parametrize("case", list(task_cases()), ids=lambda case: f"{case[0]} {case[1]}")
def test_task_heads_and_losses_equal_hugging_face(family, case, tmp_path):
    head, changes, labels = case
    config = tiny_bert(**changes) if family == "bert" else tiny_config(**changes)
    ours, theirs = pair_of(config, tmp_path, head)
    batch = random_batch(config)
    with torch.no_grad():
        got, want = ours(**batch, **labels), theirs(**batch, **labels)
    assert abs(got.loss - want.loss) < 1e-10
    for field in set(got._fields) - {"loss"}:
        assert (getattr(got, field) - want[field]).abs().max() < 1e-10


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_multiple_choice_equals_hugging_face(family, tmp_path):
    config = tiny_bert() if family == "bert" else tiny_config()
    ours, theirs = pair_of(config, tmp_path, "ForMultipleChoice")
    batch = {name: x.view(2, 3, 9) for name, x in random_batch(config, B=6).items()}
    with torch.no_grad():
        got, want = ours(**batch, labels=torch.tensor([2, 0])), theirs(**batch, labels=torch.tensor([2, 0]))
    assert (got.logits - want.logits).abs().max() < 1e-10
    assert abs(got.loss - want.loss) < 1e-10


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_gradients_equal_hugging_face(family, tmp_path):
    config = tiny_bert() if family == "bert" else tiny_config(num_hidden_groups=2)
    ours, theirs = pair_of(config, tmp_path, "ForPreTraining")
    batch = random_batch(config)
    batch["input_ids"].clamp_(min=1)  # their row 0 is a padding row, which takes no gradient from the look-up
    labels, order = torch.randint(0, 31, (3, 9)), torch.tensor([0, 1, 1])
    ours(**batch, labels=labels, sentence_order_label=order).loss.backward()
    name = "next_sentence_label" if family == "bert" else "sentence_order_label"
    theirs(**batch, labels=labels, **{name: order}).loss.backward()
    from minialbert.convert import names

    to_ours, mine = names.expand(ours.config, "hf"), dict(ours.named_parameters())
    compared = 0
    for key, parameter in theirs.named_parameters():
        own = to_ours.get(names.plain(key, config.model_type))
        own = own if own in mine else f"albert.{own}"
        if own in mine:
            assert (mine[own].grad - parameter.grad).abs().max() < 1e-10, own
            compared += 1
    assert compared == len(mine)


def test_what_we_save_hugging_face_loads_bit_for_bit(tmp_path):
    heads = ["Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering"]
    for family, config in [("Albert", tiny_config(num_hidden_groups=2)), ("Bert", tiny_bert())]:
        for head in heads:
            torch.manual_seed(1)
            ours = getattr(minialbert, "Albert" + head)(config).eval()
            ours.save_pretrained(tmp_path / family / head)
            import transformers

            theirs = getattr(transformers, family + head).from_pretrained(tmp_path / family / head).eval()
            again = getattr(minialbert, "Albert" + head).from_pretrained(tmp_path / family / head)
            for name, parameter in ours.named_parameters():
                assert torch.equal(parameter, dict(again.named_parameters())[name])
            theirs.save_pretrained(tmp_path / "back")
            back = getattr(minialbert, "Albert" + head).from_pretrained(tmp_path / "back")
            for name, parameter in ours.named_parameters():
                assert torch.equal(parameter, dict(back.named_parameters())[name]), name


@pytest.mark.parametrize("sharing", ["attention", "ffn", "none"])
def test_half_shared_models_are_saved_expanded_and_come_back_shared(sharing, tmp_path):
    import transformers

    config = tiny_config(parameter_sharing=sharing, num_hidden_layers=4)
    ours = minialbert.AlbertModel(config).double().eval()
    ours.save_pretrained(tmp_path)
    theirs = transformers.AlbertModel.from_pretrained(tmp_path, attn_implementation="eager").double().eval()
    assert theirs.config.num_hidden_groups == 4
    assert_same_inside(ours, theirs, random_batch(config), 1e-10)
    again = minialbert.AlbertModel.from_pretrained(tmp_path)
    assert again.config.parameter_sharing == sharing
    assert sum(p.numel() for p in again.parameters()) == config.count_parameters()["model"]


def test_a_model_without_projection_is_saved_with_an_identity(tmp_path):
    import transformers

    config = tiny_config(embedding_size=12)
    ours = minialbert.AlbertModel(config).double().eval()
    ours.save_pretrained(tmp_path)
    theirs = transformers.AlbertModel.from_pretrained(tmp_path, attn_implementation="eager").double().eval()
    assert_same_inside(ours, theirs, random_batch(config), 1e-10)
    assert minialbert.AlbertModel.from_pretrained(tmp_path).embeddings.projection is None


def test_the_eager_and_sdpa_attention_of_hugging_face_both_agree(tmp_path):
    config = tiny_config()
    ours, _ = pair_of(config, tmp_path)
    sdpa = theirs_of(config, attention="sdpa").double()
    batch = random_batch(config)
    with torch.no_grad():
        assert (ours(**batch)[0] - sdpa(**batch)[0]).abs().max() < 1e-10


@pytest.mark.parametrize("name", PRESETS)
def test_every_official_shape_has_hugging_faces_names_and_shapes(name):
    import transformers

    from minialbert.convert import names

    config = AlbertConfig.preset(name)
    family = "Bert" if config.model_type == "bert" else "Albert"
    with torch.device("meta"):
        theirs = getattr(transformers, family + "ForPreTraining")(
            getattr(transformers, family + "Config")(**config.to_json())
        )
        ours = minialbert.AlbertForPreTraining(config)
    to_ours = names.expand(config, "hf")
    want = {}
    for key, parameter in theirs.named_parameters():
        if "decoder" not in key:
            want[to_ours[names.plain(key, config.model_type)]] = list(parameter.shape)
    assert want == {key.removeprefix("albert."): list(p.shape) for key, p in ours.named_parameters()}


SENTENCES = [
    "The bank of the river was steep, and nobody had mown it since June.", "Naïve café owners don't exist!", "",
    "In 1987, 92,000 people (or more) came; the rest stayed at home.", "今天天气很好", "x" * 150, "a b c d e f g",
]  # fmt: skip


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_real_trained_checkpoint_equals_hugging_face_at_every_layer(minilm, dtype, tolerance):
    import transformers

    model, tokenizer = minialbert.load(minilm, dtype=dtype)
    theirs = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager").to(dtype).eval()
    batch = tokenizer([*SENTENCES, ("a pair of", "texts")])
    their_batch = transformers.AutoTokenizer.from_pretrained(minilm)(SENTENCES)["input_ids"]
    assert [ids[: len(t)].tolist() for ids, t in zip(batch.input_ids, their_batch, strict=False)] == their_batch
    # in float32 their own outputs at padding are 1.5e-4 from their own in float64, at real tokens 4e-6
    tensors = {key: torch.from_numpy(batch[key]) for key in batch}
    assert_same_inside(model, theirs, tensors, tolerance, real_tokens_only=dtype == torch.float32)
