"""The proof is a proof: it passes where nothing is wrong, and names every planted fault, its place and its cause."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minialbert
from minialbert import AlbertForPreTraining
from minialbert.config import AlbertConfig
from minialbert.convert import names
from minialbert.errors import FileError, InputError, MiniAlbertError
from minialbert.model import ACTIVATIONS
from minialbert.tools.parity import parity
from minialbert.tools.parity.diagnose import relation
from minialbert.tools.parity.hypotheses import explain, supposed
from minialbert.tools.parity.mistakes import all_hypotheses
from minialbert.tools.parity.probe import make_batch, with_inputs
from minialbert.tools.parity.sides import CLASSES, farthest, order, our_points
from tests.conftest import GOLDEN, theirs_of, tiny_bert, tiny_config

HEADS = [head for head in CLASSES if head != "Model"]
CONFIGS = {
    "one group": tiny_config(),
    "two groups": tiny_config(num_hidden_groups=2, hidden_act="gelu"),
    "three groups": tiny_config(num_hidden_groups=3, hidden_act="relu"),
    "inner groups": tiny_config(num_hidden_groups=2, inner_group_num=2, num_hidden_layers=4),
    "E = H": tiny_config(embedding_size=12, project_embeddings=True),
    "bert": tiny_bert(),
}


def saved(directory: Path, config: AlbertConfig, head: str = "Model") -> Path:
    theirs_of(config, head).save_pretrained(directory)
    return directory


def changed(source: Path, target: Path, tensors: Callable | None = None, **keys) -> Path:
    """A copy of a directory with other numbers or other configuration."""
    shutil.copytree(source, target)
    if tensors:
        content = load_file(source / "model.safetensors")
        tensors(content)
        save_file({name: x.contiguous() for name, x in content.items()}, target / "model.safetensors", {"format": "pt"})
    settings = json.loads((source / "config.json").read_text()) | keys
    (target / "config.json").write_text(json.dumps(settings))
    return target


# ---- where nothing is wrong ----


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_models_pass_at_every_point(name, tmp_path):
    report = parity(saved(tmp_path, CONFIGS[name]))
    assert report.ok and report.first is None and not report.findings
    points = {(row.point, row.layer) for row in report.rows if row.section == "forward"}
    L = CONFIGS[name].num_visits
    assert {("hidden", layer) for layer in range(L + 1)} <= points
    assert {("attention.probs", layer) for layer in range(1, L + 1)} <= points
    assert len([row for row in report.rows if row.section == "forward"]) == 4 + 1 + 11 * L + 4  # sdpa, packed, ...
    for row in report.rows:
        assert row.section == "weights" or row.section == "config" or set(row.distance) == {"float32", "float64"}
    parameters = len(list(minialbert.AlbertModel.from_pretrained(tmp_path).parameters()))
    assert len([row for row in report.rows if row.section == "weights"]) == parameters
    assert len([row for row in report.rows if row.section == "gradients"]) == parameters
    assert report.worst("forward").distance["float64"] < 1e-13


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", [tiny_config, tiny_bert])
def test_every_head_passes_with_its_loss_and_gradients(family, head, tmp_path):
    labels = {} if head in ("ForPreTraining", "ForQuestionAnswering") else {"num_labels": 3}
    report = parity(saved(tmp_path, family(num_hidden_layers=2, **labels), head))
    assert report.ok, report.findings
    points = {row.point for row in report.rows if row.section == "forward"}
    wanted = {"ForPreTraining": {"mlm.logits", "sop.logits"}, "ForMaskedLM": {"mlm.logits"},
              "ForQuestionAnswering": {"start_logits", "end_logits"}}.get(head, {"logits"})  # fmt: skip
    assert wanted | {"loss"} <= points


def test_a_real_checkpoint_passes_with_its_tokenizer(minilm):
    report = parity(minilm, gradients=False)
    assert report.ok, report.findings
    assert len([row for row in report.rows if row.section == "tokenizer"]) == 9
    # in float32 theirs is far from itself at padding, and the tolerance knows
    assert report.worst("forward").part < 0.5


def test_sdpa_has_everything_but_the_maps(tmp_path):
    report = parity(saved(tmp_path, tiny_config()), attention="sdpa")
    assert report.ok
    assert not {"attention.probs", "sdpa"} & {row.point for row in report.rows}


def test_one_precision_and_no_gradients_compare_less(tmp_path):
    report = parity(saved(tmp_path, tiny_config()), dtype="float32", gradients=False)
    assert report.ok and {row.section for row in report.rows} == {"config", "weights", "forward"}
    assert all(set(row.distance) == {"float32"} for row in report.rows if row.section == "forward")


def test_what_the_file_lacks_is_said_and_the_rest_compared(tmp_path):
    source = saved(tmp_path / "a", tiny_config(), "ForPreTraining")

    def without_pair(content):
        for name in [name for name in content if name.startswith("sop_classifier")]:
            del content[name]

    report = parity(changed(source, tmp_path / "b", without_pair))
    assert report.ok
    assert sum("sop_classifier" in line and "new numbers" in line for line in report.skipped) == 2


def test_a_head_that_the_architecture_does_not_name_is_compared_too(tmp_path):
    """The released checkpoints say AlbertForMaskedLM and hold a pooler, but no pair head."""
    source = saved(tmp_path / "a", tiny_config(num_hidden_layers=2), "ForPreTraining")

    def without_pair(content):
        for name in [name for name in content if name.startswith("sop_classifier")]:
            del content[name]

    report = parity(changed(source, tmp_path / "b", without_pair, architectures=["AlbertForMaskedLM"]))
    assert report.ok and report.model.startswith("AlbertForPreTraining")
    assert {"pooled", "mlm.logits"} <= {row.point for row in report.rows}


@pytest.mark.parametrize("sharing", ["attention", "ffn", "none"])
def test_halves_that_are_shared_here_and_copied_there_pass_gradients_included(sharing, tmp_path):
    minialbert.AlbertModel(tiny_config(parameter_sharing=sharing, num_hidden_layers=3)).save_pretrained(tmp_path)
    report = parity(tmp_path)
    assert report.ok, report.findings


@pytest.mark.parametrize("family", [tiny_config, tiny_bert])
def test_an_encoder_without_pooler_passes(family, tmp_path):
    source = saved(tmp_path / "a", family(num_hidden_layers=2))

    def without_pooler(content):
        for name in [name for name in content if name.startswith("pooler")]:
            del content[name]

    report = parity(changed(source, tmp_path / "b", without_pooler))
    assert report.ok, report.findings
    assert "pooled" not in {row.point for row in report.rows} and len(report.skipped) == 1


def test_a_head_that_only_theirs_has_lost_is_missed(tmp_path):
    source = saved(tmp_path / "a", tiny_config(num_hidden_layers=2), "ForPreTraining")

    def without_pair(content):
        for name in [name for name in content if name.startswith("sop_classifier")]:
            del content[name]

    less = changed(source, tmp_path / "b", without_pair)
    report = parity(source, against=less, gradients=False)
    assert str(report.first) == "weights: sop.classifier.weight" and "not there" in report.cause
    shutil.copytree(less, tmp_path / "c")
    assert parity(less, against=tmp_path / "c").ok


def test_a_checkpoint_in_half_precision_passes(tmp_path):
    source = saved(tmp_path / "a", tiny_config(num_hidden_layers=2))
    half = changed(source, tmp_path / "b", lambda content: content.update({k: x.half() for k, x in content.items()}))
    assert parity(half).ok


# ---- planted faults ----


@dataclass
class Fault:
    """plant(source directory, tmp_path, monkeypatch) gives what theirs is loaded from."""

    name: str
    plant: Callable
    first: str  # as str(report.first)
    cause: str  # inside the first finding
    forward: str = ""  # the first point of the forward that differs, as "point, layer l: words inside the cause"
    head: str = "Model"
    config: dict | None = None


BLOCK = "encoder.albert_layer_groups.0.albert_layers.0."


def in_file(edit: Callable[[dict, str], None]) -> Callable:
    """Other numbers in the directory of theirs; edit gets the tensors and the prefix of their names."""

    def plant(source: Path, tmp_path: Path, _) -> Path:
        def tensors(content):
            prefix = "albert." if any(name.startswith("albert.") for name in content) else ""
            edit(content, prefix)

        return changed(source, tmp_path / "theirs", tensors)

    return plant


def in_config(**keys) -> Callable:
    return lambda source, tmp_path, _: changed(source, tmp_path / "theirs", **keys)


def in_ours(edit: Callable) -> Callable:
    """A mistake in our own code: the model is made wrong as it is loaded."""

    def plant(source: Path, _, monkeypatch) -> Path:
        class Wrong:
            @staticmethod
            def from_pretrained(*args, **kwargs):
                model = minialbert.AlbertModel.from_pretrained(*args, **kwargs)
                edit(model)
                return model

        monkeypatch.setitem(CLASSES, "Model", Wrong)
        return source

    return plant


def in_theirs(change: Callable[[dict], None]) -> Callable:
    """Theirs is called with other inputs."""

    def plant(source: Path, _, monkeypatch) -> Path:
        forward = transformers.AlbertModel.forward

        def wrong(self, **inputs):
            change(inputs)
            return forward(self, **inputs)

        monkeypatch.setattr(transformers.AlbertModel, "forward", wrong)
        return source

    return plant


def swap(a: str, b: str, ends=("weight", "bias")) -> Callable:
    def edit(content, prefix):
        for end in ends:
            x, y = f"{prefix}{a}.{end}", f"{prefix}{b}.{end}"
            content[x], content[y] = content[y], content[x]

    return in_file(edit)


def each(name: str, function: Callable) -> Callable:
    return in_file(lambda content, prefix: content.__setitem__(prefix + name, function(content[prefix + name])))


def one_number(x):
    x = x.clone()
    x[5, 3] += 1e-3
    return x


def epsilon(model):
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def without_residual(model):
    for part in model.encoder.feed_forwards:
        part.forward = lambda x, layer, tap, part=part: tap(
            "hidden", layer, part.norm(tap("ffn.out", layer, part.down(tap("ffn.inner", layer, part.act(
                tap("ffn.pre", layer, part.up(x))))))))  # fmt: skip


def changed_values(model):
    for part in model.encoder.attentions:
        part.value.register_forward_hook(lambda module, inputs, output: output.cos())


def doubled(model):
    model.pooler.weight.register_hook(lambda gradient: 2 * gradient)


def untie(content, prefix):
    content["predictions.decoder.weight"] = content[prefix + "embeddings.word_embeddings.weight"] * 1.5


def zero_output_bias(content, prefix):
    content["predictions.bias"] = torch.zeros_like(content["predictions.bias"])


def wrong_gelu(model):
    for part in model.encoder.feed_forwards:
        part.act = ACTIVATIONS["gelu"]


def set_of(**values) -> Callable:
    return lambda model: [setattr(m, k, v) for m in model.encoder.attentions for k, v in values.items()]


ATTENTION, FFN = "encoder.attentions.0.", "encoder.feed_forwards.0."
FAULTS = [
    Fault("query and key swapped", swap(BLOCK + "attention.query", BLOCK + "attention.key"),
          f"weights: {ATTENTION}query.weight", "swapped with encoder.attentions.0.key",
          "attention.q, layer 1: the weights"),
    Fault("the two LayerNorms swapped", swap(BLOCK + "attention.LayerNorm", BLOCK + "full_layer_layer_norm"),
          f"weights: {ATTENTION}norm.weight", f"swapped with {FFN}norm", "mid, layer 1: the weights"),
    Fault("square kernel transposed", each(BLOCK + "attention.dense.weight", torch.t),
          f"weights: {ATTENTION}output.weight", "transposed", "attention.out, layer 1: the weights"),
    Fault("value bias zero", each(BLOCK + "attention.value.bias", torch.zeros_like),
          f"weights: {ATTENTION}value.bias", "all zero there", "attention.v, layer 1: the weights"),
    Fault("key bias moved by a constant", each(BLOCK + "attention.key.bias", lambda x: x + 0.5),
          f"weights: {ATTENTION}key.bias", "numbers differ", "attention.k, layer 1: the weights"),
    Fault("up kernel negated", each(BLOCK + "ffn.weight", torch.neg),
          f"weights: {FFN}up.weight", "negated", "ffn.pre, layer 1: the weights"),
    Fault("down kernel scaled", each(BLOCK + "ffn_output.weight", lambda x: x * 0.5),
          f"weights: {FFN}down.weight", "scaled by 0.5", "ffn.out, layer 1: the weights"),
    Fault("one number of one tensor, by 1e-3", each(BLOCK + "attention.query.weight", one_number),
          f"weights: {ATTENTION}query.weight", "1 of 144 numbers differs, at [5, 3], by 0.001",
          "attention.q, layer 1: the weights"),
    Fault("projection rounded to half", each("encoder.embedding_hidden_mapping_in.weight", lambda x: x.half().float()),
          "weights: embeddings.projection.weight", "rounded to float16 there", "hidden, layer 0: the weights"),
    Fault("position table shifted", each("embeddings.position_embeddings.weight", lambda x: x.roll(1, 0)),
          "weights: embeddings.position.weight", "rows shifted by 1", "embeddings.position: the weights"),
    Fault("token types swapped", each("embeddings.token_type_embeddings.weight", lambda x: x.flip(0)),
          "weights: embeddings.token_type.weight", "its two rows swapped", "embeddings.token_type: the weights"),
    Fault("vocabulary in another order", each("embeddings.word_embeddings.weight", lambda x: x.roll(7, 0)),
          "weights: embeddings.word.weight", "the same rows in another order", "embeddings.word: the weights"),
    Fault("groups in another order", swap("encoder.albert_layer_groups.0.albert_layers.0.attention.query",
                                          "encoder.albert_layer_groups.1.albert_layers.0.attention.query"),
          f"weights: {ATTENTION}query.weight", "swapped with encoder.attentions.1.query",
          "attention.q, layer 1: the weights", config={"num_hidden_groups": 2}),
    Fault("output bias of masked words zero", in_file(zero_output_bias), "weights: mlm.bias", "all zero there",
          "mlm.logits: the weights", head="ForPreTraining"),
    Fault("output matrix not tied", in_file(untie), "weights: mlm.decoder.weight",
          "not the word table: scaled by 1.5", "mlm.logits: theirs has an output matrix", head="ForMaskedLM"),
    Fault("other activation configured", in_config(hidden_act="gelu"), "config: hidden_act",
          "hidden_act is 'gelu_new' here, 'gelu' there", "ffn.inner, layer 1: hidden_act"),
    Fault("other epsilon configured", in_config(layer_norm_eps=1e-6), "config: layer_norm_eps",
          "layer_norm_eps is 1e-12 here, 1e-06 there", "embeddings: layer_norm_eps"),
    Fault("other number of heads configured", in_config(num_attention_heads=4), "config: num_attention_heads",
          "num_attention_heads is 3 here, 4 there", "attention.probs, layer 1: num_attention_heads"),
    Fault("wrong gelu in our code", in_ours(wrong_gelu), "ffn.inner, layer 1", "theirs has the activation 'gelu_new'"),
    Fault("wrong epsilon in our code", in_ours(epsilon), "embeddings", "theirs has epsilon 1e-12 in every LayerNorm"),
    Fault("wrong number of heads in our code", in_ours(set_of(heads=4, width=3)), "attention.probs, layer 1",
          "theirs has 3 attention heads"),
    Fault("groups in another order in our code", in_ours(lambda model: model.encoder.plan.reverse()),
          "config: sharing plan", "sharing plan is '1 1 1 0 0 0' here, '0 0 0 1 1 1' there",
          "attention.q, layer 1: theirs visits the blocks in another order", config={"num_hidden_groups": 2}),
    Fault("no residual in our code", in_ours(without_residual), "hidden, layer 1",
          "theirs is LayerNorm(middle + feed-forward), ours is not"),
    Fault("something that nobody thought of", in_ours(changed_values), "attention.v, layer 1", "none of the tried"),
    Fault("mask ignored by theirs", in_theirs(lambda inputs: inputs.update(attention_mask=None)),
          "attention.probs, layer 1", "theirs has no attention mask"),
    Fault("token types ignored by theirs", in_theirs(lambda inputs: inputs.update(token_type_ids=None)),
          "embeddings.token_type", "theirs ignores the token types"),
    Fault("positions of theirs begin with 1", in_theirs(lambda inputs: inputs.update(
              position_ids=torch.arange(1, 25)[None])), "embeddings.position", "counts positions from 1",
          config={"max_position_embeddings": 25}),
    Fault("gradient doubled in our code", in_ours(doubled), "gradients: pooler.weight", "theirs is 0.5 times ours"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_with_its_place_and_cause(fault, tmp_path, monkeypatch):
    source = saved(tmp_path / "ours", tiny_config(**(fault.config or {})), fault.head)
    theirs = fault.plant(source, tmp_path, monkeypatch)
    report = parity(source, against=("transformers", theirs), dtype="float64", gradients="gradient" in fault.name)
    print(f"\n| {fault.name} | {report.first} | {' // '.join(map(str, report.findings))} |")
    assert not report.ok
    assert str(report.first) == fault.first
    assert fault.cause in report.cause
    if fault.forward:
        place, words = fault.forward.split(": ")
        finding = next(f for f in report.findings if f.row.section == "forward")
        assert str(finding.row) == place and words in finding.cause and "every point agrees" in finding.cause


# ---- every hypothesis ----


@pytest.mark.parametrize("config", [
    tiny_config(num_hidden_groups=3, inner_group_num=2, num_hidden_layers=3, max_position_embeddings=12),
    tiny_bert(num_hidden_layers=2, max_position_embeddings=12),
], ids=["albert", "bert"])  # fmt: skip
def test_every_hypothesis_is_found_when_it_is_true(config, tmp_path):
    """Theirs is played by ours with the hypothesis in it: asked alone, and every 25th among all the others."""
    theirs_of(config, "ForPreTraining").save_pretrained(tmp_path)
    model = minialbert.AlbertForPreTraining.from_pretrained(tmp_path, dtype=torch.float64)
    batch = make_batch(config, "ForPreTraining", T=8)

    def whole(batch, tap, **more):
        return our_points(model, batch, tap, **more)[0]

    with torch.no_grad():
        right = whole(batch, lambda name, layer, x: x)
        found, invisible, other = 0, [], {}
        for i, hypothesis in enumerate(all_hypotheses(model, batch, {}, {})):
            with supposed(model, hypothesis):
                theirs = whole(with_inputs(batch, dict(hypothesis.inputs)), hypothesis.tap)
            wrong = [point for point in right if farthest(right[point], theirs[point]) > 1e-10]
            if not wrong:
                invisible.append(hypothesis.words)
                continue
            first, near = min(wrong, key=order), lambda p, x, theirs=theirs: farthest(x, theirs[p]) < 1e-10
            answer = explain(model, batch, theirs, first, near, iter([hypothesis]), whole)
            assert answer == f"{hypothesis.words} (with that, every point agrees)", first
            found += 1
            if i % 25 == 0:
                answer = explain(model, batch, theirs, first, near, all_hypotheses(model, batch, {}, {}), whole)
                assert answer is not None and answer.endswith("(with that, every point agrees)"), hypothesis.words
                if not answer.startswith(hypothesis.words):
                    other[hypothesis.words] = answer
    print(f"{found} found, {invisible} change nothing here, told by another name: {other}")
    assert found > 80
    assert all(
        "epsilon 1e-12" in words or "'gelu" in words or "chance" in words or "ours is not" in words
        for words in invisible
    )
    after = whole(batch, lambda name, layer, x: x)
    assert all(torch.equal(right[p], after[p]) for p in right)  # nothing that was supposed is left behind


# ---- ways for tensors to be related ----


def test_relations_of_tensors_are_told_in_words():
    x, other = torch.randn(6, 6), torch.randn(6, 6)
    few = x.clone()
    few[2, 3] += 1
    cases = {
        "transposed": x.T, "negated": -x, "scaled by 2": 2 * x, "all zero there": torch.zeros_like(x),
        "rounded to bfloat16 there": x.bfloat16().float(), "rows shifted by 1": x.roll(1, 0),
        "columns shifted by -1": x.roll(-1, 1), "the same rows in another order": x[[3, 0, 5, 1, 2, 4]],
        "the same columns in another order": x[:, [3, 0, 5, 1, 2, 4]], "there it is what is b here": other,
        "is [6, 6] here, [6, 5] there": x[:, :5], "1 of 36 numbers differs, at [2, 3], by 1": few,
        "36 of 36 numbers differ": torch.rand(6, 6), "holds numbers that are not finite": x * float("nan"),
    }  # fmt: skip
    for words, y in cases.items():
        assert relation("a", {"a": x, "b": other}, {"a": y, "b": other}).startswith(words), words
    assert relation("a", {"a": torch.zeros(3)}, {"a": torch.ones(3)}) == "all zero here"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_one_changed_number_is_always_found(data):
    rows, columns = data.draw(st.integers(3, 6)), data.draw(st.integers(3, 6))
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    i, j = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    y = x.clone()
    y[i, j] += data.draw(st.sampled_from([1.0, -0.5, 1e-3]))
    said = relation("a", {"a": x}, {"a": y})
    assert said.startswith(f"1 of {rows * columns} numbers differs, at [{i}, {j}]")


# ---- tokenizers ----


def with_vocabulary(source: Path, target: Path, **settings) -> Path:
    shutil.copytree(source, target)
    shutil.copy(GOLDEN / "tokenizer" / "albert-tiny-500.model", target / "spiece.model")
    (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"} | settings))
    return target


def test_tokenizers_that_agree_pass_and_another_lower_casing_is_named(tmp_path):
    source = saved(tmp_path / "bare", tiny_config(num_hidden_layers=1, vocab_size=500))
    ours = with_vocabulary(source, tmp_path / "ours")
    report = parity(ours, gradients=False)
    assert report.ok, report.findings
    theirs = with_vocabulary(source, tmp_path / "theirs", do_lower_case=False)
    report = parity(ours, against=theirs, gradients=False)
    print(f"\n| lower-casing | {report.first} | {report.findings[0]} |")
    assert report.first.section == "tokenizer" and "ours lower-cases, theirs does not" in report.cause
    assert [f.row.section for f in report.findings] == ["tokenizer"]
    assert parity(ours, against=theirs, gradients=False, texts=["all small", ("so", "is this")]).ok


def test_other_texts_than_the_built_in_ones(tmp_path):
    source = saved(tmp_path / "bare", tiny_config(num_hidden_layers=1, vocab_size=500))
    report = parity(with_vocabulary(source, tmp_path / "ours"), texts=["One.", ("a", "b")], gradients=False)
    assert [row.point for row in report.rows if row.section == "tokenizer"] == ["'One.'", "('a', 'b')"]


def test_a_missing_vocabulary_is_said(tmp_path):
    report = parity(saved(tmp_path, tiny_config(num_hidden_layers=1)), gradients=False)
    assert len(report.skipped) == 1 and "no vocabulary" in report.skipped[0]


# ---- Google's recorded outputs ----


def as_hugging_face(pack: Path, target: Path) -> Path:
    config = AlbertConfig.from_json(pack / "albert_config.json")
    to_ours = names.expand(config, "google")
    model = minialbert.AlbertForPreTraining(config)
    own = {name.removeprefix("albert."): p for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, x in load_file(pack / "weights.safetensors").items():
            if name in to_ours:
                own[to_ours[name]].copy_(x.T if name.endswith("/kernel") else x)
    model.save_pretrained(target)
    return target


@pytest.mark.parametrize("pack", ["google-v2-tiny", "google-v1-groups"])
def test_google_packs_pass_and_one_wrong_number_fails(pack, tmp_path):
    ours = as_hugging_face(GOLDEN / pack, tmp_path / "ours")
    report = parity(ours, against=("google-pack", GOLDEN / pack))
    assert report.ok, report.findings
    points = {row.point for row in report.rows if row.section == "forward"}
    assert points == {"embeddings.word", "embeddings", "hidden", "attention.probs", "pooled", "mlm.log_probs",
                      "sop.log_probs", "mlm.loss", "sop.loss", "loss"}  # fmt: skip
    print(f"\n{pack}: nearest {report.worst('forward')} {report.worst('forward').part:.2f} of its tolerance, "
          f"{report.worst('gradients')} {report.worst('gradients').part:.2f}")  # fmt: skip
    for file, key, first in [
        ("expected", "all_encoder_layers.1", "hidden, layer 2"),
        ("expected", "attention_probs.0", "attention.probs, layer 1"),
        ("gradients", "bert/pooler/dense/kernel", "gradients: pooler.weight"),
        ("weights", "bert/pooler/dense/kernel", "weights: pooler.weight"),
    ]:  # fmt: skip
        wrong = tmp_path / f"{file} {key}".replace("/", "-")
        shutil.copytree(GOLDEN / pack, wrong)
        tensors = load_file(wrong / f"{file}.safetensors")
        tensors[key].view(-1)[7] += 1e-3
        (wrong / f"{file}.safetensors").unlink()
        save_file(tensors, wrong / f"{file}.safetensors")
        report = parity(ours, against=("google-pack", wrong), dtype="float64")
        assert not report.ok and str(report.first) == first and sum(not row.ok for row in report.rows) == 1


def test_a_pack_names_the_wrong_gelu(tmp_path):
    ours = as_hugging_face(GOLDEN / "google-v2-tiny", tmp_path / "ours")
    wrong = changed(ours, tmp_path / "wrong", hidden_act="gelu")
    report = parity(wrong, against=("google-pack", GOLDEN / "google-v2-tiny"))
    assert report.cause == "hidden_act is 'gelu' here, 'gelu_new' there"
    assert str(report.findings[1].row) == "hidden, layer 1" and "hidden_act" in report.findings[1].cause


# ---- what cannot be done ----


def test_arguments_that_cannot_be_are_refused(tmp_path):
    for wrong in (
        {"dtype": "float16"},
        {"dtype": ()},
        {"attention": "flash"},
        {"tolerance": 0.0},
        {"against": ("x", "y")},
    ):
        with pytest.raises(InputError):
            parity(tmp_path, **wrong)
    with pytest.raises(FileError):
        parity(tmp_path / "nowhere")
    with pytest.raises(FileError, match="a pack needs it"):
        shutil.copy(GOLDEN / "google-v2-tiny" / "albert_config.json", tmp_path)
        parity(tmp_path, against=("google-pack", tmp_path))


def test_without_transformers_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FileError, match="pip install 'transformers"):
        parity(saved_by_us(tmp_path))


def saved_by_us(directory: Path) -> Path:
    minialbert.AlbertModel(tiny_config(num_hidden_layers=1)).save_pretrained(directory)
    return directory


def test_a_tolerance_of_ones_own_takes_the_place_of_both(tmp_path):
    source = saved(tmp_path, tiny_config(num_hidden_layers=2))
    assert not parity(source, tolerance=1e-12, gradients=False).ok  # float32 is not that near
    assert parity(source, tolerance=1e-12, dtype="float64", gradients=False).ok


def test_models_of_other_sizes_are_told_apart_without_running_them(tmp_path):
    for a, b in ((31, 40), (40, 31)):
        for size in (a, b):
            AlbertForPreTraining(tiny_config(vocab_size=size)).save_pretrained(tmp_path / f"{size}")
        report = parity(tmp_path / f"{a}", against=tmp_path / f"{b}", gradients=False)
        assert not report.ok and f"vocab_size is {a} here, {b} there" in str(report.findings[0])
        assert f"forward: not run, embeddings.word.weight is [{a}, 7] here, [{b}, 7] there" in " ".join(report.skipped)
    with pytest.raises(MiniAlbertError, match="no such file or directory"):
        parity(tmp_path / "31", against=tmp_path / "nowhere")


def test_a_layer_that_one_side_alone_has_is_named_as_such(tmp_path):
    for layers in (3, 4):
        torch.manual_seed(0)
        AlbertForPreTraining(tiny_config(num_hidden_layers=layers)).save_pretrained(tmp_path / f"{layers}")
    report = parity(tmp_path / "3", against=tmp_path / "4", dtype="float64", gradients=False)
    causes = [finding.cause for finding in report.findings if finding.row.section == "forward"]
    assert causes == ["ours never comes to this point"]
    report = parity(tmp_path / "4", against=tmp_path / "3", dtype="float64", gradients=False)
    causes = [finding.cause for finding in report.findings if finding.row.section == "forward"]
    assert causes and "chance" not in causes[0]


def test_a_pack_of_another_size_is_told_and_not_run(tmp_path):
    AlbertForPreTraining(tiny_config()).save_pretrained(tmp_path / "other")
    report = parity(tmp_path / "other", against=("google-pack", GOLDEN / "google-v2-tiny"))
    assert not report.ok and "forward: not run" in " ".join(report.skipped)


def test_a_pickle_that_would_run_code_is_refused_before_the_library_sees_it(tmp_path):
    AlbertForPreTraining(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(MiniAlbertError) as caught:
        parity(tmp_path)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
