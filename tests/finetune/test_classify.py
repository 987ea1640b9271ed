"""Texts and pairs to rows, labels to losses, logits to predictions and figures; and what transformers makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

import minialbert
from minialbert.convert.sources import shipped
from minialbert.errors import InputError
from minialbert.finetune.classify import KINDS, ClassifyTask, MultilabelTask, RegressTask, balanced
from minialbert.finetune.data import TASKS, Example, read_data
from minialbert.finetune.task import Feature
from minialbert.heads import TaskOutput
from minialbert.tokenizers import load_tokenizer
from tests.conftest import tiny_config

NAMES = ("bad", "good", "so so")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(shipped())


def examples_of(*labels, pair=None):
    return [Example(f"text {i}", pair, label, i + 2) for i, label in enumerate(labels)]


def told(task, logits):
    """Predictions from logits [N, C]."""
    said = [np.array(row, dtype=np.float32) for row in logits]
    return task.predictions(examples_of(*[None] * len(said)), [], said)


# ---- texts to rows ----


def test_a_text_is_cls_a_sep_and_a_pair_carries_token_types(tokenizer):
    task = ClassifyTask(NAMES)
    one, two = task.features(tokenizer, [Example("Good.", None, "good", 1), Example("Good.", "Bad.", "bad", 2)])
    assert one.ids == tokenizer.encode("Good.") and one.types == [0] * len(one.ids)
    assert two.ids == tokenizer.encode("Good.", "Bad.") and two.types == [0] * len(one.ids) + [1] * (
        len(two.ids) - len(one.ids)
    )
    assert (one.example, one.target, two.example, two.target) == (0, 1, 1, 0)
    batch = task.batch([one, two], tokenizer.pad_id)
    assert batch["token_type_ids"].tolist() == [[0] * len(two.ids), two.types]
    assert batch["attention_mask"].sum(1).tolist() == [len(one.ids), len(two.ids)]


def test_empty_texts_are_cls_and_sep_alone(tokenizer):
    found = ClassifyTask(NAMES).features(tokenizer, [Example("", None, None, 1), Example("", "", None, 2)])
    assert [feature.ids for feature in found] == [tokenizer.encode(""), tokenizer.encode("", "")]
    assert [len(feature.ids) for feature in found] == [2, 3] and found[0].target is None


def test_long_texts_are_cut_and_counted_the_longer_of_a_pair_first(tokenizer):
    task = ClassifyTask(NAMES, max_length=12)
    long, short = "word " * 50, "word"
    examples = [Example(long, None, "bad", 1), Example(short, None, "bad", 2), Example(short, long, "bad", 3),
                Example(long, short, "bad", 4)]  # fmt: skip
    found = task.features(tokenizer, examples)
    assert [len(feature.ids) for feature in found] == [12, 3, 12, 12] and task.cut == 3
    assert found[2].types == [0] * 3 + [1] * 9 and found[3].types == [0] * 10 + [1] * 2
    task.features(tokenizer, examples[1:2])
    assert task.cut == 0, "the count is of the last call"
    with pytest.raises(InputError, match="max_length is too small"):
        ClassifyTask(NAMES, max_length=1).features(tokenizer, examples)


def test_a_label_that_the_task_does_not_have_is_told_with_its_line(tokenizer):
    for task, label in ((ClassifyTask(NAMES), "odd"), (MultilabelTask(NAMES), ("bad", "odd"))):
        with pytest.raises(InputError, match='line 2: "odd" is not among the 3 labels of the task'):
            task.features(tokenizer, examples_of(label))


def test_who_was_tuned_on_pairs_takes_no_single_text_and_the_reverse(tokenizer):
    single, pair = Example("a", None, None, 3), Example("a", "b", None, 3)
    for kind in KINDS.values():
        with pytest.raises(InputError, match="text 3: is a single text, the model was tuned on pairs"):
            kind(NAMES, paired=True).features(tokenizer, [pair, single])
        with pytest.raises(InputError, match="text 3: is a pair, the model was tuned on single texts"):
            kind(NAMES, paired=False).features(tokenizer, [single, pair])
        assert len(kind(NAMES).features(tokenizer, [single, pair])) == 2, "where it is not known both are taken"
        assert "paired" not in kind(NAMES).settings, "as in models of other libraries"


def test_a_batch_has_labels_only_when_all_of_them_are_known(tokenizer):
    for task, labels in ((ClassifyTask(NAMES), ["good", "bad"]), (MultilabelTask(NAMES), [(), ("bad", "good")]),
                         (RegressTask(), [1.5, -2.0])):  # fmt: skip
        known = task.batch(task.features(tokenizer, examples_of(*labels)), 0)
        assert known["labels"].shape[0] == 2
        assert "labels" not in task.batch(task.features(tokenizer, examples_of(labels[0], None)), 0)


# ---- what a task is ----


def test_the_kinds_are_those_of_the_data_and_come_back_from_their_settings():
    assert tuple(KINDS) == TASKS
    made = [ClassifyTask(NAMES, 64, weights=[1, 2, 0.5]), ClassifyTask(NAMES), MultilabelTask(NAMES, threshold=0.25),
            RegressTask(max_length=32)]  # fmt: skip
    made += [kind(NAMES, paired=paired) for kind in KINDS.values() for paired in (True, False)]
    for task in made:
        how = json.loads(json.dumps(task.settings))
        again = KINDS[how.pop("task")](labels=task.labels, **how)
        assert vars(again) == vars(task) and type(again) is type(task)
    assert RegressTask(["score"]).labels == ()


@pytest.mark.parametrize("make, words", [
    (lambda: ClassifyTask(["x"]), "labels: x; expected at least 2"),
    (lambda: MultilabelTask([]), "labels: none; expected at least 1"),
    (lambda: ClassifyTask(["x", "y", "x"]), 'labels: "x" is there twice'),
    (lambda: ClassifyTask(["x", "y"], weights=[1.0]), "weights: 1 numbers, the smallest 1.0; expected 2"),
    (lambda: ClassifyTask(["x", "y"], weights=[1.0, -2.0]), "the smallest -2.0; expected 2, one a label, none"),
    (lambda: MultilabelTask(["x"], threshold=1.0), "threshold=1.0 must be from 0 to below 1"),
])  # fmt: skip
def test_what_cannot_be_a_task_is_refused(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


# ---- class weights ----


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_balanced_weights_are_scikit_learns_and_a_label_without_examples_has_one(labels):
    found = dict(zip(NAMES, balanced(NAMES, examples_of(*labels)), strict=True))
    there = sorted(set(labels))
    theirs = compute_class_weight("balanced", classes=np.array(there), y=np.array(labels))
    assert [found[name] for name in there] == pytest.approx(theirs)
    assert all(found[name] == 1.0 for name in set(NAMES) - set(labels))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_weighted_losses_of_the_parts_of_a_batch_add_up_to_that_of_the_whole(data):
    numbers = st.floats(0.125, 8, width=32)
    task = ClassifyTask(NAMES, weights=data.draw(st.lists(numbers, min_size=3, max_size=3)))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=9)))
    logits = torch.randn(len(labels), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(len(labels)))
    weight = torch.tensor(task.weights, dtype=torch.float64)
    want = torch.nn.functional.cross_entropy(logits, labels, weight)

    def both(part):
        batch = {"labels": labels[part]}
        return task.loss(TaskOutput(None, logits[part]), batch), task.counted(batch)

    whole, total = both(slice(None))
    assert abs(whole - want) < 1e-12
    cut = data.draw(st.integers(1, len(labels) - 1))
    parts = [both(slice(0, cut)), both(slice(cut, None))]
    assert abs(sum(loss * counted for loss, counted in parts) / total - want) < 1e-6


def test_a_batch_of_labels_that_weigh_nothing_has_a_loss_of_zero():
    task, logits = ClassifyTask(NAMES, weights=[0, 1, 1]), torch.randn(2, 3, requires_grad=True)
    loss = task.loss(TaskOutput(None, logits), {"labels": torch.tensor([0, 0])})
    loss.backward()
    assert loss == 0 and not logits.grad.any() and task.counted({"labels": torch.tensor([0, 0])}) == 0


# ---- logits to predictions to figures ----

LOGITS = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=1, max_size=8)


@given(LOGITS)
@settings(max_examples=40, deadline=None)
def test_predictions_are_torchs_softmax_and_sigmoid_ready_for_json(logits):
    p, q = torch.tensor(logits).double().softmax(1), torch.tensor(logits).double().sigmoid()
    for i, found in enumerate(told(ClassifyTask(NAMES), logits)):
        assert [found["probabilities"][name] for name in NAMES] == pytest.approx(p[i].tolist())
        assert found["label"] == NAMES[int(np.argmax(logits[i]))] == next(iter(found["probabilities"]))
        assert list(found["probabilities"].values()) == sorted(found["probabilities"].values(), reverse=True)
        assert json.loads(json.dumps(found)) == found
    for threshold in (0.5, 0.2):
        for i, found in enumerate(told(MultilabelTask(NAMES, threshold=threshold), logits)):
            assert list(found["probabilities"].values()) == pytest.approx(q[i].tolist())
            assert found["labels"] == [name for name, x in found["probabilities"].items() if x > threshold]
    assert told(RegressTask(), [[2.5], [-1.0]]) == [{"score": 2.5}, {"score": -1.0}]


def test_huge_logits_are_certainties_not_nan():
    assert told(ClassifyTask(NAMES), [[3e38, 0, -3e38]])[0]["probabilities"] == {"bad": 1.0, "good": 0.0, "so so": 0.0}
    assert list(told(MultilabelTask(NAMES), [[3e38, 0, -3e38]])[0]["probabilities"].values()) == [1.0, 0.5, 0.0]


def test_the_figures_of_each_kind():
    found = ClassifyTask(NAMES).scores(
        examples_of("bad", "bad", "good"), told(ClassifyTask(NAMES), np.eye(3)[[0, 1, 1]])
    )
    assert found["accuracy"] == pytest.approx(2 / 3) and found["macro_f1"] == pytest.approx(2 / 3)
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]] and found["labels"]["so so"]["support"] == 0
    task = MultilabelTask(NAMES)
    found = task.scores(examples_of(("bad", "good"), ()), told(task, [[9, -9, -9], [-9, -9, -9]]))
    assert found["micro_f1"] == pytest.approx(2 / 3) and found["exact_match"] == 0.5 and found["macro_f1"] == 0.5
    found = RegressTask().scores(examples_of(1.0, 2.0, 4.0), told(RegressTask(), [[0.0], [2.0], [3.0]]))
    assert found["spearman"] == 1.0 and found["mean_error"] == pytest.approx(2 / 3)
    assert found["root_mean_square"] == pytest.approx((2 / 3) ** 0.5) and found["examples"] == 3
    assert json.loads(json.dumps(found)) == found


def test_without_labels_nothing_is_measured():
    for kind, labels in ((ClassifyTask, NAMES), (MultilabelTask, NAMES), (RegressTask, ())):
        with pytest.raises(InputError, match="line 2: has no label, and nothing can be measured without"):
            kind(labels).scores(examples_of(None), [{"label": "bad", "labels": [], "score": 0.0}])


# ---- the floor ----


def test_the_floor_is_the_commonest_label_of_train_whatever_the_goal():
    task = ClassifyTask(NAMES)
    train, dev = examples_of("good", "bad", "good"), examples_of("good", "so so", "bad", "good")
    assert task.floor(train, dev) == 0.5
    assert task.floor(train, examples_of("so so")) == 0.0, "a label of dev that train has no example of"

    class ByMacro(ClassifyTask):
        goal = "macro_f1"

    assert ByMacro(NAMES).floor(train, dev) == pytest.approx(2 / 3 / 3)


@given(st.lists(st.sets(st.sampled_from(NAMES)), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_no_constant_set_of_labels_does_better_on_train_than_the_floors(sets):
    task, train = MultilabelTask(NAMES), examples_of(*map(tuple, sets))
    floor = task.floor(train, train)
    for number in range(8):
        names = [name for i, name in enumerate(NAMES) if number >> i & 1]
        assert task.scores(train, [{"labels": names}] * len(train))["micro_f1"] <= floor + 1e-12


def test_a_constant_number_ranks_nothing():
    assert RegressTask().floor(examples_of(1.0, 5.0), examples_of(2.0, 3.0, 9.0)) == 0.0


def test_a_new_regression_head_starts_at_the_mean_of_the_scores():
    task = RegressTask()
    model = task.head(tiny_config(**task.changes()))
    task.start(model, examples_of(4.0, 5.0, 4.5))
    assert model.classifier.bias.item() == 4.5 and model.classifier.bias.requires_grad
    model.eval()
    assert abs(model(input_ids=[[2, 5, 3]]).logits.item() - 4.5) < 0.5, "the rest of a new head says next to nothing"


# ---- on real models, and what transformers makes of them ----


def finetuned(path, task, directory):
    """A model with a head that says something, saved with its tokenizer."""
    with pytest.warns(UserWarning, match="new here"):
        model = minialbert.AlbertForSequenceClassification.from_pretrained(path, **task.changes())
    torch.manual_seed(0)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.5)
        model.classifier.bias.normal_(0, 0.5)
    tokenizer = load_tokenizer(path)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model, tokenizer


EXAMPLES = [
    Example("A man is playing a guitar.", "Somebody makes music.", None, 1), Example("", "Nothing.", None, 2),
    Example("It rains.", "The sun is out, as it has been all this long week.", None, 3),
]  # fmt: skip


@pytest.mark.parametrize("family", ["albert", "bert"])
@pytest.mark.parametrize("name", KINDS)
def test_the_saved_directory_is_a_text_classification_pipeline_with_the_same_answers(name, family, tmp_path, minilm):
    task = KINDS[name](NAMES if name != "regression" else ())
    model, tokenizer = finetuned(shipped() if family == "albert" else minilm, task, tmp_path)
    features = task.features(tokenizer, EXAMPLES)
    with torch.no_grad():
        said = task.read(model(**task.batch(features, tokenizer.pad_id)), features)
    ours = task.predictions(EXAMPLES, features, said)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.problem_type == task.changes()["problem_type"] and config.id2label == task.changes()["id2label"]
    pipe = transformers.pipeline("text-classification", model=str(tmp_path), top_k=None)
    for example, mine in zip(EXAMPLES, ours, strict=True):
        theirs = {row["label"]: row["score"] for row in pipe({"text": example.text, "text_pair": example.pair})}
        want = {"score": mine["score"]} if name == "regression" else mine["probabilities"]
        assert theirs == pytest.approx(want, abs=1e-5)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        theirs_logits = again(**task.batch(features, tokenizer.pad_id)).logits
    assert np.abs(np.stack(said) - theirs_logits.numpy()).max() < 1e-5


def test_a_tiny_random_model_learns_which_sign_comes_first(tmp_path):
    task, generator = ClassifyTask(["a", "b"]), np.random.default_rng(0)
    rows = generator.integers(4, 20, (240, 6))
    features = [Feature([2, *row.tolist(), 3], [0] * 8, i, int(row[0] > 11)) for i, row in enumerate(rows)]
    torch.manual_seed(0)
    model = task.head(tiny_config(num_hidden_layers=2, **task.changes())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        batch = task.batch([features[i] for i in generator.integers(0, 200, 32)], 0)
        task.loss(model(**batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    examples = [Example("", None, "ab"[feature.target], 1) for feature in features[200:]]
    with torch.no_grad():
        said = task.read(model(**task.batch(features[200:], 0)), features[200:])
    found = task.scores(examples, task.predictions(examples, features[200:], said))
    assert found["accuracy"] > 0.9 > task.floor(examples, examples) + 0.2


def test_a_file_becomes_a_task_and_its_figures(tmp_path, tokenizer):
    path = Path(tmp_path, "a.tsv")
    path.write_text("label\ttext\ngood\tfine\nbad\tawful\ngood\tnice\n")
    data = read_data(path)
    task = KINDS[data.task](labels=data.labels)
    features = task.features(tokenizer, data.examples)
    assert [feature.target for feature in features] == data.targets
    found = task.scores(data.examples, [{"label": "good"}] * 3)
    assert found["accuracy"] == task.floor(data.examples, data.examples) == pytest.approx(2 / 3)
