"""The table of names, against Hugging Face's models as black boxes and against the variables recorded from Google."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from minialbert import AlbertForPreTraining
from minialbert.config import AlbertConfig
from minialbert.convert import names
from tests.conftest import GOLDEN, theirs_of, tiny_bert, tiny_config

HEADS = ["ForPreTraining", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForMultipleChoice", "ForMaskedLM"]  # fmt: skip
HEADS_ALONE = ("classifier", "qa")  # in fine-tuned models only
CONFIGS = {
    "albert": tiny_config(),
    "albert, groups and inner blocks": tiny_config(num_hidden_groups=2, inner_group_num=2),
    "albert, E = H": tiny_config(embedding_size=12, project_embeddings=True),
    "bert": tiny_bert(),
}


def test_the_counts_of_the_specification_are_met():
    def count(config, style):
        found = names.expand(config, style)
        return sum(not name.startswith(("classifier.", "qa.")) for name in found.values())

    assert count(tiny_config(num_hidden_groups=2, inner_group_num=2), "hf") == 80
    assert count(tiny_config(num_hidden_groups=2, inner_group_num=2), "google") == 80
    assert count(tiny_config(), "hf") == count(tiny_config(), "google") == 32
    assert count(tiny_bert(num_hidden_layers=2), "hf") == count(tiny_bert(num_hidden_layers=2), "google") == 46
    assert count(tiny_config(embedding_size=12), "google") == 30  # no projection


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_table_has_every_name_of_hugging_face_and_no_other(config):
    table = set(names.expand(config, "hf"))
    theirs = set()
    for head in HEADS:
        model = theirs_of(config, head)
        theirs |= {names.plain(name, config.model_type) for name, _ in model.named_parameters()}
    assert theirs == table


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_both_styles_lead_to_every_parameter_of_ours_once(config):
    ours = {name.removeprefix("albert.") for name, _ in AlbertForPreTraining(config).named_parameters()}
    for style in ("hf", "google"):
        found = [name for name in names.expand(config, style).values() if not name.startswith(("classifier.", "qa."))]
        assert set(found) == ours
        assert len(found) == len(ours)


@pytest.mark.parametrize("pack", ["google-v2-tiny", "google-v1-groups"])
def test_the_variables_recorded_from_google_are_the_table(pack):
    config = AlbertConfig.from_json(GOLDEN / pack / "albert_config.json")
    recorded = load_file(GOLDEN / pack / "weights.safetensors")
    recorded = {name for name in recorded if not name.endswith(("/adam_m", "/adam_v", "global_step"))}
    table = {theirs for theirs, ours in names.expand(config, "google").items() if ours.split(".")[0] not in HEADS_ALONE}
    assert recorded == table


@pytest.mark.parametrize("sharing", ["attention", "ffn", "none"])
def test_sharing_that_files_have_no_words_for_is_a_group_for_each_layer(sharing):
    config = tiny_config(parameter_sharing=sharing, num_hidden_layers=4, inner_group_num=2)
    found = names.expand(config, "hf")
    query = [theirs for theirs in found if theirs.endswith("attention.query.weight")]
    assert len(query) == 8
    assert len({found[name] for name in query}) == (2 if sharing == "attention" else 8)
    up = {found[name] for name in found if name.endswith(".ffn.weight")}
    assert len(up) == (2 if sharing == "ffn" else 8)
    assert found["encoder.albert_layer_groups.3.albert_layers.1.ffn.weight"] == (
        "encoder.feed_forwards.1.up.weight" if sharing == "ffn" else "encoder.feed_forwards.7.up.weight"
    )


BLOCK = "encoder.albert_layer_groups.0.albert_layers.0"


@pytest.mark.parametrize(
    "written, family, meant",
    [
        ("albert.embeddings.word_embeddings.weight", "albert", "embeddings.word_embeddings.weight"),
        ("embeddings.word_embeddings.weight", "albert", "embeddings.word_embeddings.weight"),
        ("module.albert.pooler.weight", "albert", "pooler.weight"),
        ("module.pooler.weight", "albert", "pooler.weight"),
        ("bert.pooler.dense.weight", "bert", "pooler.dense.weight"),
        ("bert.embeddings.LayerNorm.gamma", "bert", "embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.beta", "albert", "embeddings.LayerNorm.bias"),
        (f"albert.{BLOCK}.full_layer_layer_norm.gamma", "albert", f"{BLOCK}.full_layer_layer_norm.weight"),
        (f"{BLOCK}.full_layer_layer_norm.beta", "albert", f"{BLOCK}.full_layer_layer_norm.bias"),
        ("somebody.gamma", "albert", "somebody.gamma"),
        ("cls.predictions.bias", "albert", "predictions.bias"),
        ("cls.predictions.transform.LayerNorm.gamma", "albert", "predictions.LayerNorm.weight"),
        ("cls.predictions.transform.dense.bias", "albert", "predictions.dense.bias"),
        ("cls.seq_relationship.weight", "albert", "sop_classifier.classifier.weight"),
        ("cls.seq_relationship.weight", "bert", "cls.seq_relationship.weight"),
        ("albertine.weight", "albert", "albertine.weight"),
        ("module", "albert", "module"),
    ],
)
def test_older_spellings_are_read_as_the_table_has_them(written, family, meant):
    assert names.plain(written, family) == meant


QUERY = "attention_1/self/query/kernel"


@pytest.mark.parametrize(
    "written, groups, meant",
    [
        ("module/bert/pooler/dense/bias", 1, "bert/pooler/dense/bias"),
        ("module_12/bert/pooler/dense/bias:0", 1, "bert/pooler/dense/bias"),
        ("modules/bert/pooler/dense/bias", 1, "modules/bert/pooler/dense/bias"),
        ("global_step:0", 1, "global_step"),
        (f"bert/encoder/transformer/group_0/inner_group_0/{QUERY}", 1, f"group_0/inner_group_0/{QUERY}"),
        (f"bert/encoder/transformer/group_0/layer_0/inner_group_0/{QUERY}", 1, f"group_0/inner_group_0/{QUERY}"),
        (f"bert/encoder/transformer/group_0_2/layer_2/inner_group_1/{QUERY}", 1, f"group_0/inner_group_1/{QUERY}"),
        (f"bert/encoder/transformer/group_1_5/layer_5/inner_group_0/{QUERY}", 2, f"group_1/inner_group_0/{QUERY}"),
        (f"bert/encoder/transformer/group_0_5/layer_5/inner_group_0/{QUERY}", 6, f"group_5/inner_group_0/{QUERY}"),
    ],
)
def test_names_of_tensorflow_are_read_as_the_table_has_them(written, groups, meant):
    config = tiny_config(num_hidden_groups=groups)
    meant = f"bert/encoder/transformer/{meant}" if meant.startswith("group_") else meant
    assert names.google_plain(written, config) == names.in_table(written, "google", config) == meant
    assert names.google_plain(meant, config) == meant


@pytest.mark.parametrize(
    "name, why",
    [
        ("bert/pooler/dense/kernel/adam_m", "an optimizer's slot"),
        ("cls/predictions/output_bias/lamb_v", "an optimizer's slot"),
        ("AdamWeightDecayOptimizer/bert/pooler/dense/kernel", "an optimizer's slot"),
        ("global_step", "a counter of the training"),
        ("embeddings.position_ids", "a buffer of old versions"),
        ("end_logits/dense_0/kernel", "the answer head of Google's SQuAD 2.0 program, which no class here has"),
        ("my_head/kernel", "not part of the model: somebody's own head"),
        ("bert/pooler/dense/adam_mu", ""),
        ("encoder.layer.0.gate", ""),
    ],
)
def test_what_has_no_part_in_the_model_is_told_why(name, why):
    assert names.why_no_part(name) == why


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_nothing_in_the_table_is_taken_for_something_without_a_part(config):
    for style in ("hf", "google"):
        for name, ours in names.expand(config, style).items():
            assert names.in_table(name, style, config) == name
            assert (names.why_no_part(name) == "") == (not ours.startswith(names.HEADS))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_tied_names_and_constants_mean_names_of_the_table(config):
    table = names.expand(config, "hf")
    predictions = "predictions." if config.model_type == "albert" else "cls.predictions."
    for copy, original in names.TIED.items():
        assert copy not in table
        assert original in table or not original.startswith(predictions)
    for theirs, ours in table.items():
        assert theirs.startswith(names.TRUNK) != ours.startswith(names.HEADS)
    assert any(name.startswith(names.PROJECTION) for name in table) == config.has_projection


@given(prefix=st.sampled_from(["", "module.", "albert.", "module.albert."]), data=st.data())
def test_a_prefix_never_changes_what_a_name_means(prefix, data):
    name = data.draw(st.sampled_from(sorted(names.expand(CONFIGS["albert"], "hf"))))
    assert names.plain(prefix + name, "albert") == name
    assert names.plain(names.plain(name, "albert"), "albert") == name
