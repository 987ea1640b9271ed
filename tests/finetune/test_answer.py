"""Answers: files are checked, characters and pieces agree, the best span is the best, transformers loads the same."""

import json
import random
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import FileError, InputError
from minialbert.finetune.answer import (
    NOT_COUNTED,
    AnswerTask,
    Window,
    best_spans,
    best_threshold,
    target_of,
    windows_of,
)  # fmt: skip
from minialbert.finetune.questions import (
    Answer,
    Question,
    best_over,
    exact_match,
    normalized,
    read_questions,
    word_f1,
)  # fmt: skip
from minialbert.heads import AlbertForQuestionAnswering
from minialbert.tokenizers import WordPieceTokenizer
from tests.conftest import tiny_bert, tiny_config
from tests.tokenizers.conftest import sentencepiece_tokenizer, wordpiece_tokenizer
from tests.tokenizers.texts import any_text, words_text

TOKENIZERS = (sentencepiece_tokenizer(), wordpiece_tokenizer())


# ---- files ----


def squad(*records):
    """SQuAD's tree, a paragraph for each record."""
    paragraphs = [
        {"context": record["context"], "qas": [{key: value for key, value in record.items() if key != "context"}]}
        for record in records
    ]
    return json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]})


def of(directory, text, name="a.json", **how):
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_questions(path, **how)


ONE = {
    "id": "q1",
    "question": "Where?",
    "context": "It is in Rome, Rome!",
    "answers": [{"text": "Rome", "answer_start": 9}],
}


def one(**changes):
    return {key: value for key, value in (ONE | changes).items() if value is not ...}


def test_both_forms_and_both_kinds_of_answers_say_the_same(tmp_path):
    listed = {"text": ["Rome", "in Rome"], "answer_start": [15, 6]}
    records = [
        one(), one(id="q2", answers=listed), one(id="q3", answers=[]),
        one(id="q4", answers=..., is_impossible=True, plausible_answers=[]), one(id=5),
    ]  # fmt: skip
    tree = of(tmp_path, squad(*records))
    lines = of(tmp_path, "\n".join(map(json.dumps, records)), "a.jsonl")
    assert [replace(q, where="") for q in tree.examples] == [replace(q, where="") for q in lines.examples]
    assert [q.id for q in tree.examples] == ["q1", "q2", "q3", "q4", "5"]
    assert tree.examples[0].where == "data[0].paragraphs[0].qas[0]" and lines.examples[1].where == "line 2"
    assert tree.examples[1].answers == (Answer("Rome", 15), Answer("in Rome", 6)) and tree.examples[3].answers == ()
    assert tree.describe().endswith("a.json: 5 questions about 1 texts, 2 without an answer")
    assert of(tmp_path, squad(one(answers=...)), labelled=False).examples[0].answers is None
    assert of(tmp_path, squad(one(id=...))).examples[0].id == "0"


BROKEN = [
    (one(answers=[{"text": "Rome", "answer_start": 14}]), r'answers\[0\], "Rome", begins at 15, not 14.*at 14.*" Rom"'),
    (one(answers=[{"text": "Rome", "answer_start": -1}]), r'"Rome", begins at 9, not -1'),
    (one(answers=[ONE["answers"][0], {"text": "Oslo", "answer_start": 9}]), r'answers\[1\], "Oslo", is nowhere in the'),
    (one(answers=[{"text": " ", "answer_start": 2}]), r"answers\[0\] is empty; a question without"),
    (one(answers=[{"text": "Rome", "answer_start": "9"}]), r'answers\[0\] is .*expected \{"text"'),
    (one(answers=[7]), r'answers\[0\] is 7, expected \{"text"'),
    (one(answers="Rome"), r'"answers" is "Rome", expected a list'),
    (one(answers=...), r'"answers" is null, expected a list'),
    (one(answers={"text": ["a"], "answer_start": []}), r'"answers": 1 texts and 0 starts'),
    (one(is_impossible=True), r'"is_impossible" is true, but there are answers'),
    (one(question=...), r'"question": is missing'),
    (one(question=None), r'"question": null is no string'),
    (one(context="\ud800"), r'"context": half a surrogate pair'),
]


@pytest.mark.parametrize(("record", "said"), BROKEN)
def test_what_is_wrong_is_told_with_its_place_and_id(tmp_path, record, said):
    with pytest.raises(FileError, match=rf'a.json: data\[0\].paragraphs\[1\].qas\[0\] \(id "q1"\): .*{said}') as caught:
        of(tmp_path, squad(one(id="q0"), record))
    assert "\n" not in str(caught.value)
    with pytest.raises(FileError, match=rf'a.jsonl: line 2 \(id "q1"\): .*{said}'):
        of(tmp_path, json.dumps(one(id="q0")) + "\n" + json.dumps(record), "a.jsonl")
    left = of(tmp_path, squad(one(id="q0"), record), broken="skip")
    assert len(left) == 1 and left.describe().endswith("1 left out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"a.json: line 1, column 1: not JSON"),
        (squad(one())[:90], r"a.json: line 1, column \d+: not JSON .*is it cut off\?"),
        (json.dumps(one()) + "\n" + json.dumps(one()), r"line 2, column 1: not JSON .*an object a line is .jsonl"),
        ("[1]", r'a.json: the whole: no list "data", found list; expected SQuAD'),
        (json.dumps(one()), r'the whole: no list "data", found "id", "question"'),
        ('{"data": [{"paragraphs": [3]}]}', r"data\[0\].paragraphs\[0\]: 3 is no object"),
        ('{"data": []}', r"a.json: no question in it, expected SQuAD"),
        (squad(one(), one()), r'qas\[0\] \(id "q1"\): this id is there twice'),
        (
            squad(one(answers=[7]), one(answers=[8])),
            r"\(and 1 more problem, next at data\[0\].paragraphs\[1\].qas\[0\]",
        ),
        (b'{"data": "\xff"}', r"a.json: line 1: not UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, said):
    with pytest.raises(FileError, match=said):
        of(tmp_path, text)


# ---- the official score, on cases of its definition ----


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver broncos"], 1, 1),
        ("a  cat", ["An Cat"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("theatre", ["the atre"], 0, 0),  # an article is a whole word
        ("U.S.", ["US"], 1, 1),
        ("well-known", ["well known"], 0, 0),  # the sign goes, and nothing takes its place
        ("café—bar", ["café bar"], 0, 0),  # a dash beyond ASCII is a letter
        ("b b a b", ["b b c"], 0, 2 / 3),  # "a" is an article; each word as often as both have it
        ("x", ["y", "x z", "x"], 1, 1),
        ("", [], 1, 1), ("x", [], 0, 0), ("", ["x"], 0, 0), ("the", [], 1, 1),
        ("the", ["The"], 1, 1), ("x", ["The", "x"], 1, 1), ("", ["The", "x"], 0, 0),
    ],
)  # fmt: skip
def test_the_official_score_of_cases(answer, truths, exact, f1):
    assert best_over(exact_match, answer, truths) == exact
    assert best_over(word_f1, answer, truths) == pytest.approx(f1)


SAID = st.lists(st.sampled_from(["the", "a", "A", "cat", "Cat.", "dog", "--", "U.S."]), max_size=6).map(" ".join)


@given(SAID, SAID)
def test_the_score_is_symmetric_and_f1_is_at_least_the_exact_match(one, two):
    assert 0 <= word_f1(one, two) <= 1 and word_f1(one, two) == pytest.approx(word_f1(two, one))
    assert word_f1(one, two) >= exact_match(one, two) and word_f1(one, one) == exact_match(one, one) == 1
    assert (word_f1(one, two) == pytest.approx(1)) == (
        sorted(normalized(one).split()) == sorted(normalized(two).split())
    )


# ---- windows and targets ----


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 60))
def test_windows_cover_all_and_share_what_was_asked_for(length, room, stride):
    windows = windows_of(length, room, stride)
    assert windows[0][0] == 0 and windows[-1][1] == length and all(0 <= b - a <= room for a, b in windows)
    shared = [b - c for (_, b), (c, _) in pairwise(windows)]
    assert set(shared) <= {min(stride, room // 2)}
    assert len(windows) == 1 or windows[-2][1] < length


@st.composite
def asked(draw):
    """A question about a context with some stretch of it as the answer."""
    context = draw(words_text.map(" ".join) | any_text)
    visible = [n for n, c in enumerate(context) if not c.isspace()]
    if not visible:
        return Question("q", draw(any_text), context, ())
    start = draw(st.sampled_from(visible))
    end = draw(st.sampled_from([n + 1 for n in visible if n >= start]))
    return Question("q", draw(any_text), context, (Answer(context[start:end], start),))


@given(asked(), st.sampled_from(TOKENIZERS), st.integers(8, 60), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_targets_cover_the_answer_with_as_few_pieces_as_can_be(question, tokenizer, max_length, stride):
    task = AnswerTask(max_length=max_length, stride=stride, max_question_length=3)
    rows = task.features(tokenizer, [question])
    pair = tokenizer([(question.question, question.context)], padding=False)
    if len(rows) == 1 and not task.cut:
        assert (rows[0].ids, rows[0].types) == (pair.input_ids[0], pair.token_type_ids[0])
    for row in rows:
        first, spans = row.more
        assert len(row.ids) <= max_length and row.ids[first + len(spans) :] == [tokenizer.sep_id]
        assert row.types == [0] * first + [1] * (len(spans) + 1) and row.ids[first - 1] == tokenizer.sep_id
        if row.target not in ((0, 0), (NOT_COUNTED, NOT_COUNTED)):
            a, b = (place - first for place in row.target)
            answer = question.answers[0]
            touched = [n for n, (s, e) in enumerate(spans) if s < e and s < answer.end and e > answer.start]
            assert (a, b) == (touched[0], touched[-1])
            assert spans[a][0] < answer.start + len(answer.text) and spans[b][1] > answer.start
    if len(rows) == 1 and question.answers and not task.counts["answers without pieces"]:
        assert rows[0].target != (0, 0)
    batch = task.batch(rows, tokenizer.pad_id)
    assert batch["start_positions"].shape == (len(rows),) and (batch["end_positions"] >= batch["start_positions"]).all()


def test_a_window_that_holds_part_of_the_answer_points_at_cls():
    assert target_of(range(4, 7), 0, 6, 5) == (0, 0) == target_of(range(4, 7), 5, 9, 5) == target_of(range(0), 0, 6, 5)
    assert target_of(range(4, 7), 2, 7, 5) == (7, 9)


def test_an_answer_inside_a_piece_is_that_piece_and_one_without_pieces_is_not_counted():
    task, tokenizer = AnswerTask(), WordPieceTokenizer("v", data=b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld")
    context = "hello \x01 world"
    questions = [Question("", "hello", context, (Answer(text, at),)) for text, at in (("ell", 1), ("\x01", 6))]
    inside, without = task.features(tokenizer, questions)
    assert inside.target == (3, 3) and without.target == (NOT_COUNTED, NOT_COUNTED)
    assert task.counts["answers without pieces"] == 1
    config = replace(tiny_config(vocab_size=7), **task.changes())
    model = AlbertForQuestionAnswering(config).eval()
    loss = [model(**task.batch(rows, 0)).loss.item() for rows in ([inside], [inside, without])]
    assert loss[0] == pytest.approx(loss[1])


def test_a_question_is_cut_and_a_window_too_small_is_refused():
    task = AnswerTask(max_length=12, max_question_length=4, stride=2)
    rows = task.features(TOKENIZERS[1], [("a b c a b c", "hello world " * 9)])
    assert task.cut == 1 and task.counts["contexts in windows"] == 1 and {row.more.first for row in rows} == {6}
    assert [len(row.more.spans) for row in rows] == [5, 5, 5, 5, 5, 3] and rows[0].target is None
    with pytest.raises(InputError, match="7 leaves no room for the context: question 0 has 4 pieces"):
        AnswerTask(max_length=7, max_question_length=4).features(TOKENIZERS[1], [("a b c a b c", "hello")])
    with pytest.raises(InputError, match="n_best=0 must be at least 1"):
        AnswerTask(n_best=0)
    with pytest.raises(InputError, match="stride=-1"):
        AnswerTask(stride=-1)


def test_settings_make_the_same_task_again():
    task = AnswerTask(max_length=100, stride=7, no_answer=True, threshold=1.5, n_best=3)
    told = json.loads(json.dumps(task.settings))
    assert told.pop("task") == "answer" and AnswerTask(labels=(), **told).settings == task.settings


# ---- the best span ----

LOGITS = st.lists(st.floats(-9, 9, width=16), min_size=3, max_size=14)


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_the_best_spans_are_those_of_trying_all(data, longest, n, first):
    start = np.array(data.draw(LOGITS))
    end = np.array(data.draw(st.lists(st.floats(-9, 9, width=16), min_size=len(start), max_size=len(start))))
    widths = data.draw(
        st.lists(st.integers(0, 2), min_size=max(len(start) - first - 1, 0), max_size=len(start) - first)
    )
    edges = np.cumsum([0, *widths]).tolist()
    spans = list(pairwise(edges))
    ours = best_spans(start, end, Window(first, spans), longest, n)
    every = {}
    for i, j in product(range(len(spans)), repeat=2):
        if i <= j < i + longest and widths[i] and widths[j]:
            every[spans[i][0], spans[j][1]] = start[first + i] + end[first + j]
    assert [span.score for span in ours] == pytest.approx(sorted(every.values(), reverse=True)[:n])
    assert all(every[span.start, span.end] == pytest.approx(span.score) for span in ours)
    assert len({span[1:] for span in ours}) == len(ours)


def logits(row, marks):
    """Start and end logits of 0, but for {(start or end, position): value}."""
    out = np.zeros((2, len(row.ids)), np.float32)
    for (side, place), value in marks.items():
        out[side, place] = value
    return out


def test_nothing_but_the_context_answers_and_the_text_is_cut_out_of_it():
    task, context = AnswerTask(max_answer_length=2), "Hello,  WORLD unwanted."
    (row,) = task.features(TOKENIZERS[1], [("a b c", context)])
    first, last = row.more.first, len(row.ids) - 1
    outside = {(side, place): 50 for side in (0, 1) for place in (*range(first), last)}
    said = logits(row, outside | {(0, first + 2): 5, (1, first + 3): 4, (1, first + 5): 9})
    (told,) = task.predictions([("a b c", context)], [row], [said])
    assert (told["answer"], told["start"], told["end"]) == ("WORLD un", 8, 16)
    assert told["answer"] == context[8:16] and told["no_answer"] is None and len(told["best"]) <= 20
    assert sum(entry["probability"] for entry in told["best"]) == pytest.approx(1)
    assert all(entry["text"] == context[entry["start"] : entry["end"]] for entry in told["best"])
    assert json.loads(json.dumps(told)) == told


def test_windows_are_compared_by_their_logits():
    task, context = AnswerTask(max_length=10, stride=2, no_answer=True, threshold=3.0), "hello world a b c " * 3
    rows = task.features(TOKENIZERS[1], [("a", context)])
    assert len(rows) > 2
    said = [logits(row, {(0, 0): 5 + n, (1, 0): 2}) for n, row in enumerate(rows)]
    said[1][0, rows[1].more.first] = said[1][1, rows[1].more.first] = 2
    (told,) = task.predictions([("a", context)], rows, said)
    assert told["no_answer"] == pytest.approx(5 + 2 - 4) and told["start"] == rows[1].more.spans[0][0]
    assert told["answer"] == context[told["start"] : told["end"]] and told["best"][0]["text"] == ""
    task.threshold = 2.9
    assert task.decided(told)["answer"] == "" and task.decided(told)["start"] is None
    assert task.decided(told)["probability"] == told["best"][0]["probability"] > 0.9


@pytest.mark.parametrize("no_answer", [False, True])
def test_a_context_without_pieces_has_no_answer(no_answer):
    task = AnswerTask(no_answer=no_answer)
    examples = [Question("q", "a", context, ()) for context in ("", " \x01 ")]
    rows = task.features(TOKENIZERS[1], examples)
    told = task.predictions(examples, rows, [logits(row, {}) for row in rows])
    assert [prediction["answer"] for prediction in told] == ["", ""] and told[0]["probability"] == 1.0
    assert json.dumps(told, allow_nan=False) and task.scores(examples, told)["f1"] == 1.0 == task.floor([], examples)


# ---- no answer ----

CASES = st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_the_tuned_threshold_is_the_best_there_is(cases):
    """Each case: by how much no answer wins, is there an answer, would the model's be right."""
    task, examples, told = AnswerTask(no_answer=True), [], []
    for number, (wins, there, right) in enumerate(cases):
        examples.append(Question(str(number), "?", "yes no", (Answer("yes", 0),) if there else ()))
        text = "yes" if right else "no"
        best = [{"text": text, "start": 0, "end": 1, "score": 0.0, "probability": 0.5}]
        nothing = {"text": "", "start": None, "end": None, "score": float(wins), "probability": 0.5}
        told.append({"id": str(number), "no_answer": float(wins), "best": [*best, nothing]})

    def f1(threshold):
        task.threshold = threshold
        return task.scores(examples, [task.decided(each) for each in told])["f1"]

    threshold, promised = best_threshold(examples, told)
    assert f1(threshold) == pytest.approx(promised)
    assert promised == pytest.approx(max(f1(option / 2) for option in range(-14, 15)))
    decided = task.tune(examples, told)
    scores = task.scores(examples, decided)
    assert task.tuned == {"threshold": threshold, "tuned_on": "dev"}
    assert task.threshold == threshold and scores["f1"] == pytest.approx(scores["best_f1"])
    parts = [scores[which] for which in ("answerable", "unanswerable")]
    assert sum(part["f1"] * part["questions"] for part in parts) == pytest.approx(scores["f1"] * len(cases))
    assert task.floor([], examples) == pytest.approx(sum(not there for _, there, _ in cases) / len(cases))


def test_scores_need_answers():
    with pytest.raises(InputError, match="question 'q' has no known answer"):
        AnswerTask().scores([Question("q", "a", "b")], [{"answer": "b"}])


# ---- transformers, and learning ----


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_transformers_loads_the_directory_to_the_same_logits(tmp_path, family):
    tokenizer, task = TOKENIZERS[family == "bert"], AnswerTask(max_length=20, stride=4)
    make = tiny_config if family == "albert" else tiny_bert
    old = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}  # of a task that it was trained for before
    config = make(vocab_size=len(tokenizer), max_position_embeddings=20, initializer_range=0.5, **old)
    model = AlbertForQuestionAnswering(replace(config, **task.changes())).eval().double()
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(theirs).__name__.lower() == f"{family}forquestionanswering"
    question = Question("q", "a b", "hello world unwanted running " * 3, (Answer("hello", 0),))
    batch = task.batch(task.features(tokenizer, [question]), tokenizer.pad_id)
    with torch.no_grad():
        ours, other = model(**batch), theirs(**batch)
    real = batch["attention_mask"] == 1
    assert len(real) > 1
    for mine, his in ((ours.start_logits, other.start_logits), (ours.end_logits, other.end_logits)):
        assert (mine - his)[real].abs().max() < 1e-10
    assert abs(ours.loss - other.loss) < 1e-10


COLOURS, NUMBERS, OTHERS = ("red", "blue", "green"), ("one", "two", "three"), ("the", "and", "saw", "of", "was")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "colour", "number", *COLOURS, *NUMBERS, *OTHERS, "##s"]


def riddle(draw, kinds):
    """A context with at most one run of colours and one of numbers; which of the two is asked for."""
    parts = [[draw.choice(OTHERS) for _ in range(draw.randint(1, 4))] for _ in range(3)]
    runs = {
        "colour": [draw.choice(COLOURS) + "s" * draw.randint(0, 1) for _ in range(draw.randint(1, 2))],
        "number": [draw.choice(NUMBERS) for _ in range(draw.randint(1, 2))],
    }
    order, asked = draw.sample(list(runs), k=draw.choice(kinds)), draw.choice(list(runs))
    words = [*parts[0], *(word for kind, part in zip(order, parts[1:], strict=False) for word in (*runs[kind], *part))]
    context, answer = " ".join(words), " ".join(runs[asked])
    answers = (Answer(answer, f" {context} ".index(f" {answer} ")),) if asked in order else ()
    return Question("", asked, context, answers)


@pytest.mark.parametrize("no_answer", [False, True])
def test_a_tiny_model_learns_to_answer(no_answer):
    draw = random.Random(0)
    train, dev = ([riddle(draw, [1, 2] if no_answer else [2]) for _ in range(n)] for n in (500, 100))
    tokenizer = WordPieceTokenizer("vocab.txt", data="\n".join(VOCABULARY).encode())
    task = AnswerTask(max_length=18, stride=6, no_answer=no_answer)
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tiny_config(
        vocab_size=len(VOCABULARY), intermediate_size=64, initializer_range=0.1, max_position_embeddings=18, **sizes
    )
    model = AlbertForQuestionAnswering(replace(config, **task.changes()))
    rows = task.features(tokenizer, train)
    assert task.counts["contexts in windows"] > 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1 - step / 250))
    for step in range(250):
        batch = task.batch([rows[(step * 32 + k) % len(rows)] for k in range(32)], tokenizer.pad_id)
        task.loss(model(**batch), batch).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    rows = task.features(tokenizer, dev)
    with torch.no_grad():
        said = task.read(model.eval()(**task.batch(rows, tokenizer.pad_id)), rows)
    scores = task.scores(dev, task.tune(dev, task.predictions(dev, rows, said)))
    assert scores["f1"] > 0.9 > task.floor(train, dev) + 0.2 and scores["exact_match"] > 0.85
