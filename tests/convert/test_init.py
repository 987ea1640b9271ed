"""Loading and saving directories: every accepted variant gives the same bits, every broken one its own line."""

import itertools
import json
import os
import warnings
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import minialbert
from minialbert import AlbertForMaskedLM, AlbertForPreTraining, AlbertForSequenceClassification, AlbertModel
from minialbert.config import AlbertConfig
from minialbert.convert import LoadReport, check_vocabulary, load, load_model, names
from minialbert.errors import CheckpointError, ConfigError, FileError, InputError, MiniAlbertError, NameUnknown
from minialbert.tokenizers import load_tokenizer
from tests.conftest import GOLDEN, theirs_of, tiny_bert, tiny_config
from tests.convert.directories import (
    CONFIGS,
    FAMILIES,
    assert_same_bits,
    halves,
    parts_of,
    plain_names,
    put_together,
    released,
    write,
    write_config,
    write_index,
    write_released,
)

HEADS = ["Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
         "ForQuestionAnswering", "ForMultipleChoice"]  # fmt: skip


def ours_of(head: str) -> type:
    return getattr(minialbert, "Albert" + head)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def reference(family, tmp_path):
    """The pre-training model as it loads from what Hugging Face writes today."""
    return load_model(AlbertForPreTraining, write_released(tmp_path / "reference", family))[0]


# ---- the same bits, however they are stored ----


def as_shards(directory, tensors):
    write_index(directory, halves(tensors, "safetensors"))


def as_bin(directory, tensors, **options):
    torch.save(tensors, directory / "pytorch_model.bin", **options)


def as_bin_shards(directory, tensors):
    write_index(directory, halves(tensors, "bin"), "pytorch_model.bin")


def as_parameters(directory, tensors):
    as_bin(directory, {name: torch.nn.Parameter(x) for name, x in tensors.items()})


STORED = {
    "safetensors": lambda directory, tensors: write(directory, tensors, {}),
    "safetensors in shards": as_shards,
    "bin": as_bin,
    "bin, legacy": lambda directory, tensors: as_bin(directory, tensors, _use_new_zipfile_serialization=False),
    "bin in shards": as_bin_shards,
    "bin, wrapped": lambda directory, tensors: as_bin(directory, {"state_dict": tensors, "epoch": 3}),
    "bin of parameters": as_parameters,
}


@pytest.mark.parametrize("stored", STORED)
def test_a_checkpoint_loads_to_the_same_bits_however_it_is_stored(stored, family, reference, tmp_path):
    tensors, config = released(family)
    STORED[stored](tmp_path, tensors)
    write_config(tmp_path, config)
    model, report = load_model(AlbertForPreTraining, tmp_path)
    assert_same_bits(model, reference)
    assert report.used.keys() == tensors.keys()
    assert str(report) == f"used {len(tensors)}, tied 0, derived 0, ignored 0, missing 0, new 0"


def test_shards_that_hugging_face_writes_load_to_the_same_bits(family, reference, tmp_path):
    theirs_of(CONFIGS[family], "ForPreTraining").save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert_same_bits(load_model(AlbertForPreTraining, tmp_path)[0], reference)


def with_old_norms(family, tensors):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta",
           "full_layer_layer_norm.weight": "full_layer_layer_norm.gamma",
           "full_layer_layer_norm.bias": "full_layer_layer_norm.beta"}  # fmt: skip

    def rename(name):
        return next((name.removesuffix(new) + o for new, o in old.items() if name.endswith(new)), name)

    return {rename(name): x for name, x in tensors.items()}


def with_names_of_bert(family, tensors):
    theirs = {"predictions.dense.": "cls.predictions.transform.dense.",
              "predictions.LayerNorm.": "cls.predictions.transform.LayerNorm.",
              "predictions.bias": "cls.predictions.bias",
              "sop_classifier.classifier.": "cls.seq_relationship."}  # fmt: skip
    if family == "bert":
        return tensors
    return {next((n + name.removeprefix(o) for o, n in theirs.items() if name.startswith(o)), name): x
            for name, x in tensors.items()}  # fmt: skip


SPELLED = {
    "without a prefix": plain_names,
    "module": lambda family, tensors: {f"module.{name}": x for name, x in tensors.items()},
    "module, without a prefix": lambda f, tensors: {f"module.{n}": x for n, x in plain_names(f, tensors).items()},
    "prefix on half of them": lambda f, tensors: dict(list(tensors.items())[::2] + list(plain_names(f, dict(
        list(tensors.items())[1::2])).items())),
    "gamma and beta": with_old_norms,
    "cls": with_names_of_bert,
}  # fmt: skip


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_checkpoint_loads_to_the_same_bits_however_it_is_spelled(spelled, family, reference, tmp_path):
    tensors, config = released(family)
    renamed = SPELLED[spelled](family, tensors)
    assert len(renamed) == len(tensors)
    model, report = load_model(AlbertForPreTraining, write(tmp_path, renamed, config))
    assert_same_bits(model, reference)
    assert report.used.keys() == renamed.keys()


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", ["safetensors", "bin"])
def test_other_precisions_become_float32_unless_auto_keeps_them(kind, stored, tmp_path):
    tensors, config = released()
    tensors = {name: x.to(kind) for name, x in tensors.items()}
    STORED[stored](tmp_path, tensors)
    write_config(tmp_path, config)
    word = tensors["albert.embeddings.word_embeddings.weight"]
    for asked, want in ((torch.float32, torch.float32), ("auto", kind), (torch.bfloat16, torch.bfloat16)):
        model, _ = load_model(AlbertModel, tmp_path, dtype=asked)
        assert {p.dtype for p in model.parameters()} == {want}
        assert torch.equal(model.embeddings.word.weight, word.to(want))


def test_what_is_no_weight_is_ignored_and_says_why(family, reference, tmp_path):
    tensors, config = released(family)
    tensors |= {
        f"{family}.embeddings.position_ids": torch.arange(16)[None],
        f"{family}.embeddings.token_type_ids": torch.zeros(1, 16, dtype=torch.int64),
        "crf.transitions": torch.ones(3, 3),
    }
    write(tmp_path, tensors, config)
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "tf_model.h5"):
        (tmp_path / name).write_bytes(b"not to be read")
    model, report = load_model(AlbertForPreTraining, tmp_path)
    assert_same_bits(model, reference)
    assert report.ignored == {
        f"{family}.embeddings.position_ids": "a buffer of old versions",
        f"{family}.embeddings.token_type_ids": "a buffer of old versions",
        "crf.transitions": "not part of the model: somebody's own head",
    }


def test_numbers_that_are_not_numbers_load_as_they_are(tmp_path):
    tensors, config = released()
    word = "albert.embeddings.word_embeddings.weight"
    tensors[word][3] = float("nan")
    tensors["predictions.decoder.weight"] = tensors[word].clone()
    model, report = load_model(AlbertForMaskedLM, write(tmp_path, tensors, config))
    assert model.albert.embeddings.word.weight[3].isnan().all()
    assert report.tied == ["predictions.decoder.weight"]


def test_the_model_does_not_change_when_its_file_is_overwritten(family, reference, tmp_path):
    path = write_released(tmp_path, family) / "model.safetensors"
    model, _ = load_model(AlbertForPreTraining, tmp_path)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same_bits(model, reference)


def test_no_two_parameters_share_memory(tmp_path):
    tensors, config = released()
    one = torch.zeros(2000)
    as_bin(tmp_path, {name: one[: x.numel()].view(x.shape) for name, x in tensors.items()})
    write_config(tmp_path, config)
    model, _ = load_model(AlbertForPreTraining, tmp_path)
    places = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert len(places) == len(set(places))
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


# ---- the output matrix of masked words ----


def decoder_names(family) -> tuple[str, str, str, str]:
    top = "predictions" if family == "albert" else "cls.predictions"
    return f"{family}.embeddings.word_embeddings.weight", f"{top}.bias", f"{top}.decoder.weight", f"{top}.decoder.bias"


def test_copies_of_the_word_table_and_of_its_bias_are_counted_as_tied(family, reference, tmp_path):
    tensors, config = released(family)
    word, bias, matrix, second = decoder_names(family)
    tensors |= {matrix: tensors[word].clone(), second: tensors[bias].clone()}
    model, report = load_model(AlbertForPreTraining, write(tmp_path, tensors, config))
    assert_same_bits(model, reference)
    assert sorted(report.tied) == sorted([matrix, second])
    assert len(report.used) == len(tensors) - 2


@pytest.mark.parametrize("which", ["matrix", "bias", "both"])
def test_where_only_the_copy_is_stored_it_is_the_original(which, family, reference, tmp_path):
    tensors, config = released(family)
    word, bias, matrix, second = decoder_names(family)
    if which in ("matrix", "both"):
        tensors[matrix] = tensors.pop(word)
    if which in ("bias", "both"):
        tensors[second] = tensors.pop(bias)
    model, report = load_model(AlbertForPreTraining, write(tmp_path, tensors, config))
    assert_same_bits(model, reference)
    assert report.tied == []
    assert report.used.keys() == tensors.keys()


@pytest.mark.parametrize("which", ["matrix", "bias"])
def test_a_copy_that_differs_is_refused_for_masked_words_and_harmless_for_the_encoder(which, family, tmp_path):
    tensors, config = released(family)
    word, bias, matrix, second = decoder_names(family)
    original, copy = (word, matrix) if which == "matrix" else (bias, second)
    tensors[copy] = tensors[original] + 1
    write(tmp_path, tensors, config)
    for cls in (AlbertForPreTraining, AlbertForMaskedLM):
        with pytest.raises(CheckpointError, match=f"{copy} differs from {original}; they are one tensor"):
            load_model(cls, tmp_path)
    model, report = load_model(AlbertModel, tmp_path)
    assert torch.equal(model.embeddings.word.weight, tensors[word])
    assert "masked words" in report.ignored[copy]


def test_a_copy_in_other_precision_that_rounds_to_the_same_is_not_the_same(tmp_path):
    tensors, config = released()
    word, _, matrix, _ = decoder_names("albert")
    tensors[matrix] = tensors[word].half()
    with pytest.raises(CheckpointError, match="differs"):
        load_model(AlbertForMaskedLM, write(tmp_path, tensors, config))
    tensors[word] = tensors[matrix].float()
    _, report = load_model(AlbertForMaskedLM, write(tmp_path, tensors, config))
    assert report.tied == [matrix]


# ---- heads: there, absent, others ----


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("error")
def test_every_class_uses_every_tensor_of_its_own_file(head, family, tmp_path):
    labels = 3 if head in ("ForSequenceClassification", "ForTokenClassification") else 2
    tensors, config = released(family, head, labels)
    model, report = load_model(ours_of(head), write(tmp_path, tensors, config))
    assert report == LoadReport(used=report.used)
    assert report.used.keys() == tensors.keys()
    assert set(report.used.values()) == {name.removeprefix("albert.") for name, _ in model.named_parameters()}
    assert not model.training


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"])
def test_the_encoder_of_a_model_without_pooler_has_none(head, family, tmp_path):
    model, report = load_model(AlbertModel, write_released(tmp_path, family, head))
    assert model.pooler is None
    assert model(torch.tensor([[1, 2]])).pooler_output is None
    assert report.new == report.missing == []
    assert report.ignored


@pytest.mark.parametrize("made, asked", list(itertools.permutations(HEADS, 2)))
def test_any_class_loads_from_the_file_of_any_other(made, asked, tmp_path, recwarn):
    tensors, config = released("albert", made)
    model, report = load_model(ours_of(asked), write(tmp_path, tensors, config))
    parameters = {name.removeprefix("albert."): p for name, p in model.named_parameters()}
    assert parameters.keys() == set(report.used.values()) | set(report.new)
    assert tensors.keys() == report.used.keys() | report.ignored.keys()
    assert len(recwarn) == (1 if report.new else 0)
    for name in report.new:
        assert name.startswith((*names.HEADS, "pooler.")), "the encoder is never new"
        rows = parameters[name]
        assert torch.equal(rows, torch.ones_like(rows) if name.endswith("norm.weight") else rows.clamp(-0.04, 0.04))
        assert not name.endswith("bias") or not rows.any()
    for theirs, ours in report.used.items():
        assert torch.equal(parameters[ours], tensors[theirs])


def test_new_heads_are_named_in_one_warning(tmp_path):
    write_released(tmp_path, "albert", "ForMaskedLM")
    with pytest.warns(UserWarning, match="new here, to be trained before use: pooler, sentence order$"):
        _, report = load_model(AlbertForPreTraining, tmp_path)
    assert report.new == ["pooler.weight", "pooler.bias", "sop.classifier.weight", "sop.classifier.bias"]


def test_the_warning_points_at_the_caller(tmp_path):
    write_released(tmp_path, "albert", "ForMaskedLM")
    with pytest.warns(UserWarning, match="new here") as caught:
        AlbertForPreTraining.from_pretrained(tmp_path)
    assert caught[0].filename == __file__


def test_new_heads_repeat_with_the_seed(tmp_path):
    write_released(tmp_path, "albert", "Model")
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match="new here"):
            seen.append(load_model(AlbertForPreTraining, tmp_path)[0])
    assert_same_bits(seen[0], seen[1])
    assert not torch.equal(seen[0].mlm.dense.weight, seen[2].mlm.dense.weight)


def test_a_classifier_of_another_task_is_not_taken_over(family, tmp_path):
    tensors, config = released(family, "ForSequenceClassification", 3)
    write(tmp_path, tensors, config)
    with pytest.warns(UserWarning, match="for another task"):
        model, report = load_model(ours_of("ForTokenClassification"), tmp_path)
    assert sorted(report.new) == ["classifier.bias", "classifier.weight"]
    assert "ForSequenceClassification" in report.ignored["classifier.weight"]
    assert not torch.equal(model.classifier.weight, tensors["classifier.weight"])


def test_a_classifier_for_another_number_of_labels_is_new(tmp_path):
    write_released(tmp_path, "albert", "ForSequenceClassification", 3)
    with pytest.warns(UserWarning, match="classifier .the file's is for 3 labels, not 5"):
        model, report = load_model(AlbertForSequenceClassification, tmp_path, num_labels=5)
    assert list(model.classifier.weight.shape) == [5, 12]
    assert model.config.num_labels == 5 and model.config.id2label is None
    assert report.new == ["classifier.weight", "classifier.bias"]


@pytest.mark.filterwarnings("error")
def test_a_classifier_is_kept_when_the_number_asked_for_is_its_own(tmp_path):
    tensors, config = released("albert", "ForSequenceClassification", 3)
    write(tmp_path, tensors, config)
    for changes in ({"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}}):
        model, _ = load_model(AlbertForSequenceClassification, tmp_path, **changes)
        assert torch.equal(model.classifier.weight, tensors["classifier.weight"])
        assert model.config.num_labels == 3
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_names_of_labels_bring_their_number(tmp_path):
    write_released(tmp_path, "albert", "Model")
    with pytest.warns(UserWarning, match="new here"):
        model, _ = load_model(AlbertForSequenceClassification, tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert list(model.classifier.bias.shape) == [3]


def test_other_changes_of_the_configuration_are_taken(tmp_path):
    write_released(tmp_path)
    model, _ = load_model(AlbertModel, tmp_path, hidden_dropout_prob=0.3, layer_norm_eps=1e-5)
    assert model.config.hidden_dropout_prob == 0.3
    assert model.embeddings.norm.eps == 1e-5
    with pytest.raises(ConfigError, match="num_attention_heads"):
        load_model(AlbertModel, tmp_path, num_attention_heads=5)
    with pytest.raises(NameUnknown, match=r"torch_dtype is no field of the configuration. Nearest: dtype"):
        load_model(AlbertModel, tmp_path, torch_dtype=torch.float16)
    with pytest.raises(CheckpointError, match=r"is \[31, 7\], the configuration needs \[32, 7\]"):
        load_model(AlbertModel, tmp_path, vocab_size=32)


@pytest.mark.parametrize("dtype", [torch.int64, "float32", None, 3])
def test_a_dtype_that_parameters_cannot_have_is_refused(dtype, tmp_path):
    with pytest.raises(InputError, match=r"must be a floating-point torch.dtype or 'auto'"):
        load_model(AlbertModel, write_released(tmp_path), dtype=dtype)


# ---- sharing, and no projection ----


@pytest.mark.parametrize("sharing", ["attention", "ffn", "none"])
def test_half_shared_models_fold_what_the_file_repeats(sharing, tmp_path):
    model = AlbertForPreTraining(tiny_config(parameter_sharing=sharing, num_hidden_layers=4, inner_group_num=2)).eval()
    model.save_pretrained(tmp_path)
    again, report = load_model(AlbertForPreTraining, tmp_path)
    assert_same_bits(again, model)
    repeated = {"attention": 10, "ffn": 6, "none": 0}[sharing]  # tensors of one half of a block
    assert len(report.derived) == repeated * 2 * 3
    assert len(report.used) == len(list(model.parameters()))


def test_copies_of_a_shared_block_that_differ_are_refused(tmp_path):
    AlbertModel(tiny_config(parameter_sharing="ffn", num_hidden_layers=4)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.albert_layer_groups.2.albert_layers.0.ffn.bias"] += 1
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"groups\.2\.\S+ffn.bias differs from .*parameter_sharing='ffn'"):
        load_model(AlbertModel, write(tmp_path, tensors, config))


def test_the_same_tensor_with_and_without_prefix_must_be_equal(tmp_path):
    tensors, config = released()
    tensors["pooler.weight"] = tensors["albert.pooler.weight"].clone()
    _, report = load_model(AlbertModel, write(tmp_path, tensors, config))
    assert len(report.derived) == 1
    tensors["pooler.weight"][0, 0] += 1
    with pytest.raises(CheckpointError, match="differs from"):
        load_model(AlbertModel, write(tmp_path, tensors, config))


def test_a_projection_is_kept_where_hugging_face_has_one_though_the_widths_are_equal(tmp_path):
    theirs = theirs_of(tiny_config(embedding_size=12, project_embeddings=True))
    theirs.save_pretrained(tmp_path)
    model, report = load_model(AlbertModel, tmp_path)
    assert torch.equal(model.embeddings.projection.weight, theirs.encoder.embedding_hidden_mapping_in.weight)
    assert report.derived == []


def test_an_identity_is_folded_where_there_is_no_projection(tmp_path):
    model = AlbertForMaskedLM(tiny_config(embedding_size=12)).eval()
    model.save_pretrained(tmp_path)
    again, report = load_model(AlbertForMaskedLM, tmp_path)
    assert_same_bits(again, model)
    assert sorted(report.derived) == [f"albert.{names.PROJECTION}.bias", f"albert.{names.PROJECTION}.weight"]
    with_matrix, _ = load_model(AlbertForMaskedLM, tmp_path, project_embeddings=True)
    assert torch.equal(with_matrix.albert.embeddings.projection.weight, torch.eye(12))
    ids = torch.tensor([[1, 2, 3]])
    assert (with_matrix(ids).logits - again(ids).logits).abs().max() < 1e-6


# ---- broken directories: what is wrong, and the words of its one line ----

BROKEN = {}
WORD, QUERY = "albert.embeddings.word_embeddings.weight", "attention.query.weight"


def broken(*words, kind=CheckpointError, family="albert", cls=AlbertForPreTraining):
    """Registers a function that breaks a whole directory of the family, and what is said when cls is loaded then."""

    def register(function):
        BROKEN[function.__name__.replace("_", " ").strip()] = function, words, kind, family, cls
        return function

    return register


def change_tensors(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    write(directory, tensors, json.loads((directory / "config.json").read_text()))


def change_config(directory: Path, **keys) -> None:
    write_config(directory, json.loads((directory / "config.json").read_text()) | keys)


def change_bytes(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@broken("no such file", "the sizes of a model stand in its configuration", "--config", kind=FileError)
def configuration_missing(directory):
    (directory / "config.json").unlink()


@broken("config.json", "not whole JSON", "download it again", kind=FileError)
def configuration_cut_in_half(directory):
    change_bytes(directory / "config.json", lambda text: text[: len(text) // 2])


@broken("config.json", "holds a JSON list, expected an object", kind=FileError)
def configuration_a_list(directory):
    (directory / "config.json").write_text("[]")


@broken("config.json", "cannot be read as text", kind=FileError)
def configuration_not_utf8(directory):
    (directory / "config.json").write_bytes(b'{"a": "\xff"}')


@broken("model_type='gpt2' is not of this family", kind=ConfigError)
def configuration_of_another_family(directory):
    change_config(directory, model_type="gpt2")


@broken("hidden_size='768' must be a whole number", kind=ConfigError)
def configuration_with_a_text_for_a_number(directory):
    change_config(directory, hidden_size="768")


@broken("hidden_size=13 is not a multiple of num_attention_heads=3", kind=ConfigError)
def configuration_whose_heads_do_not_divide_the_width(directory):
    change_config(directory, hidden_size=13)


@broken("is [31, 7], the configuration needs [31, 9]", "do not belong together")
def configuration_of_another_width(directory):
    change_config(directory, embedding_size=9)


@broken("the configuration needs [30000, 128]. The weights look like albert-large (H=1024).", cls=AlbertModel)
def configuration_of_base_beside_weights_of_large(directory):
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    write(directory, {WORD: torch.zeros(30, 128), f"{block}attention.query.bias": torch.zeros(1024)}, {})
    write_config(directory, AlbertConfig.preset("albert-base-v2").to_json())


@broken("16 of 94 tensors missing", "encoder.attentions.4.query.weight", "The file has 78", family="bert")
def configuration_with_more_layers_than_the_file(directory):
    change_config(directory, num_hidden_layers=5)
    change_tensors(directory, lambda tensors: None)


@broken("16 unknown inside the encoder", "bert.encoder.layer.3.attention", "num_hidden_layers=3", family="bert")
def configuration_with_fewer_layers_than_the_file(directory):
    change_config(directory, num_hidden_layers=3)


@broken("of 64 tensors missing", "encoder.attentions.2.query.weight", "is the configuration of another model")
def configuration_with_more_groups_than_the_file(directory):
    change_config(directory, num_hidden_groups=3)


@broken("16 unknown inside the encoder", "albert_layer_groups.1.", "num_hidden_groups=1", "of another model?")
def configuration_with_fewer_groups_than_the_file(directory):
    change_config(directory, num_hidden_groups=1)


@broken("unknown inside the encoder", "albert_layer_groups", "model_type=bert")
def configuration_of_bert_beside_weights_of_albert(directory):
    write_config(directory, tiny_bert().to_json())


@broken("cut off: download it again")
def safetensors_cut_in_its_tensors(directory):
    change_bytes(directory / "model.safetensors", lambda data: data[:-100])


@broken("header claims", "cut off; download it again")
def safetensors_cut_in_its_header(directory):
    change_bytes(directory / "model.safetensors", lambda data: data[:100])


@broken("something was added at its end")
def safetensors_with_trailing_bytes(directory):
    change_bytes(directory / "model.safetensors", lambda data: data + b"more")


@broken("laid out for tf, expected format 'pt'")
def safetensors_of_tensorflow(directory):
    def retell(data):
        header, rest = parts_of(data)
        return put_together(header | {"__metadata__": {"format": "tf"}}, rest)

    change_bytes(directory / "model.safetensors", retell)


@broken("1 of 48 tensors missing: embeddings.norm.bias", "The file has 47")
def tensor_of_the_encoder_missing(directory):
    change_tensors(directory, lambda tensors: tensors.pop("albert.embeddings.LayerNorm.bias"))


@broken("1 of 48 tensors missing: mlm.norm.weight")
def half_a_head_missing(directory):
    change_tensors(directory, lambda tensors: tensors.pop("predictions.LayerNorm.weight"))


@broken("1 of 41 tensors missing: pooler.bias", cls=AlbertModel)
def half_a_pooler_missing(directory):
    change_tensors(directory, lambda tensors: tensors.pop("albert.pooler.bias"))


@broken("encoder.attentions.1.query.weight", "is [12, 11], the configuration needs [12, 12]")
def tensor_of_another_shape(directory):
    name = f"albert.encoder.albert_layer_groups.1.albert_layers.0.{QUERY}"
    change_tensors(directory, lambda tensors: tensors.update({name: torch.ones(12, 11)}))


@broken("1 unknown inside the encoder", "albert.encoder.relative_attention_bias", "of another model?")
def tensor_inside_the_encoder_that_nobody_knows(directory):
    change_tensors(directory, lambda tensors: tensors.update({"albert.encoder.relative_attention_bias": torch.ones(3)}))


@broken("embeddings.word.weight", "is of dtype I64, expected one of F64, F32, F16, BF16", "quantized")
def word_table_of_whole_numbers(directory):
    change_tensors(directory, lambda tensors: tensors.update({WORD: tensors[WORD].long()}))


@broken("is of dtype F8_E4M3, expected one of")
def word_table_of_eight_bits(directory):
    change_tensors(directory, lambda tensors: tensors.update({WORD: tensors[WORD].to(torch.float8_e4m3fn)}))


@broken("is of dtype I64, expected one of")
def word_table_of_whole_numbers_in_a_bin(directory):
    tensors = load_file(directory / "model.safetensors")
    as_bin(directory, tensors | {WORD: tensors[WORD].long()})
    (directory / "model.safetensors").unlink()


@broken("embedding_hidden_mapping_in.weight changes the embeddings", "project_embeddings=True")
def projection_that_is_no_identity(directory):
    AlbertForPreTraining(tiny_config(embedding_size=12)).save_pretrained(directory)
    change_tensors(directory, lambda tensors: tensors[f"albert.{names.PROJECTION}.weight"].add_(1))


@broken("tensors missing: embeddings.word.weight, ", "of which 0 have a place")
def weights_of_something_else(directory):
    change_tensors(directory, lambda t: [t.update({f"roberta.{name}": t.pop(name)}) for name in list(t)])


@broken("holds only flax_model.msgpack, tf_model.h5, which is not read; get its model.safetensors", kind=FileError)
def weights_of_tensorflow_only(directory):
    (directory / "model.safetensors").rename(directory / "tf_model.h5")
    (directory / "flax_model.msgpack").write_bytes(b"x")


@broken("no model.safetensors or pytorch_model.bin", "among config.json", kind=FileError)
def weights_missing(directory):
    (directory / "model.safetensors").unlink()


@broken("no model.safetensors", "no TensorFlow checkpoint", "among no files at all", kind=FileError)
def empty_directory(directory):
    for path in directory.iterdir():
        path.unlink()


@broken("the shard 'part-2-of-2.safetensors' is missing; download it too")
def shard_missing(directory):
    as_shards(directory, load_file(directory / "model.safetensors"))
    (directory / "model.safetensors").unlink()
    (directory / "part-2-of-2.safetensors").unlink()


@broken("would run code when read; refused")
def pickle_that_runs_code(directory):
    from tests.convert.test_torch_files import touch

    (directory / "model.safetensors").unlink()
    as_bin(directory, {"a": touch(directory / "it-ran")})


@broken("pytorch_model.bin: not a torch file")
def text_called_a_bin(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_text("weights")


def line_of(action, kind) -> str:
    with pytest.raises(MiniAlbertError) as caught:
        action()
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_gets_one_line(name, tmp_path):
    damage, words, kind, family, cls = BROKEN[name]
    damage(write_released(tmp_path, family))
    line = line_of(lambda: load_model(cls, tmp_path), kind)
    assert line.startswith(str(tmp_path))
    for word in words:
        assert word in line
    assert not (tmp_path / "it-ran").exists()


def test_what_is_no_model_gets_one_line(tmp_path):
    file = write_released(tmp_path) / "model.safetensors"
    for ref, words in [
        (tmp_path / "config.json", "is no file of weights by its name; expected .safetensors"),
        (tmp_path / "nowhere", "no such file or directory"),
        (file / "below", "no such file or directory"),
        ("a" * 5000, "no such file or directory"),
        ("a\0b", "no such file or directory"),
    ]:
        assert words in line_of(lambda r=ref: load(r), FileError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "directory"])
def test_what_may_not_be_read_gets_one_line(name, tmp_path):
    directory = Path(mkdtemp())  # tmp_path lies below a folder that is closed to others
    directory.chmod(0o755)
    write_released(directory)
    path = directory if name == "directory" else directory / name
    mode, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)  # nobody, whom file modes bind
    try:
        line = line_of(lambda: load_model(AlbertModel, directory), FileError)
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)
        rmtree(directory)
    assert str(path) in line
    assert "Permission denied" in line


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_names_shapes_or_numbers_raises_anything_else(data, tmp_path):
    """Names swapped, dropped, added; shapes and precisions changed: a model or a line."""
    tensors, config = released(data.draw(st.sampled_from(FAMILIES)))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        other = data.draw(st.sampled_from(sorted(tensors)) | st.sampled_from(["predictions.decoder.x", "pooler.y", ""]))
        how = data.draw(st.sampled_from(["drop", "swap", "copy", "turn", "whole", "half", "flat"]))
        x = tensors.pop(name)
        if how == "swap":
            tensors |= {name: tensors.pop(other, x.clone()), other: x}
        elif how == "copy":
            tensors |= {name: x, other: x.clone()}
        elif how != "drop":
            tensors[name] = {
                "turn": x.transpose(0, -1).clone(),
                "whole": x.long(),
                "half": x.half(),
                "flat": x.flatten()[:1],
            }[how]
        if not tensors:
            return
    write(tmp_path, tensors, config)
    for cls in (AlbertModel, AlbertForPreTraining):
        try:
            with warnings.catch_warnings(action="ignore"):
                load_model(cls, tmp_path)
        except MiniAlbertError as error:
            assert str(error).startswith(str(tmp_path))
            assert "\n" not in str(error)


# ---- vocabulary and weights together ----


def write_vocabulary(directory: Path, size: int, pad: int = 0) -> Path:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"word{i}" for i in range(size - len(tokens))]
    tokens[0], tokens[pad] = tokens[pad], tokens[0]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return directory


def test_load_gives_a_model_and_the_tokenizer_that_fits_it(tmp_path):
    model, tokenizer = load(write_vocabulary(write_released(tmp_path, "bert"), 31))
    out = model(**tokenizer(["word3 word4", "word5"]))
    assert list(out.last_hidden_state.shape) == [2, 4, 12]
    assert load(str(tmp_path), dtype=torch.float64)[0].dtype == torch.float64


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    write_released(tmp_path, "bert")
    words = "the vocabulary has 40 entries, the word table 31 rows; they do not belong together"
    write_vocabulary(tmp_path, 40)
    assert words in line_of(lambda: load(tmp_path), CheckpointError)
    assert words in line_of(lambda: load(tmp_path, any_vocabulary=True), CheckpointError)
    tokenizer = load_tokenizer(write_vocabulary(tmp_path, 130))
    with pytest.raises(CheckpointError, match=r"130 entries, the word table 384 rows.*any_vocabulary=True"):
        check_vocabulary(tiny_config(vocab_size=384), tokenizer, tmp_path)
    check_vocabulary(tiny_config(vocab_size=384), tokenizer, tmp_path, any_vocabulary=True)
    check_vocabulary(tiny_config(vocab_size=256), tokenizer, tmp_path)  # a table rounded up


def test_the_vocabulary_of_another_model_is_refused(tmp_path):
    write_released(tmp_path, "albert")
    (tmp_path / "spiece.model").write_bytes((GOLDEN / "tokenizer" / "albert-tiny-500.model").read_bytes())
    assert "31 rows; they do not belong together" in line_of(lambda: load(tmp_path), CheckpointError)


def test_padding_that_means_two_things_is_refused(tmp_path):
    write_vocabulary(write_released(tmp_path, "bert"), 31, pad=7)
    line = line_of(lambda: load(tmp_path), CheckpointError)
    assert "padding is 7 in the vocabulary, 0 in the configuration" in line and "pad_token_id in config.json" in line
    change_config(tmp_path, pad_token_id=7)
    load(tmp_path)


def test_a_directory_without_vocabulary_is_refused(tmp_path):
    assert "no vocabulary" in line_of(lambda: load(write_released(tmp_path)), FileError)


# ---- saving ----


@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_hugging_face_loads_with_nothing_left_over(head, family, tmp_path):
    model = ours_of(head)(CONFIGS[family]).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    theirs = {"albert": "Albert", "bert": "Bert"}[family] + head
    assert config["architectures"] == [theirs] and config["dtype"] == "float32"
    _, info = getattr(transformers, theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    again, report = load_model(ours_of(head), tmp_path)
    assert_same_bits(again, model)
    assert not (report.ignored or report.new or report.derived or report.tied)


def test_unknown_keys_of_the_configuration_come_back(tmp_path):
    tensors, config = released()
    write(tmp_path / "in", tensors, config | {"gap_size": 0, "torch_dtype": "float16", "task": {"a": [1]}})
    load_model(AlbertForPreTraining, tmp_path / "in")[0].save_pretrained(tmp_path / "out")
    out = json.loads((tmp_path / "out" / "config.json").read_text())
    assert out["gap_size"] == 0 and out["task"] == {"a": [1]}
    assert "torch_dtype" not in out and out["dtype"] == "float32"


def test_saving_over_the_directory_that_was_loaded_is_safe(tmp_path):
    model, _ = load_model(AlbertForPreTraining, write_released(tmp_path))
    model.save_pretrained(tmp_path)
    assert_same_bits(load_model(AlbertForPreTraining, tmp_path)[0], model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_place_that_cannot_be_written_to_gets_one_line(tmp_path):
    model = AlbertModel(tiny_config())
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file, expected a directory" in line_of(lambda: model.save_pretrained(file), FileError)
    assert "cannot be made" in line_of(lambda: model.save_pretrained(file / "below"), FileError)
    assert file.read_text() == "mine"


# ---- what loading costs ----


def test_a_model_is_built_without_drawing_numbers_first(tmp_path):
    """The first normal_ without memory makes torch import sympy and 800 other modules: three seconds, 70 MB."""
    write_released(tmp_path)
    drawn = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            drawn.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        load_model(AlbertForPreTraining, tmp_path)
    assert drawn
    assert not [name for name in drawn if "normal" in name]
