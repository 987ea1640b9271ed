"""What the command takes where no option says otherwise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.config import AlbertConfig
from minialbert.finetune.presets import FEWEST, MOST, dropout_of, preset

SIZES = ("albert-base-v2", "albert-large-v2", "albert-xlarge-v2", "albert-xxlarge-v2")


def narrow(H):
    return AlbertConfig(vocab_size=100, hidden_size=H, intermediate_size=4 * H, num_attention_heads=4)


@pytest.mark.parametrize(("name", "peak"), list(zip(SIZES, (3e-5, 2e-5, 2e-5, 1e-5), strict=True)))
def test_wide_models_have_the_published_rates_whatever_the_labels(name, peak):
    config = AlbertConfig.preset(name)
    assert (
        preset("classification", config, 1000).peak == preset("classification", config, 1000, labels=150).peak == peak
    )


@pytest.mark.parametrize(
    ("H", "learns", "few", "many"),
    [(256, "all", 3e-4, 9e-4), (384, "all", 1e-4, 3e-4), (256, "lora", 3e-3, 3e-3), (384, "lora", 1e-3, 3e-3),
     (64, "lora", 4e-2, 4e-2), (256, "head", 8e-3, 8e-3)],
)  # fmt: skip
def test_many_labels_raise_the_rate_of_a_narrow_model(H, learns, few, many):
    config = narrow(H)
    assert preset("classification", config, 1000, learns, 19).peak == few
    assert preset("classification", config, 1000, learns, 20).peak == many
    assert preset("tag", config, 1000, learns, 20).peak == few  # measured for texts alone


@given(st.integers(1, 10**7), st.sampled_from(["classification", "regression", "tag", "answer", "choice"]))
def test_small_data_has_enough_updates_or_the_most_epochs_and_large_data_the_fewest(rows, task):
    epochs, batch, _ = preset(task, narrow(256), rows)
    assert FEWEST <= epochs <= MOST
    enough = 300 if task == "answer" else 1000
    assert epochs == MOST or epochs * math.ceil(rows / batch) >= enough
    assert epochs == FEWEST or (epochs - 1) * rows < enough * batch


def test_v2_is_tuned_without_dropout_and_v1_with_it():
    v1, v2 = AlbertConfig.preset("albert-base-v1"), AlbertConfig.preset("albert-base-v2", hidden_dropout_prob=0.1)
    assert v1.hidden_dropout_prob == 0.1 and dropout_of(v1, "classification")[0] == {}
    changes, told = dropout_of(v2, "choice")
    assert changes == {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout_prob": 0.0}
    assert told.startswith("dropout: hidden 0, attention 0, classifier 0 (ALBERT v2 was trained without dropout")
    assert "classifier_dropout_prob" not in dropout_of(v2, "classification")[0]
