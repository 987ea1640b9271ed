"""Against outputs and gradients recorded from Google's own code (tests/golden/README.md says how they were made)."""

import pytest
import torch
from safetensors.torch import load_file

from minialbert import AlbertForPreTraining, Recorder
from minialbert.convert import names
from tests.conftest import GOLDEN

PACKS = ["google-v2-tiny", "google-v1-groups"]


@pytest.fixture(params=PACKS)
def pack(request):
    """The model loaded from the TensorFlow checkpoint, the recorded arrays, the recorded gradients under our names."""
    folder = GOLDEN / request.param
    model = AlbertForPreTraining.from_pretrained(folder)
    to_ours = names.expand(model.config, "google")

    def in_our_names(tensors):
        turned = {name: x.T if name.endswith("/kernel") else x for name, x in tensors.items()}
        return {to_ours[name]: x for name, x in turned.items() if name in to_ours}

    parameters = {name.removeprefix("albert."): p for name, p in model.named_parameters()}
    weights = in_our_names(load_file(folder / "weights.safetensors"))
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, weights[name]), name
    gradients = in_our_names(load_file(folder / "gradients.safetensors"))
    assert gradients.keys() == parameters.keys()
    return model, load_file(folder / "expected.safetensors"), gradients


def run(model, want, tap):
    return model(
        want["input_ids"].long(),
        want["input_mask"].long(),
        want["token_type_ids"].long(),
        masked_positions=want["masked_lm_positions"].long(),
        tap=tap,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_recorded_output_is_met(pack, dtype):
    model, want, _ = pack
    tape = Recorder("embeddings", "embeddings.word", "hidden", "attention.probs", "pooled")
    with torch.no_grad():
        out = run(model.to(dtype), want, tape)
    got = {
        "word_embedding_output": (tape["embeddings.word"], 0 if dtype == torch.float32 else 1e-7),
        "embedding_output": (tape["embeddings"], 3e-6),
        "embedding_hidden_mapping_in_output": (tape["hidden", 0], 3e-6),
        "sequence_output": (tape["hidden", model.config.num_visits], 1e-5),
        "pooled_output": (tape["pooled"], 2e-6),
        "masked_lm_log_probs": (out.prediction_logits.log_softmax(-1).flatten(0, 1), 5e-6),
        "sentence_order_log_probs": (out.sop_logits.log_softmax(-1), 2e-6),
    }
    for layer in range(model.config.num_visits):
        got[f"all_encoder_layers.{layer}"] = tape["hidden", layer + 1], 1e-5
        got[f"attention_probs.{layer}"] = tape["attention.probs", layer + 1], 5e-7
    for name, (x, tolerance) in got.items():
        assert (x - want[name]).abs().max() <= tolerance, name
    compared = {k for k in want if not k.startswith(("input_", "token_type", "masked_lm_positions", "masked_lm_ids"))}
    left = compared - got.keys() - {"masked_lm_example_loss"}
    assert left == {
        "masked_lm_weights", "sentence_order_labels", "masked_lm_loss", "sentence_order_example_loss",
        "sentence_order_loss", "total_loss",
    }  # fmt: skip  # the losses are the next test


def test_losses_and_gradients_are_met(pack):
    """Google's mean over masked words divides by their number + 1e-5; ours by their number. Both are checked."""
    model, want, gradients = pack
    weights = want["masked_lm_weights"].flatten()
    labels = want["masked_lm_ids"].long().masked_fill(want["masked_lm_weights"] == 0, -100)
    out = model(
        want["input_ids"].long(),
        want["input_mask"].long(),
        want["token_type_ids"].long(),
        masked_positions=want["masked_lm_positions"].long(),
        labels=labels,
        sentence_order_label=want["sentence_order_labels"].long(),
    )
    googles_mean = out.mlm_loss * weights.sum() / (weights.sum() + 1e-5)
    assert abs(googles_mean - want["masked_lm_loss"]) < 3e-6
    assert abs(out.sop_loss - want["sentence_order_loss"]) < 2e-6
    assert abs(googles_mean + out.sop_loss - want["total_loss"]) < 3e-6
    (googles_mean + out.sop_loss).backward()
    for name, parameter in model.named_parameters():
        reference = gradients[name.removeprefix("albert.")]
        assert (parameter.grad - reference).abs().max() < 2e-6, name
