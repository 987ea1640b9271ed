"""Losses that count nothing, gathered positions, labels that do not fit. Parity is in tests/parity."""

import pytest
import torch

import minialbert
from minialbert import IN_ORDER, SWAPPED
from minialbert.errors import InputError
from tests.conftest import random_batch, tiny_bert, tiny_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return minialbert.AlbertForPreTraining(tiny_config()).eval()


def test_the_pair_head_always_has_two_outputs():
    assert (IN_ORDER, SWAPPED) == (0, 1)
    model = minialbert.AlbertForPreTraining(tiny_config(num_labels=5))
    assert model(**random_batch(model.config)).sop_logits.shape == (3, 2)


def test_gathered_positions_give_the_same_logits_and_loss(model):
    batch, positions = random_batch(model.config), torch.tensor([[0, 4, 4], [1, 0, 8], [2, 3, 5]])
    labels = torch.full((3, 9), -100)
    some = torch.tensor([[3, 5, 5], [7, -100, 9], [1, 2, 4]])
    for b in range(3):
        for m in range(3):
            labels[b, positions[b, m]] = some[b, m]
    some[0, 2] = -100  # the position given twice counts once
    whole = model(**batch, labels=labels)
    gathered = model(**batch, labels=some, masked_positions=positions)
    assert gathered.prediction_logits.shape == (3, 3, 31)
    want = whole.prediction_logits.gather(1, positions[..., None].expand(-1, -1, 31))
    assert (gathered.prediction_logits - want).abs().max() < 1e-6
    assert abs(gathered.mlm_loss - whole.mlm_loss) < 1e-6


def test_the_output_matrix_is_the_word_table_itself(model):
    assert not any("decoder" in name for name in model.state_dict())
    before = model(**random_batch(model.config)).prediction_logits
    with torch.no_grad():
        model.albert.embeddings.word.weight[5] *= 2
    after = model(**random_batch(model.config)).prediction_logits
    with torch.no_grad():
        model.albert.embeddings.word.weight[5] /= 2
    assert (before[..., 5] - after[..., 5]).abs().max() > 1e-3


@pytest.mark.parametrize("name, labels", [
    ("ForPreTraining", {"labels": [[-100] * 9] * 3, "sentence_order_label": [-100] * 3}),
    ("ForMaskedLM", {"labels": [[-100] * 9] * 3}),
    ("ForTokenClassification", {"labels": [[-100] * 9] * 3}),
    ("ForSequenceClassification", {"labels": [-100] * 3}),
    ("ForQuestionAnswering", {"start_positions": [9, 10, 99], "end_positions": [9, 9, 9]}),
])  # fmt: skip
def test_a_loss_that_counts_nothing_is_zero_and_has_a_gradient(name, labels):
    model = getattr(minialbert, "Albert" + name)(tiny_config())
    out = model(**random_batch(model.config), **labels)
    assert out.loss == 0
    out.loss.backward()
    assert all((p.grad is None or not p.grad.any()) for p in model.parameters())


def test_without_labels_there_is_no_loss(model):
    out = model(**random_batch(model.config))
    assert out.loss is None and out.mlm_loss is None and out.sop_loss is None
    assert "prediction_logits: [3, 9, 31]" in repr(out) and "loss: None" in repr(out)


def test_the_same_words_mean_next_sentence_for_bert():
    model = minialbert.AlbertForPreTraining(tiny_bert())
    out = model(**random_batch(model.config), sentence_order_label=[0, 1, 0])
    assert out.loss == out.sop_loss and out.mlm_loss is None


@pytest.mark.parametrize("name, labels, words", [
    ("ForPreTraining", {"labels": [[1] * 8] * 3}, "labels are [3, 8], expected [3, 9]"),
    ("ForPreTraining", {"sentence_order_label": [1, 0]}, "labels are [2], expected [3]"),
    ("ForTokenClassification", {"labels": [1, 0, 1]}, "labels are [3], expected [3, 9]"),
    ("ForSequenceClassification", {"labels": [[0.5, 0.5, 1.0]] * 3}, "several classes each need [3, 2]"),
    ("ForQuestionAnswering", {"start_positions": [1, 2, 3]}, "give both"),
    ("ForPreTraining", {"sentence_order_label": [5, 0, 1]}, "labels run from 0 to 5, there are classes 0..1"),
    ("ForTokenClassification", {"labels": [[0.5] * 9] * 3}, "labels are torch.float32, expected whole numbers"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(name, labels, words):
    model = getattr(minialbert, "Albert" + name)(tiny_config())
    with pytest.raises(InputError) as caught:
        model(**random_batch(model.config), **labels)
    assert words in str(caught.value)


def test_multiple_choice_wants_three_dimensions():
    model = minialbert.AlbertForMultipleChoice(tiny_config()).eval()
    with pytest.raises(InputError, match="N choices"):
        model([[1, 2, 3]])
    ids = torch.randint(0, 31, (2, 4, 5))
    assert model(ids).logits.shape == (2, 4)
    words = model.albert.embeddings.word(ids)
    assert torch.equal(model(ids).logits, model(inputs_embeds=words).logits)


def test_depth_and_stored_states_work_through_a_head(model):
    batch, tape = random_batch(model.config), minialbert.Recorder("hidden")
    with torch.no_grad():
        want = model(**batch, tap=tape, depth=4)
        again = model(attention_mask=batch["attention_mask"], hidden_states=tape["hidden", 2], from_layer=2, depth=4)
    assert torch.equal(want.prediction_logits, again.prediction_logits)


def test_losses_do_not_write_into_the_configuration():
    model = minialbert.AlbertForSequenceClassification(tiny_config())
    before = model.config
    model(**random_batch(model.config), labels=[0, 1, 0])
    assert model.config is before and before.problem_type is None
