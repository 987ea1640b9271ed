"""Sizes, presets, dialects, the sharing plan, and what is refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.config import PRESETS, SHARING, AlbertConfig, sharing_plan
from minialbert.errors import ConfigError, FileError, MiniAlbertError, NameUnknown
from tests.conftest import tiny_bert, tiny_config

COUNTS = {  # AlbertModel and AlbertForPreTraining, counted by others
    "albert-base-v2": (11_683_584, 11_813_810),
    "albert-large-v2": (17_683_968, 17_847_474),
    "albert-xlarge-v2": (58_724_864, 59_021_490),
    "albert-xxlarge-v2": (222_595_584, 223_158_450),
    "albert-base-zh": (10_547_968, 10_669_322),
    "albert-large-zh": (16_548_352, 16_702_986),
    "albert-xlarge-zh": (57_589_248, 57_877_002),
    "albert-xxlarge-zh": (221_459_968, 222_013_962),
    "bert-base-uncased": (109_482_240, 110_106_428),
    "bert-large-uncased": (335_141_888, 336_226_108),
    "bert-base-cased": (108_310_272, None),
    "bert-base-chinese": (102_267_648, None),
}
SHARED = {  # table 4 of the paper: (sharing, E): parameters of the base model
    ("all", 768): 31_114_752, ("all", 128): 11_683_584, ("attention", 768): 83_078_400, ("attention", 128): 63_647_232,
    ("ffn", 768): 57_117_696, ("ffn", 128): 37_686_528, ("none", 768): 109_081_344, ("none", 128): 89_650_176,
    ("none", 64): 87_648_000, ("none", 256): 93_654_528, ("all", 64): 9_681_408, ("all", 256): 15_687_936,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_equal_the_published_ones(name):
    counts = AlbertConfig.preset(name).count_parameters()
    model, pretraining = COUNTS[name]
    assert counts["model"] == model
    assert pretraining in (None, counts["pretraining"])


@pytest.mark.parametrize("size", ["base", "large", "xlarge", "xxlarge"])
def test_v1_and_v2_have_the_same_sizes(size):
    v1, v2 = (AlbertConfig.preset(f"albert-{size}-{version}") for version in ("v1", "v2"))
    assert v1.count_parameters() == v2.count_parameters()
    assert (v1.hidden_act, v2.hidden_act) == ("gelu", "gelu_new")
    assert v1.hidden_dropout_prob == (0 if size == "xxlarge" else 0.1) and v2.hidden_dropout_prob == 0


@pytest.mark.parametrize("case", SHARED)
def test_the_ablations_of_the_paper_have_its_sizes(case):
    sharing, E = case
    config = AlbertConfig.preset("albert-base-v2", parameter_sharing=sharing, embedding_size=E)
    assert config.count_parameters()["model"] == SHARED[case]


def test_counted_parameters_are_those_of_the_model():
    import minialbert

    for config in (tiny_config(), tiny_config(num_hidden_groups=3, inner_group_num=2), tiny_bert(),
                   tiny_config(parameter_sharing="ffn"), tiny_config(embedding_size=12)):  # fmt: skip
        model = minialbert.AlbertForPreTraining(config)
        assert sum(p.numel() for p in model.parameters()) == config.count_parameters()["pretraining"]


@given(L=st.integers(1, 60), inner=st.integers(1, 3), data=st.data())
def test_the_plan_is_ordered_uses_every_group_and_is_as_even_as_can_be(L, inner, data):
    G = data.draw(st.integers(1, L))
    plan = sharing_plan(L, G, inner)
    assert len(plan) == L * inner
    assert {a for a, _ in plan} == set(range(G * inner))
    groups = [a // inner for a, _ in plan[::inner]]
    assert groups == sorted(groups) and all(a == f for a, f in plan)
    sizes = [groups.count(g) for g in range(G)]
    assert max(sizes) - min(sizes) <= 1


def test_the_plan_is_exact_where_floating_point_is_not():
    assert [a for a, _ in sharing_plan(22, 22)] == list(range(22))  # int(15 / 22 * 22) is 14
    assert sharing_plan(18, 14)[9] == (7, 7)  # int(9 / (18 / 14)) is 6
    assert [a for a, _ in sharing_plan(12, 4)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [a for a, _ in sharing_plan(7, 3)] == [0, 0, 0, 1, 1, 2, 2]
    assert sharing_plan(2, 1, inner=2) == [(0, 0), (1, 1), (0, 0), (1, 1)]


@given(L=st.integers(1, 12), inner=st.integers(1, 3))
def test_half_shared_plans_keep_one_half_apart(L, inner):
    attention, ffn = sharing_plan(L, 1, inner, "attention"), sharing_plan(L, 1, inner, "ffn")
    assert {a for a, _ in attention} == set(range(inner)) and [f for _, f in attention] == list(range(L * inner))
    assert [(f, a) for a, f in ffn] == attention


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_writing_and_reading(name):
    config = AlbertConfig.preset(name)
    assert AlbertConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("changes", [{}, {"num_hidden_groups": 2}, {"embedding_size": 12}, {"ffn_dropout": False},
                                     {"embedding_size": 12, "project_embeddings": True}, {"num_labels": 5},
                                     {"num_labels": 2, "id2label": {0: "no", 1: "yes"}}])  # fmt: skip
def test_every_kind_of_sharing_survives_writing_and_reading(sharing, changes):
    config = tiny_config(parameter_sharing=sharing, **changes)
    again = AlbertConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.sharing_plan() == config.sharing_plan() and again.has_projection == config.has_projection
    assert again.to_json() == config.to_json()
    assert again.num_labels == config.num_labels and again.ffn_dropout == config.ffn_dropout


def test_albert_says_its_classifiers_dropout_in_a_number_as_hugging_face_wants_it():
    config = dataclasses.replace(tiny_config(hidden_dropout_prob=0.3), classifier_dropout_prob=None)
    assert json.loads(json.dumps(config.to_json()))["classifier_dropout_prob"] == 0.3


def test_the_word_gelu_means_the_tanh_form_in_googles_file_and_erf_in_hugging_faces(tmp_path):
    sizes = {"vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    assert AlbertConfig.from_json(sizes | {"hidden_act": "gelu"}).hidden_act == "gelu_new"
    assert AlbertConfig.from_json(sizes | {"hidden_act": "gelu"}, dialect="hf").hidden_act == "gelu"
    assert AlbertConfig.from_json(sizes | {"hidden_act": "gelu", "model_type": "albert"}).hidden_act == "gelu"
    assert AlbertConfig.from_json(sizes | {"hidden_act": ""}).hidden_act == "linear"
    (tmp_path / "albert_config.json").write_text(json.dumps(sizes | {"hidden_act": "gelu", "architectures": ["x"]}))
    assert AlbertConfig.from_json(tmp_path / "albert_config.json").hidden_act == "gelu_new"
    (tmp_path / "bert_config.json").write_text(json.dumps(sizes | {"hidden_act": "gelu", "pooler_type": "x"}))
    bert = AlbertConfig.from_json(tmp_path / "bert_config.json")
    assert bert.hidden_act == "gelu" and bert.model_type == "bert" and bert.is_bert_shaped


@pytest.mark.parametrize("odd", [None, [], 3, True, {"a": 1}, "AlbertModel", [7]])
def test_odd_architectures_do_no_harm(odd):
    config = AlbertConfig.from_json({"vocab_size": 31, "architectures": odd})
    assert config.model_type == "albert" and config.extra == {"architectures": odd}


def test_a_missing_key_has_the_xxlarge_value_as_in_both_reference_codes():
    config = AlbertConfig.from_json({"model_type": "albert"})
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (4096, 64, 16384)
    assert AlbertConfig.from_json({"model_type": "bert"}).hidden_size == 768


def test_unknown_keys_are_kept_and_written_back():
    raw = tiny_config().to_json() | {"net_structure_type": 0, "my_note": {"a": [1]}, "architectures": ["AlbertModel"]}
    config = AlbertConfig.from_json(raw)
    assert config.extra["my_note"] == {"a": [1]}
    assert config.to_json() == raw


def test_a_configuration_is_frozen_and_can_be_changed_by_replace():
    config = tiny_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 5
    assert dataclasses.replace(config, num_hidden_layers=2).num_visits == 2
    assert hash(config) == hash(tiny_config())


IMPOSSIBLE = [
    ({"hidden_size": 13}, "multiple of num_attention_heads"),
    ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
    ({"num_hidden_layers": 2.5}, "num_hidden_layers=2.5"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True"),
    ({"num_hidden_groups": 7}, "num_hidden_groups=7 must be between 1 and num_hidden_layers=6"),
    ({"num_hidden_groups": 0}, "num_hidden_groups=0"),
    ({"inner_group_num": 0}, "inner_group_num=0"),
    ({"hidden_act": "gleu"}, "Nearest: gelu"),
    ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob=1.5 must be 0 to below 1"),
    ({"attention_probs_dropout_prob": "0.1"}, "attention_probs_dropout_prob='0.1' must be a number"),
    ({"classifier_dropout_prob": -1}, "classifier_dropout_prob=-1"),
    ({"layer_norm_eps": 0}, "layer_norm_eps=0"),
    ({"parameter_sharing": "some"}, "parameter_sharing='some'"),
    ({"project_embeddings": False}, "project_embeddings=False needs"),
    ({"id2label": {0: "a"}}, "id2label names 1 labels, num_labels=2"),
    ({"problem_type": "guess"}, "problem_type='guess'"),
    ({"model_type": "bert"}, "model_type='bert' needs"),
    ({"model_type": "roberta"}, "model_type='roberta'"),
]


@pytest.mark.parametrize("changes, words", IMPOSSIBLE, ids=lambda x: str(x)[:40])
def test_what_cannot_be_is_refused_by_name(changes, words):
    with pytest.raises(ConfigError) as caught:
        tiny_config(**changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, MiniAlbertError)


@pytest.mark.parametrize("changes, words", [
    ({"position_embedding_type": "relative_key"}, "only absolute positions"),
    ({"is_decoder": True}, "encoders"),
    ({"model_type": "distilbert"}, "not of this family"),
    ({"id2label": ["a", "b"]}, "id2label"),
    ({"hidden_size": "12"}, "hidden_size='12'"),
    ({"hidden_size": None}, "hidden_size=None"),
])  # fmt: skip
def test_files_that_describe_no_model_of_the_family_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        AlbertConfig.from_json(tiny_config().to_json() | changes)


def test_broken_files_are_named(tmp_path):
    for text, words in [("{", "not whole JSON"), ("[1]", "holds a JSON list"), ("\x00\xff", "JSON")]:
        path = tmp_path / "config.json"
        path.write_text(text)
        with pytest.raises(FileError, match=words) as caught:
            AlbertConfig.from_json(path)
        assert str(path) in str(caught.value)
    path.write_text("[" * 100_000)
    with pytest.raises(FileError, match="nested too deeply"):
        AlbertConfig.from_json(path)
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(FileError, match="cannot be read as text"):
        AlbertConfig.from_json(path)
    with pytest.raises(FileError, match="no such file"):
        AlbertConfig.from_json(tmp_path / "nothing.json")


def test_a_preset_that_does_not_exist_names_the_nearest():
    with pytest.raises(NameUnknown, match="Nearest: albert-base-v2"):
        AlbertConfig.preset("albert-base-v3")
    assert AlbertConfig.preset("albert/albert-base-v2") == AlbertConfig.preset("albert-base-v2")
