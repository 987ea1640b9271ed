"""One step of fine-tuning equals Hugging Face's with the same weights, batch and optimizer: the loss and every weight.

For each head, ALBERT and BERT, dropout at 0: forward, backward, torch's AdamW. Ours is saved and read back by
transformers, so that the weights are compared under its names.
"""

import numpy as np
import pytest
import torch

from minialbert.finetune.choose import ChooseTask
from minialbert.finetune.classify import ClassifyTask, MultilabelTask, RegressTask
from minialbert.finetune.task import Feature
from tests.conftest import pair_of, random_batch, tiny_bert, tiny_config

FAMILIES = {"albert": tiny_config, "albert, two groups": lambda **how: tiny_config(num_hidden_groups=2, **how),
            "bert": tiny_bert}  # fmt: skip
# In float32 the first AdamW step of a weight whose gradient is rounding alone (a key's bias has none) would be of full
# length with torch's epsilon of 1e-8; BERT's own is 1e-6.
KINDS = {
    "float64": (torch.float64, {"lr": 1e-3}, 1e-10),
    "float32": (torch.float32, {"lr": 2e-5, "eps": 1e-6}, 1e-6),
}
NAMES = ("x", "y", "z")
TASKS = {
    "one label": (ClassifyTask(NAMES), [2, 0, 1]),
    "any labels": (MultilabelTask(NAMES), [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
    "a number": (RegressTask(), [3.625, -1.25, 0.0]),
    "a choice": (ChooseTask(), [1, 0, 2]),
}


def rows_of(config, B, seed=0):
    """Rows of different length as lists, their types 1 from somewhere on."""
    batch = random_batch(config, B=B, seed=seed)
    lengths = batch["attention_mask"].sum(1).tolist()
    return [(batch["input_ids"][i, :n].tolist(), [0] * (n - n // 2) + [1] * (n // 2)) for i, n in enumerate(lengths)]


def features_of(task, targets, config):
    """A feature a target, as `task.features` makes them."""
    if not isinstance(task, ChooseTask):
        rows = rows_of(config, len(targets))
        return [
            Feature(ids, types, i, target) for i, ((ids, types), target) in enumerate(zip(rows, targets, strict=True))
        ]
    out = []
    for number, target in enumerate(targets):
        rows = rows_of(config, 3, seed=number)
        ids, types = ([x for row in rows for x in row[part]] for part in (0, 1))
        out.append(Feature(ids, types, number, target, tuple(len(row[0]) for row in rows)))
    return out


def step(model, loss, how):
    """One update, and the loss before it."""
    optimizer = torch.optim.AdamW(model.parameters(), **how)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_same_step(config, head, batch, kind, directory, task=None):
    """Both take a step on the batch; losses and all weights after it are compared, and that they have moved."""
    dtype, how, tolerance = KINDS[kind]
    ours, theirs = pair_of(config, directory / "start", head, dtype)
    before = {name: x.clone() for name, x in theirs.state_dict().items()}
    ours.train()
    theirs.train()
    output = ours(**batch)
    loss = output.loss if task is None else task.loss(output, batch)
    # theirs takes binary cross entropy in the labels' kind of number, ours in that of the logits
    batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}
    assert step(ours, loss, how) == pytest.approx(step(theirs, theirs(**batch).loss, how), abs=tolerance)
    ours.save_pretrained(directory / "end")
    again, report = type(theirs).from_pretrained(directory / "end", dtype=dtype, output_loading_info=True)
    assert not any(report.values()), report
    moved = 0
    for name, x in theirs.state_dict().items():
        assert (again.state_dict()[name] - x).abs().max() < tolerance, name
        moved += int((x - before[name]).abs().max() > how["lr"] / 2)
    assert moved > len(before) / 2, "most weights have taken a step of about the learning rate"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_a_task_equals_hugging_face(name, family, kind, tmp_path):
    task, targets = TASKS[name]
    config = FAMILIES[family](classifier_dropout_prob=0.0, **task.changes())
    batch = task.batch(features_of(task, targets, config), pad_id=0)
    assert_same_step(config, task.head.__name__.removeprefix("Albert"), batch, kind, tmp_path, task)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_token_classification_equals_hugging_face(family, kind, tmp_path):
    config = FAMILIES[family](classifier_dropout_prob=0.0, num_labels=5)
    batch = random_batch(config)
    labels = torch.arange(27).view(3, 9) % 5
    batch["labels"] = labels.masked_fill((batch["attention_mask"] == 0) | (labels == 3), -100)
    assert_same_step(config, "ForTokenClassification", batch, kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_question_answering_equals_hugging_face(family, kind, tmp_path):
    config = FAMILIES[family]()
    batch = random_batch(config) | {
        "start_positions": torch.tensor([2, 0, 99]),
        "end_positions": torch.tensor([4, 0, 8]),
    }
    assert_same_step(config, "ForQuestionAnswering", batch, kind, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_weighted_classes_equal_torchs_weighted_cross_entropy_on_their_logits(family, tmp_path):
    task = ClassifyTask(NAMES, weights=[0.5, 3.0, 1.25])
    config = FAMILIES[family](classifier_dropout_prob=0.0, **task.changes())
    batch = task.batch(features_of(task, [2, 0, 1], config), pad_id=0)
    ours, theirs = pair_of(config, tmp_path, "ForSequenceClassification")
    weight = torch.tensor(task.weights, dtype=torch.float64)
    want = torch.nn.functional.cross_entropy(theirs(**batch).logits, batch["labels"], weight)
    got = task.loss(ours(**batch), batch)
    assert abs(got - want) < 1e-12
    got.backward()
    want.backward()
    assert (ours.classifier.weight.grad - theirs.classifier.weight.grad).abs().max() < 1e-12


def test_a_question_with_fewer_choices_beside_one_with_more_has_the_loss_it_has_alone(tmp_path):
    task, config = ChooseTask(), tiny_config(classifier_dropout_prob=0.0)
    ours, theirs = pair_of(config, tmp_path, "ForMultipleChoice")
    few, many = features_of(task, [1, 3], config)
    few = Feature(few.ids[: sum(few.more[:2])], few.types[: sum(few.more[:2])], 0, 1, few.more[:2])
    rows = rows_of(config, 5, seed=7)
    ids, types = ([x for row in rows for x in row[part]] for part in (0, 1))
    many = Feature(ids, types, 1, 3, tuple(len(row[0]) for row in rows))
    alone = [theirs(**task.batch([feature], 0)) for feature in (few, many)]
    batch = task.batch([few, many], 0)
    output = ours(**batch)
    assert abs(task.loss(output, batch) - sum(out.loss for out in alone) / 2) < 1e-10
    for found, out in zip(task.read(output, [few, many]), alone, strict=True):
        assert np.abs(found - out.logits[0].detach().numpy()).max() < 1e-6
    assert batch["input_ids"].shape[:2] == (2, 5)
