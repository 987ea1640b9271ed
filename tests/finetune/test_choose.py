"""Questions with choices: read or refused with their line, laid out in rows, answered, and measured."""

import gzip
import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.convert.sources import shipped
from minialbert.errors import FileError, InputError
from minialbert.finetune.choose import ChooseTask, Question, Questions, read_questions
from minialbert.finetune.data import leakage, split
from minialbert.finetune.task import Feature
from minialbert.tokenizers import load_tokenizer
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(shipped())


def lines_of(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def read(directory, text, name="a.jsonl", **how):
    path = directory / name
    path.write_text(text)
    return read_questions(path, **how)


def asked(choices=("red", "blue", "green"), **more):
    return {"context": "The sky.", "question": "Which colour?", "choices": list(choices), "answer": 1} | more


# ---- reading ----

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, min_size=2, max_size=5)), min_size=1, max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_any_questions_come_back(tmp_path_factory, rows, data):
    answers = [data.draw(st.integers(0, len(choices) - 1)) for _, _, choices in rows]
    records = [
        {"context": context, "question": question, "choices": choices, "answer": answer, "id": 7}
        for (context, question, choices), answer in zip(rows, answers, strict=True)
    ]
    directory = tmp_path_factory.mktemp("in")
    found = read(directory, "\n" + lines_of(*records))
    assert [(e.context, e.question, list(e.choices), e.answer, e.line) for e in found.examples] == [
        (*row, answer, line) for line, (row, answer) in enumerate(zip(rows, answers, strict=True), start=2)
    ]
    wrong = lines_of(*(record | {"answer": 99} for record in records))
    unread = read(directory, "\n" + wrong, labelled=False).examples
    assert unread == tuple(replace(e, answer=None) for e in found.examples), "answers are not looked at"


@pytest.mark.parametrize("answer", [1, "B", "b", "blue", " blue "])
def test_an_answer_is_a_place_a_letter_or_the_choice_itself(answer, tmp_path):
    assert read(tmp_path, lines_of(asked(answer=answer))).examples[0].answer == 1


def test_a_letter_that_is_also_the_choice_there_is_no_doubt(tmp_path):
    assert read(tmp_path, lines_of(asked(["A", "B"], answer="B"))).examples[0].answer == 1


@pytest.mark.parametrize("record, words", [
    (asked(answer="yellow"), ', "answer": "yellow" is none of the choices; give its place, a number from 0 to 2'),
    (asked(answer="D"), '"D" is none of the choices'),
    (asked(answer="1"), '"1" is none of the choices; give its place, a number from 0 to 2 without quotation marks'),
    (asked(["B", "A"], answer="A"), '"A" could be several of the choices'),
    (asked(["x", "x"], answer="x"), '"x" could be several of the choices'),
    (asked(answer=3), ', "answer": 3, expected 0 to 2, the place among 3 choices'),
    (asked(answer=-1), ', "answer": -1, expected 0 to 2'),
    (asked(answer=True), ', "answer": true is none of the choices'),
    (asked(answer=None), ': no "answer"; its fields: context, question, choices, answer'),
    (asked(["one"]), ', "choices": ["one"] is no list of at least two texts'),
    (asked() | {"choices": "abc"}, ', "choices": "abc" is no list'),
    (asked(["a", 3]), ', "choices", 1: 3 is no string'),
    (asked(question=["a"]), ', "question": ["a"] is no string'),
    (asked(context=5), ', "context": 5 is no string'),
    ({"question": "?", "answer": 0}, ': no "choices"; its fields: question, answer; expected {"context"'),
    ({}, ': no "question"; its fields: none'),
    (["a"], ": not an object"),
])  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_with_its_number(record, words, tmp_path):
    with pytest.raises(FileError) as error:
        read(tmp_path, lines_of(asked(), record, asked(answer="?")))
    said = str(error.value)
    assert f"a.jsonl: line 2{words}" in said or (said.split("line 2")[0].endswith("a.jsonl: ") and words in said)
    assert said.endswith("(and 1 more problem, next in line 3)") and "\n" not in said


def test_files_that_are_none_are_refused_and_packed_ones_are_read(tmp_path):
    with pytest.raises(FileError, match="no question in it"):
        read(tmp_path, "\n\n")
    with pytest.raises(FileError, match="line 2: not JSON"):
        read(tmp_path, lines_of(asked()) + "{oops\n")
    with pytest.raises(InputError, match=r"expected \.jsonl"):
        read(tmp_path, "x", name="a.tsv")
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(lines_of(asked(), asked(["a", "b"], answer="A")).encode()))
    found = read_questions(packed)
    assert found.describe() == f"{packed}: 2 questions, 2 to 3 choices"
    assert [len(e.choices) for e in found.examples] == [3, 2]


def test_questions_are_held_out_and_looked_for_like_other_data(tmp_path):
    data = read(tmp_path, lines_of(*[asked(question=f"{i}?") for i in range(20)]))
    train, dev = split(data)
    assert isinstance(dev, Questions) and len(train) == 16 and len(dev) == 4 and leakage(train, dev).shared == 0
    other = Questions("x", (Question("the SKY.", " 3? ", ("green", "Blue", "red"), 0, 1),))
    assert leakage(data, other) == (1, 1), "the same question, its choices in another order, and another answer"


# ---- rows ----


def test_a_choice_is_read_with_its_question_and_context(tokenizer):
    with_context = Question("The sky.", "Which colour?", ("red", "blue"), 1, 1)
    without = Question("", "Which colour?", ("red", "blue", ""), None, 2)
    ending = Question("The sky is", "", ("red", "blue"), 0, 3)
    task = ChooseTask()
    found = task.features(tokenizer, [with_context, without, ending])
    want = [
        [("The sky.", "Which colour? red"), ("The sky.", "Which colour? blue")],
        [("Which colour?", "red"), ("Which colour?", "blue"), ("Which colour?", "")],
        [("The sky is", "red"), ("The sky is", "blue")],
    ]
    for feature, pairs in zip(found, want, strict=True):
        rows = [tokenizer.encode(*pair) for pair in pairs]
        assert feature.ids == list(chain(*rows)) and feature.more == tuple(map(len, rows))
    assert [feature.target for feature in found] == [1, None, 0] and [f.example for f in found] == [0, 1, 2]
    batch = task.batch([found[0], found[2]], tokenizer.pad_id)
    theirs = tokenizer([*want[0], *want[2]])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].flatten(0, 1).tolist() == theirs[name].tolist()
    assert batch["labels"].tolist() == [1, 0] and "labels" not in task.batch(found, tokenizer.pad_id)


def test_a_long_context_is_cut_and_the_question_counted_once(tokenizer):
    task = ChooseTask(max_length=16)
    found = task.features(
        tokenizer, [Question("word " * 90, "What?", ("a", "b"), 0, 1), Question("", "?", ("a", "b"), 0, 2)]
    )
    assert found[0].more == (16, 16) and task.cut == 1
    one, other = found[0].ids[:16], found[0].ids[16:]
    assert one != other and one[-4:-1] != other[-4:-1], "the end of the shorter text, the choice, is kept"


@given(st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_every_row_stands_at_its_place_and_the_rest_is_padding(lengths):
    counter = iter(range(10, 10_000))
    rows = [[[next(counter) for _ in range(n)] for n in question] for question in lengths]
    features = [Feature(list(chain(*q)), [1] * sum(map(len, q)), i, 0, tuple(map(len, q))) for i, q in enumerate(rows)]
    batch = ChooseTask().batch(features, pad_id=3)
    seen = 0
    for b, question in enumerate(rows):
        for n, row in enumerate(question):
            assert batch["input_ids"][b, n, : len(row)].tolist() == row
            assert batch["attention_mask"][b, n].sum() == batch["token_type_ids"][b, n].sum() == len(row)
            seen += len(row)
    assert batch["attention_mask"].sum() == seen and (batch["input_ids"] != 3).sum() == seen


# ---- answers ----


def test_predictions_and_figures():
    task = ChooseTask()
    examples = [Question("", "?", ("a", "b", "c"), 2, 1), Question("", "?", ("a", "b"), 0, 2)]
    found = task.predictions(examples, [], [np.float32([0, 0, 1]), np.float32([-1, 2])])
    assert [(p["answer"], p["choice"]) for p in found] == [(2, "c"), (1, "b")]
    assert found[1]["probabilities"] == pytest.approx(torch.tensor([-1.0, 2.0]).softmax(0).tolist())
    assert json.loads(json.dumps(found)) == found
    assert task.scores(examples, found) == {"examples": 2, "accuracy": 0.5, "chance": pytest.approx(5 / 12)}
    with pytest.raises(InputError, match="line 9: has no answer"):
        task.scores([Question("", "?", ("a", "b"), None, 9)], found[:1])


def test_the_floor_is_the_place_that_is_right_most_often_or_chance():
    places = [Question("", "?", ("a", "b", "c"), place, 1) for place in (2, 0, 2, 1)]
    assert ChooseTask().floor(places, places) == 0.5
    assert ChooseTask().floor(places, [Question("", "?", ("a", "b"), 1, 1)]) == 0.5, "there is no third choice"


def test_a_task_comes_back_from_its_settings():
    how = json.loads(json.dumps(ChooseTask(max_length=77).settings))
    assert how.pop("task") == "choice" and vars(ChooseTask(labels=["LABEL_0"], **how)) == vars(
        ChooseTask(max_length=77)
    )


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_transformers_reads_the_saved_directory_to_the_same_logits(family, tmp_path, minilm):
    path, task = shipped() if family == "albert" else minilm, ChooseTask()
    with pytest.warns(UserWarning, match="new here"):
        model = minialbert.AlbertForMultipleChoice.from_pretrained(path, **task.changes())
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(path)
    features = task.features(
        tokenizer, [Question("The sky.", "Which?", ("red", "blue"), 0, 1), Question("", "?", ("a", "b"), 1, 2)]
    )
    batch = task.batch(features, tokenizer.pad_id)
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path)
    with torch.no_grad():
        ours, want = model(**batch), theirs(**batch)
    assert (ours.logits - want.logits).abs().max() < 1e-5 and abs(task.loss(ours, batch) - want.loss) < 1e-5
    assert theirs.config.problem_type is None and theirs.config.num_labels == 2


def test_a_tiny_random_model_learns_to_choose_the_largest_number():
    generator, task = np.random.default_rng(0), ChooseTask()

    def made(i):
        choices = generator.permutation(np.arange(10, 20))[:3].tolist()
        rows = [[2, 5, 3, choice, 3] for choice in choices]
        return Feature(list(chain(*rows)), [0, 0, 0, 1, 1] * 3, i, choices.index(max(choices)), (5, 5, 5))

    features = [made(i) for i in range(200)]
    torch.manual_seed(0)
    model = task.head(tiny_config(num_hidden_layers=2, classifier_dropout_prob=0.0, **task.changes())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        batch = task.batch([features[i] for i in generator.integers(0, 160, 32)], 0)
        task.loss(model(**batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    examples = [Question("", "", ("a", "b", "c"), feature.target, 1) for feature in features[160:]]
    with torch.no_grad():
        said = task.read(model(**task.batch(features[160:], 0)), features[160:])
    assert task.scores(examples, task.predictions(examples, features[160:], said))["accuracy"] > 0.9
