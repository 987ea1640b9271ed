"""convert: from every format into every other, bit for bit; what would be lost is refused, nothing half-written."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minialbert
import minialbert.convert.conversion as conversion
from minialbert import AlbertForPreTraining, AlbertForQuestionAnswering, AlbertForSequenceClassification, AlbertModel
from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert import LoadReport, as_directory, convert, load_model, names
from minialbert.convert.tf_checkpoint import Checkpoint
from minialbert.convert.tf_writer import write_checkpoint
from minialbert.errors import CheckpointError, ConfigError, FileError, InputError, MiniAlbertError, NameUnknown
from minialbert.tokenizers import load_tokenizer
from tests.conftest import GOLDEN, TINY, random_batch, tiny_bert, tiny_config
from tests.convert.directories import (
    assert_same_bits,
    google_variables,
    halves,
    released,
    write_archive,
    write_config,
    write_index,
    write_module,
    write_release,
    write_released,
)

PACKS = ["google-v2-tiny", "google-v1-groups"]
CONFIGS = {
    "one group": tiny_config(),
    "three groups": tiny_config(num_hidden_groups=3),
    "inner groups": tiny_config(num_hidden_groups=2, inner_group_num=2),
    "relu": tiny_config(hidden_act="relu"),
    "E = H": tiny_config(embedding_size=12),
    "bert": tiny_bert(),
}


def variables_in(directory: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(next(directory.glob("*.index")).with_suffix(""))
    return {name: checkpoint.read(name) for name in checkpoint}


def assert_same_variables(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == x.dtype and got[name].shape == x.shape, name
        assert got[name].tobytes() == x.tobytes(), name


# ---- round trips ----


@pytest.mark.parametrize("pack", PACKS)
def test_a_recorded_checkpoint_comes_back_to_the_same_bits_by_way_of_hugging_face(pack, tmp_path):
    recorded = load_file(GOLDEN / pack / "weights.safetensors")
    want = {name: x.numpy() for name, x in recorded.items() if not name.endswith(("adam_m", "adam_v", "global_step"))}
    done = convert(GOLDEN / pack, tmp_path / "hf")
    assert done.cls is AlbertForPreTraining and done.difference == 0
    assert len(done.report.used) == len(want) and len(done.report.ignored) == len(recorded) - len(want)
    AlbertForPreTraining.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "google", to="google")
    assert_same_variables(variables_in(tmp_path / "google"), want)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_google_to_hugging_face_to_ours_to_google_is_bit_equal(config, tmp_path):
    variables = google_variables(config)
    write_release(tmp_path / "release", variables, config)
    convert(tmp_path / "release", tmp_path / "hf")
    model, report = load_model(AlbertForPreTraining, tmp_path / "hf")
    assert not report.ignored and not report.missing and not report.new
    model.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "vocab.txt").write_bytes((tmp_path / "hf" / "vocab.txt").read_bytes())
    convert(tmp_path / "ours", tmp_path / "google", to="google")
    assert_same_variables(variables_in(tmp_path / "google"), variables)
    again = AlbertForPreTraining.from_pretrained(tmp_path / "google")
    assert_same_bits(again, model)
    numbers = [dataclasses.replace(c, extra={}) for c in (again.config, model.config)]
    assert numbers[0].to_google_json() == numbers[1].to_google_json() == config.to_google_json()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_hugging_face_loads_what_is_converted_to_the_same_outputs(config, tmp_path):
    write_release(tmp_path / "release", google_variables(config), config)
    convert(tmp_path / "release", tmp_path / "hf")
    family = "Bert" if config.model_type == "bert" else "Albert"
    theirs, told = getattr(transformers, f"{family}ForPreTraining").from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = AlbertForPreTraining.from_pretrained(tmp_path / "release", dtype=torch.float64)
    batch = random_batch(config)
    with torch.no_grad():
        got, want = ours(**batch), theirs.eval().double()(**batch)
    order = want.seq_relationship_logits if family == "Bert" else want.sop_logits
    assert (got.prediction_logits - want.prediction_logits).abs().max() < 1e-10
    assert (got.sop_logits - order).abs().max() < 1e-10


RECORDED = GOLDEN / "tokenizer"
TEXTS = [
    *(RECORDED / "corpus.txt").read_text().split("\n"),
    'A [MASK] of 1,000 (or 2,000) - £3.50 "each"',
    "naïve CAFÉ",
]


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_hugging_face_gives_the_ids_of_the_release_from_what_is_converted(family, tmp_path, minilm):
    if family == "albert":
        config = tiny_config(vocab_size=500)
        release = write_release(tmp_path / "release", google_variables(config), config)
        (release / "vocab_chinese.txt").unlink()
        shutil.copy(RECORDED / "albert-tiny-500.model", release / "30k-clean.model")
    else:
        config = tiny_bert(vocab_size=30522)
        release = write_release(tmp_path / "release", google_variables(config), config)
        shutil.copy(minilm / "vocab.txt", release / "vocab.txt")
    convert(release, tmp_path / "hf")
    _, ours = minialbert.load(release)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    want = ours(TEXTS, padding=False)
    got = theirs(TEXTS)
    assert got["input_ids"] == [list(row) for row in want.input_ids]
    pairs = list(zip(TEXTS[:50], TEXTS[50:100], strict=True))
    want = ours(pairs, padding=False)
    got = theirs([a for a, _ in pairs], [b for _, b in pairs])
    assert got["input_ids"] == [list(row) for row in want.input_ids]
    assert got["token_type_ids"] == [list(row) for row in want.token_type_ids]
    if family == "albert":  # and those that Google's own tokenizer was recorded to give
        lines = [json.loads(line) for line in (RECORDED / "tokenization.jsonl").read_text().splitlines()]
        got = theirs([line["text"] for line in lines], add_special_tokens=False)
        assert got["input_ids"] == [line["ids"] for line in lines]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_a_file_is_kept(dtype, tmp_path):
    tensors, config = released()
    (tmp_path / "src").mkdir()
    save_file({name: x.to(dtype) for name, x in tensors.items()}, tmp_path / "src" / "model.safetensors")
    write_config(tmp_path / "src", config)
    convert(tmp_path / "src", tmp_path / "hf")
    assert {x.dtype for x in load_file(tmp_path / "hf" / "model.safetensors").values()} == {dtype}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    convert(tmp_path / "src", tmp_path / "google", to="google")  # numpy has no bfloat16, Google's code no half
    kind = "F64" if dtype == torch.float64 else "F32"
    assert {found for found, _ in Checkpoint(tmp_path / "google" / "model.ckpt-best").listing.values()} == {kind}


# ---- what a release is wrapped in ----

WRAPPED = {
    "directory": lambda release, tmp: release,
    "prefix": lambda release, tmp: release / "model.ckpt-best",
    "index": lambda release, tmp: release / "model.ckpt-best.index",
    "data": lambda release, tmp: release / "model.ckpt-best.data-00000-of-00001",
    "directory above": lambda release, tmp: release.parent,
    "module": lambda release, tmp: write_module(tmp / "module", release),
    "variables of a module": lambda release, tmp: write_module(tmp / "module", release) / "variables",
    "archive": lambda release, tmp: write_archive(tmp / "albert_tiny.tar.gz", release),
    "flat archive": lambda release, tmp: write_archive(tmp / "albert_tiny.tgz", release, ""),
    "deep archive": lambda release, tmp: write_archive(tmp / "albert_tiny.tar.gz", release, "./a/b/"),
    "zip": lambda release, tmp: write_archive(tmp / "albert_tiny.zip", release),
    "archive in a directory": lambda release, tmp: write_archive(tmp / "albert_tiny.tar.gz", release).parent,
    "archive of a module": lambda release, tmp: archive_of_a_module(release, tmp),
}


def archive_of_a_module(release: Path, tmp: Path) -> Path:
    module = write_module(tmp / "module", release)
    with tarfile.open(tmp / "module.tar.gz", "w:gz") as archive:
        archive.add(module, ".")
    return tmp / "module.tar.gz"


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_release_loads_to_the_same_bits_whatever_it_is_wrapped_in(wrapped, tmp_path):
    config = tiny_config()
    release = write_release(tmp_path / "releases" / "albert_tiny", google_variables(config), config)
    want, _ = minialbert.load(release)
    (tmp_path / "wrapped").mkdir()
    model, tokenizer = minialbert.load(WRAPPED[wrapped](release, tmp_path / "wrapped"))
    assert_same_bits(model, want)
    assert tokenizer.convert_ids_to_tokens(7) == "word2" and len(tokenizer) == config.vocab_size
    assert tokenizer("word2 word3").input_ids.tolist() == [[2, 7, 8, 3]]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_single_file_of_tensors_loads_with_the_configuration_beside_it(kind, tmp_path):
    tensors, config = released()
    write_config(tmp_path, config)
    path = tmp_path / f"step-100.{kind}"
    save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    want = AlbertModel.from_pretrained(write_released(tmp_path / "whole"))
    assert_same_bits(AlbertModel.from_pretrained(path), want)
    done = convert(path, tmp_path / "out")
    assert done.source == "file of tensors" and len(done.written) == len(tensors)


def test_shards_become_one_file(tmp_path):
    tensors, config = released()
    (tmp_path / "src").mkdir()
    write_index(tmp_path / "src", halves(tensors, "safetensors"))
    write_config(tmp_path / "src", config)
    convert(tmp_path / "src", tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert got.keys() == tensors.keys() and all(torch.equal(got[name], x) for name, x in tensors.items())


def test_what_is_hugging_faces_directory_is_used_as_it_is(tmp_path):
    write_released(tmp_path / "hf")
    with as_directory(tmp_path / "hf") as directory:
        assert directory == tmp_path / "hf"
    with as_directory(GOLDEN / PACKS[0]) as directory:
        assert (directory / "model.safetensors").is_file()
    assert not directory.exists()


# ---- names as users' checkpoints have them ----


def test_a_prefix_of_a_loaded_module_and_an_ending_change_nothing(tmp_path):
    config = tiny_config(num_hidden_groups=2)
    variables = google_variables(config)
    want = AlbertForPreTraining.from_pretrained(write_release(tmp_path / "plain", variables, config))
    for i, change in enumerate(("module/{}", "module_1/{}", "{}:0")):
        renamed = {change.format(name): x for name, x in variables.items()}
        path = write_release(tmp_path / str(i), renamed, config)
        assert_same_bits(AlbertForPreTraining.from_pretrained(path), want)


SLOTS = ["adam_m", "adam_v", "lamb_m", "lamb_v", "Adam", "Adam_1", "AdamWeightDecayOptimizer_1"]


def test_slots_and_counters_are_counted_and_have_no_part(tmp_path):
    config = tiny_config()
    variables = google_variables(config)
    extra = {f"{name}/{slot}": x * 0 for name, x in variables.items() for slot in SLOTS}
    extra |= {"global_step": np.int64(125000), "beta1_power": np.float32(0.5)}
    path = write_release(tmp_path / "a", variables | extra, config)
    model, report = load_model(AlbertForPreTraining, path)
    assert len(report.used) == len(variables)
    assert list(report.ignored.values()).count("an optimizer's slot") == len(SLOTS) * len(variables)
    assert list(report.ignored.values()).count("a counter of the training") == 2
    assert_same_bits(model, AlbertForPreTraining.from_pretrained(write_release(tmp_path / "b", variables, config)))


def numbered(variables: dict[str, np.ndarray], layers: int, groups: int = 1) -> dict[str, np.ndarray]:
    """Scopes as users' checkpoints have them: group_0/layer_0, group_0_1/layer_1, ..., a copy for each layer."""
    out = {}
    for name, x in variables.items():
        if "/group_" not in name:
            out[name] = x
            continue
        group = int(name.split("/group_")[1].split("/")[0])
        for layer in range(layers):
            if layer * groups // layers == group:
                scope = f"group_{group}" + (f"_{layer}" if layer else "")
                out[name.replace(f"/group_{group}/", f"/{scope}/layer_{layer}/")] = x
    return out


@pytest.mark.parametrize("groups", [1, 2])
def test_numbered_scopes_fold_where_their_copies_are_equal(groups, tmp_path):
    config = tiny_config(num_hidden_groups=groups)
    variables = google_variables(config)
    want = AlbertForPreTraining.from_pretrained(write_release(tmp_path / "plain", variables, config))
    path = write_release(tmp_path / "numbered", numbered(variables, 6, groups), config)
    model, report = load_model(AlbertForPreTraining, path)
    assert_same_bits(model, want)
    assert len(report.derived) == 16 * (6 - groups)


def test_numbered_scopes_that_differ_are_refused_or_a_block_for_each_layer(tmp_path):
    config = tiny_config()
    variables = numbered(google_variables(config), 6)
    different = {name: x + i if "/layer_" in name else x for i, (name, x) in enumerate(variables.items())}
    path = write_release(tmp_path, different, config)
    with pytest.raises(CheckpointError, match=r"group_0_1/layer_1/.* differs from .*group_0/layer_0/"):
        AlbertForPreTraining.from_pretrained(path)
    model = AlbertForPreTraining.from_pretrained(path, num_hidden_groups=6)
    for layer in range(6):
        scope = "group_0" + (f"_{layer}" if layer else "")
        want = different[f"bert/encoder/transformer/{scope}/layer_{layer}/inner_group_0/ffn_1/intermediate/dense/bias"]
        assert np.array_equal(model.albert.encoder.feed_forwards[layer].up.bias.detach().numpy(), want)


@pytest.mark.parametrize("changes", [{"num_hidden_groups": 3}, {"num_hidden_groups": 6}, {"parameter_sharing": "ffn"}])
def test_more_groups_than_a_file_has_start_as_copies_of_its_one(changes, tmp_path):
    config = tiny_config(inner_group_num=2)
    path = write_release(tmp_path, google_variables(config), config)
    one, report = load_model(AlbertModel, path)
    more, grown = load_model(AlbertModel, path, **changes)
    assert len(more.encoder.attentions) > len(one.encoder.attentions)
    assert not report.derived and grown.derived
    batch = random_batch(config)
    with torch.no_grad():
        assert torch.equal(one(**batch).last_hidden_state, more(**batch).last_hidden_state)
    own = [p.data_ptr() for p in more.parameters()]
    assert len(set(own)) == len(own)


STRANGE = {
    "bert/encoder/transformer/group_0/layer_0/inner_group_0/layer_normalization_1/gamma": "of its own for each layer",
    "bert/encoder/layer_shared/attention/self/query/kernel": "another code base (layer_shared)",
    "bert/encoder/transformer/group_0/inner_group_0/attention_1/gate/kernel": "is the configuration of another model?",
}


@pytest.mark.parametrize("name", STRANGE)
def test_names_that_nobody_knows_are_refused_inside_the_encoder(name, tmp_path):
    config = tiny_config()
    path = write_release(tmp_path, google_variables(config) | {name: np.zeros((12, 12), np.float32)}, config)
    with pytest.raises(CheckpointError, match="1 unknown inside the encoder") as caught:
        AlbertModel.from_pretrained(path)
    assert STRANGE[name] in str(caught.value) and "\n" not in str(caught.value)


def test_names_that_nobody_knows_are_told_on_top_of_it(tmp_path):
    config = tiny_config()
    strange = {"cls/my_task/kernel": np.zeros((12, 4), np.float32)}
    done = convert(write_release(tmp_path / "a", google_variables(config) | strange, config), tmp_path / "b")
    assert done.report.ignored == {"cls/my_task/kernel": "not part of the model: somebody's own head"}


# ---- fine-tuned heads ----


def fine_tuned(config: AlbertConfig, head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    trunk = {name: x for name, x in google_variables(config).items() if name.startswith("bert/")}
    return trunk | head


def head_of(name: str, rows: int, H: int = 12) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        f"{name}output_weights": generator.standard_normal((rows, H)).astype(np.float32),
        f"{name}output_bias": generator.standard_normal(rows).astype(np.float32),
    }


@pytest.mark.parametrize("family", ["albert", "bert"])
@pytest.mark.parametrize(
    "scope, rows, cls, attribute",
    [
        ("", 2, "ForSequenceClassification", "classifier"),
        ("", 5, "ForSequenceClassification", "classifier"),
        ("", 1, "ForMultipleChoice", "classifier"),
        ("cls/squad/", 2, "ForQuestionAnswering", "qa"),
    ],
)
def test_fine_tuned_heads_of_google_become_those_of_hugging_face(family, scope, rows, cls, attribute, tmp_path):
    config = tiny_config() if family == "albert" else tiny_bert()
    head = head_of(scope, rows)
    path = write_release(tmp_path / "tuned", fine_tuned(config, head), config)
    done = convert(path, tmp_path / "hf", architecture=cls if rows == 1 else None)
    assert done.cls.__name__ == "Albert" + cls
    theirs, told = getattr(transformers, family.capitalize() + cls).from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert {name.split(".")[-3] for name in told["unexpected_keys"]} <= {"pooler", "bert", "albert"}
    weight = (theirs.classifier if attribute == "classifier" else theirs.qa_outputs).weight
    assert np.array_equal(weight.detach().numpy(), head[f"{scope}output_weights"])
    ours = getattr(minialbert, "Albert" + cls).from_pretrained(path, dtype=torch.float64)
    batch = random_batch(config)
    batch = {name: x[:, None] for name, x in batch.items()} if rows == 1 else batch
    with torch.no_grad():
        got, want = ours(**batch), theirs.eval().double()(**batch)
    for name in ("start_logits", "end_logits") if attribute == "qa" else ("logits",):
        assert (getattr(got, name) - getattr(want, name)).abs().max() < 1e-10
    convert(tmp_path / "hf", tmp_path / "google", to="google")
    assert_same_variables(variables_in(tmp_path / "google"), fine_tuned(config, head))


def test_one_row_of_a_classifier_is_a_regression_unless_a_choice_is_asked_for(tmp_path):
    config = tiny_config()
    path = write_release(tmp_path / "stsb", fine_tuned(config, head_of("", 1)), config)
    done = convert(path, tmp_path / "a")
    assert done.cls is AlbertForSequenceClassification and "--class ForMultipleChoice" in done.notes[0]
    assert convert(path, tmp_path / "b", architecture="ForMultipleChoice").cls.__name__ == "AlbertForMultipleChoice"
    assert AlbertForSequenceClassification.from_pretrained(path).config.num_labels == 1


def test_the_answer_head_of_squad_2_is_told_and_left_out(tmp_path):
    H, config = 12, tiny_config()
    shapes = {"start_logits/dense/kernel": (H, 1), "start_logits/dense/bias": (1,),
              "end_logits/dense_0/kernel": (2 * H, H), "end_logits/dense_0/bias": (H,),
              "end_logits/LayerNorm/gamma": (H,), "end_logits/LayerNorm/beta": (H,),
              "end_logits/dense_1/kernel": (H, 1), "end_logits/dense_1/bias": (1,),
              "answer_class/dense_0/kernel": (2 * H, H), "answer_class/dense_0/bias": (H,),
              "answer_class/dense_1/kernel": (H, 1)}  # fmt: skip
    head = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    path = write_release(tmp_path / "squad2", fine_tuned(config, head), config)
    done = convert(path, tmp_path / "hf")
    assert done.cls is AlbertModel
    assert done.report.ignored.keys() == head.keys()
    assert set(done.report.ignored.values()) == {
        "the answer head of Google's SQuAD 2.0 program, which no class here has"
    }
    with pytest.warns(UserWarning, match="new here, to be trained before use: answers"):
        AlbertForQuestionAnswering.from_pretrained(path)


# ---- what cannot be ----


def assert_nothing_left(directory: Path) -> None:
    assert not list(directory.glob("out*")) and not list(directory.glob(".out*"))


def test_a_missing_tensor_is_told_with_the_report_and_nothing_is_written(tmp_path):
    config = tiny_config()
    variables = google_variables(config)
    del variables["bert/embeddings/LayerNorm/beta"], variables["cls/predictions/transform/dense/kernel"]
    path = write_release(tmp_path / "src", variables, config)
    with pytest.raises(
        CheckpointError, match=r"2 of .* tensors missing: embeddings\.norm\.bias, mlm\.dense\.weight"
    ) as caught:
        convert(path, tmp_path / "out")
    report = caught.value.report
    assert isinstance(report, LoadReport) and report.missing == ["embeddings.norm.bias", "mlm.dense.weight"]
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("to", ["hf", "google"])
def test_a_class_that_the_file_has_no_head_for_is_refused(to, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensors missing: qa\.weight, qa\.bias"):
        convert(GOLDEN / PACKS[0], tmp_path / "out", to=to, architecture="ForQuestionAnswering")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu': Google's code has only relu, tanh, linear, gelu_new"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05: in Google's code it is always 1e-12"),
    ],
)
def test_what_google_s_code_cannot_compute_is_not_written_for_it(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        convert(GOLDEN / PACKS[0], tmp_path / "out", to="google", **changes)
    assert_nothing_left(tmp_path)


def test_a_projection_that_is_no_identity_is_not_lost_on_the_way_to_google(tmp_path):
    config = tiny_config(embedding_size=12, project_embeddings=True)
    AlbertForPreTraining(config).save_pretrained(tmp_path / "src")
    with pytest.raises(CheckpointError, match="no projection where E = H, and this one is no identity"):
        convert(tmp_path / "src", tmp_path / "out", to="google")
    assert_nothing_left(tmp_path)


def test_arguments_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="to='onnx' must be one of hf, google"):
        convert(GOLDEN / PACKS[0], tmp_path / "out", to="onnx")
    with pytest.raises(NameUnknown, match=r"no class 'ForMaskedLm'\. Nearest: ForMaskedLM"):
        convert(GOLDEN / PACKS[0], tmp_path / "out", architecture="ForMaskedLm")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for taken, why in ((tmp_path / "full", "is there and not empty"), (tmp_path / "full" / "file", "is a file")):
        with pytest.raises(FileError, match=why):
            convert(GOLDEN / PACKS[0], taken)
    with pytest.raises(FileError, match="cannot be made"):
        convert(GOLDEN / PACKS[0], tmp_path / "full" / "file" / "below")
    (tmp_path / "empty").mkdir()
    convert(GOLDEN / PACKS[0], tmp_path / "empty")  # an empty directory is as good as none
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]


def test_a_configuration_can_be_given_where_there_is_none(tmp_path, monkeypatch):
    config = tiny_config()
    path = write_release(tmp_path / "src", google_variables(config), config)
    (path / "albert_config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(FileError, match=r"the sizes of a model stand in its configuration.*--config"):
        minialbert.load(path)
    for given in (tmp_path / "elsewhere.json", str(tmp_path / "elsewhere.json"), config):
        model, _ = minialbert.load(path, config=given)
        assert model.config.hidden_size == 12
    convert(path, tmp_path / "out", config=config)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_act"] == "gelu_new"
    monkeypatch.setitem(PRESETS, "albert-base-v1", PRESETS["albert-base-v1"] | TINY)
    model, _ = minialbert.load(path, config="albert-base-v1")
    assert model.config.hidden_act == "gelu_new"  # of Google's weights, whatever the hub's configuration says of v1
    with pytest.raises(NameUnknown, match=r"no preset named 'albert-bse-v2'\. Nearest: albert-base-v2"):
        minialbert.load(path, config="albert-bse-v2")


def test_a_vocabulary_can_be_given_where_there_is_none(tmp_path):
    config = tiny_config()
    path = write_release(tmp_path / "src", google_variables(config), config)
    (path / "vocab_chinese.txt").rename(tmp_path / "vocab.txt")
    assert "no vocabulary. Looked for" in convert(path, tmp_path / "without").vocabulary
    convert(path, tmp_path / "with", vocabulary=tmp_path / "vocab.txt")
    for ref, given in ((tmp_path / "with", None), (path, tmp_path / "vocab.txt")):
        _, tokenizer = minialbert.load(ref, vocabulary=given)
        assert tokenizer("word1").input_ids.tolist() == [[2, 6, 3]]
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "a\n" * 99)
    with pytest.raises(MiniAlbertError):
        convert(path, tmp_path / "wrong", vocabulary=tmp_path / "vocab.txt")


def test_the_archive_of_a_bert_is_one(tmp_path):
    config = tiny_bert(hidden_size=16, embedding_size=16, num_attention_heads=2)
    folder = write_release(tmp_path / "uncased_L-4_H-16_A-2", google_variables(config), config, "bert_model.ckpt")
    archive = write_archive(tmp_path / "uncased_L-4_H-16_A-2.zip", folder, "uncased_L-4_H-16_A-2/")
    model, tokenizer = minialbert.load(archive)
    assert (
        model.config.model_type == "bert" and model.config.hidden_act == "gelu" and len(model.encoder.attentions) == 4
    )
    assert tokenizer("word1").input_ids.tolist() == [[2, 6, 3]]
    done = convert(archive, tmp_path / "hf")
    assert done.config.is_bert_shaped and "bert.encoder.layer.3.output.dense.weight" in done.written


def test_damage_found_on_the_way_is_the_sources_and_has_the_report(tmp_path):
    config = tiny_config()
    path = write_release(tmp_path / "src", google_variables(config), config)
    data = path / "model.ckpt-best.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    for to in ("hf", "google"):
        with pytest.raises(CheckpointError, match="wrong checksum of") as caught:
            convert(path, tmp_path / "out", to=to)
        assert str(caught.value).startswith(str(data)) and isinstance(caught.value.report, LoadReport)
        assert_nothing_left(tmp_path)


def test_no_text_is_taken_for_longer_than_the_model_has_positions(tmp_path):
    config = tiny_config(max_position_embeddings=16)
    path = write_release(tmp_path / "src", google_variables(config), config)
    assert minialbert.load(path)[1].model_max_length == 16
    convert(path, tmp_path / "hf")
    assert minialbert.load(tmp_path / "hf")[1].model_max_length == 16
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hf")
    batch = theirs("word1 " * 50, truncation=True, return_tensors="pt")
    assert model(**batch).last_hidden_state.shape[1] == 16


MISTAKES = {  # of a writer, and what the check at the end must say
    "a number of the projection": (
        "model.safetensors", "embeddings.projection.bias came back", "embedding_hidden_mapping_in.bias"),
    "a number of a layer": ("model.safetensors", "came back with other numbers", "ffn_output.bias"),
    "the number of layers": ("config.json", "num_hidden_layers was 6 and came back as 7", '"num_hidden_layers": 6'),
    "a rate of dropout": ("config.json", "hidden_dropout_prob was 0.0 and came", '"hidden_dropout_prob": 0.0'),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_check_at_the_end_finds_what_was_written_wrong(mistake, tmp_path, monkeypatch):
    file, words, what = MISTAKES[mistake]
    write = conversion.write_hf

    def write_wrong(directory, *rest):
        written = write(directory, *rest)
        if file == "config.json":
            text = (directory / file).read_text()
            key, _, _ = what.partition(": ")
            (directory / file).write_text(text.replace(what, f"{key}: {0.7 if 'dropout' in key else 7}"))
        else:
            tensors = load_file(directory / file)
            name = next(name for name in tensors if name.endswith(what))
            tensors[name][0] += 1e-6
            save_file(tensors, directory / file, {"format": "pt"})
        return written

    monkeypatch.setattr(conversion, "write_hf", write_wrong)
    config = tiny_config()
    path = write_release(tmp_path / "src", google_variables(config), config)
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "out")
    assert words in str(caught.value).replace("0.7", "7")
    assert_nothing_left(tmp_path)
    assert convert(path, tmp_path / "out", check=False).target.is_dir()


def test_what_the_other_format_cannot_hold_is_told(tmp_path):
    head = fine_tuned(tiny_config(), head_of("", 3))
    path = write_release(tmp_path / "src", head, tiny_config())
    assert convert(path, tmp_path / "hf", id2label={0: "bad", 1: "so", 2: "good"}).notes == []
    done = convert(tmp_path / "hf", tmp_path / "google", to="google")
    assert done.notes == ["not kept, for Google's files have no place for it: id2label"]
    both = write_released(write_release(tmp_path / "both", google_variables(tiny_config()), tiny_config()))
    assert "has a TensorFlow checkpoint too" in convert(both, tmp_path / "one").notes[0]


def test_settings_of_a_vocabulary_that_google_s_files_cannot_hold_are_told(tmp_path):
    config = tiny_config(vocab_size=500)
    AlbertForPreTraining(config).save_pretrained(tmp_path / "hf")
    cased = load_tokenizer(RECORDED / "albert-tiny-500.model", do_lower_case=False, keep_accents=True)
    cased.save_pretrained(tmp_path / "hf")
    done = convert(tmp_path / "hf", tmp_path / "google", to="google")
    assert done.notes == ["not kept, to be given when it is loaded: case kept, accents kept, flavor hf"]


def test_a_kill_in_the_middle_leaves_no_directory_that_looks_whole(tmp_path):
    code = f"""
import os, signal
import minialbert.convert.writing as writing
from minialbert.convert import convert
write = writing.write_text
def die(path, text):
    os.kill(os.getpid(), signal.SIGKILL)
writing.write_text = die
convert({str(GOLDEN / PACKS[0])!r}, {str(tmp_path / "out")!r})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "out").exists()
    convert(GOLDEN / PACKS[0], tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_memory_of_a_conversion_is_that_of_one_model(tmp_path):
    """A file of about 100 MB: reading and checking it may take the model once, and a tensor or two."""
    config = AlbertConfig.preset("albert-base-v2", vocab_size=128 * 1024)
    shapes = google_shapes(config)
    write_checkpoint(
        tmp_path / "model.ckpt-best", ((name, np.full(shape, 0.01, np.float32)) for name, shape in shapes.items())
    )
    (tmp_path / "albert_config.json").write_text(json.dumps(config.to_google_json()))
    size = (tmp_path / "model.ckpt-best.data-00000-of-00001").stat().st_size
    code = f"""
import resource
from minialbert.convert import convert
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
convert({str(tmp_path)!r}, {str(tmp_path / "out")!r})
print(before, peak())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    assert size > 90e6  # more than what is allocated for other reasons
    assert after - before < 1.6 * size, (before, after, size)


def google_shapes(config: AlbertConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = AlbertForPreTraining(config)
    own = {name.removeprefix("albert."): tuple(p.shape) for name, p in model.named_parameters()}
    found = {theirs: own[ours] for theirs, ours in names.expand(config, "google").items() if ours in own}
    return {name: shape[::-1] if name.endswith("/kernel") else shape for name, shape in found.items()}
