"""Questions about a text: SQuAD's JSON, versions 1.1 and 2.0, or one object a line; and the official score of answers.

Every answer is checked: the text must be what stands at its place in the context. answer.py makes a task of it. Nothing
here knows a model. Source: Rajpurkar et al. 2016, 2018, and the definition of exact match and F1 in their evaluation.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minialbert.errors import FileError
from minialbert.finetune.data import wrong_text
from minialbert.finetune.rows import Problems, json_rows, shown, text_of

FLAT = '{"id": "...", "question": "...", "context": "...", "answers": [{"text": "...", "answer_start": 0}]}'


class Answer(NamedTuple):
    """A stretch of the context: its text, and the character it begins with."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """answers: those that are right, the first one is learnt; () where the context has none; None: not known."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None = None
    where: str = ""  # its place in the file

    @property
    def label(self) -> tuple[Answer, ...] | None:
        """The answers; data.leakage compares them."""
        return self.answers

    @property
    def key(self) -> tuple[str, str]:
        """The same for questions and contexts that differ only in white space and capitals."""
        first, second = (" ".join(text.lower().split()) for text in (self.question, self.context))
        return first, second


@dataclass(frozen=True)
class QuestionData:
    """The questions of one file. left_out: how many had something wrong, where `broken="skip"` allowed it."""

    path: str
    examples: tuple[Question, ...]
    left_out: int = 0
    labels: tuple[str, ...] = ()  # there are none; other data has them

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def without(self) -> int:
        """How many questions have no answer; any makes it version 2."""
        return sum(question.answers == () for question in self.examples)

    def describe(self) -> str:
        """One line: what was found in the file."""
        contexts = len({question.context for question in self.examples})
        about = f"{self.path}: {len(self):,} questions about {contexts:,} texts"
        about += f", {self.without:,} without an answer" * bool(self.without)
        return about + f", {self.left_out:,} left out" * bool(self.left_out)


# ---- reading ----


def read_questions(path: str | Path, *, labelled: bool = True, broken: str = "refuse") -> QuestionData:
    """The questions of a .json file in SQuAD's form, or of a .jsonl file with an object a line (FLAT); also .gz, .xz.

    Answers are a list of {"text", "answer_start"}, or {"text": [...], "answer_start": [...]}; an empty list or
    "is_impossible" says that there is none. Starts count characters (code points), not bytes.
    labelled=False: answers are not looked at (for prediction). broken="skip": questions in which something is wrong are
    left out and counted, instead of refused.
    Raises FileError with the place and id of the first that is wrong, and how many more there are.
    """
    kind, text = text_of(path, (".json", ".jsonl"))
    faults = Faults(path)
    if kind == ".jsonl":
        problems = Problems(path)
        records = [(f"line {line}", cells) for line, cells in json_rows(text, problems)]
        problems.stop()
    else:
        records = list(squad_records(parsed(text, path), faults))
    found, ids, before = [], set[str](), len(faults.found)
    for number, (where, record) in enumerate(records):
        if question := question_of(record, where, str(number), labelled, faults):
            if question.id in ids:
                faults.add(f"{where} (id {shown(question.id)})", "this id is there twice")
            ids.add(question.id)
            found.append(question)
    if broken != "skip" or before:
        faults.stop()
    if not found:
        faults.stop()
        raise FileError(f"{path}: no question in it, expected {'SQuAD' if kind == '.json' else 'an object a line'}")
    return QuestionData(str(path), tuple(found), len(records) - len(found))


class Faults:
    """What is wrong in a file, collected; `stop` raises the first and counts the others."""

    def __init__(self, name: str | Path):
        self.name = name
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def stop(self) -> None:
        if self.found:
            more = len(self.found) - 1
            next_one = self.found[min(more, 1)].split(": ")[0]
            also = f" (and {more} more problem{'s' * (more > 1)}, next at {next_one})" if more else ""
            told = f"{self.name}: {self.found[0]}{also}"
            raise FileError(told.replace("\n", " ").encode(errors="backslashreplace").decode())


def parsed(text: str, path: str | Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        advice = "; an object a line is .jsonl" if error.msg == "Extra data" else "; is it cut off?"
        raise FileError(f"{path}: {where}: not JSON ({error.msg}){advice}") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not JSON of questions ({error}), expected SQuAD") from None


def squad_records(tree: Any, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and record of each question of SQuAD's tree; the record has the context in it."""

    def listed(node: Any, key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        members = node.get(key) if isinstance(node, dict) else None
        if not isinstance(members, list):
            found = ", ".join(map(shown, node)) if isinstance(node, dict) else type(node).__name__
            faults.add(where or "the whole", f'no list "{key}", found {found or "nothing"}; expected SQuAD')
            members = []
        for number, member in enumerate(members):
            place = f"{where}.{key}[{number}]".lstrip(".")
            if isinstance(member, dict):
                yield place, member
            else:
                faults.add(place, f"{shown(member)} is no object")

    for there, article in listed(tree, "data", ""):
        for where, paragraph in listed(article, "paragraphs", there):
            for place, record in listed(paragraph, "qas", where):
                yield place, record | {"context": paragraph.get("context")}


def question_of(record: dict[str, Any], where: str, number: str, labelled: bool, faults: Faults) -> Question | None:
    """A record as a Question; None if something is wrong with it, which is told. Without an id it has its number."""
    identity = record.get("id", number)
    identity = identity if isinstance(identity, str) else json.dumps(identity)
    place = f"{where} (id {shown(identity)})"
    for field in ("question", "context"):
        if wrong := wrong_text(record.get(field)) if field in record else "is missing":
            faults.add(place, f'"{field}": {wrong}')
            return None
    answers = None
    if labelled:
        try:
            answers = answers_of(record)
        except ValueError as error:
            faults.add(place, str(error))
            return None
    return Question(identity, record["question"], record["context"], answers, where)


def answers_of(record: dict[str, Any]) -> tuple[Answer, ...]:
    """The answers of a record, each checked against the context. Raises ValueError, whose words follow the place."""
    listed, impossible = record.get("answers"), record.get("is_impossible") is True
    if listed is None and impossible:
        return ()
    if isinstance(listed, dict) and all(isinstance(listed.get(key), list) for key in ("text", "answer_start")):
        texts, starts = listed["text"], listed["answer_start"]
        if len(texts) != len(starts):
            raise ValueError(f'"answers": {len(texts)} texts and {len(starts)} starts')
        listed = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(listed, list):
        raise ValueError(f'"answers" is {shown(listed)}, expected a list of {{"text", "answer_start"}}')
    if listed and impossible:
        raise ValueError('"is_impossible" is true, but there are answers')
    return tuple(answer_of(answer, record["context"], number) for number, answer in enumerate(listed))


def answer_of(answer: Any, context: str, number: int) -> Answer:
    """One answer that stands in the context where it says. Raises ValueError."""
    text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    if not isinstance(text, str) or type(start) is not int:
        raise ValueError(f'answers[{number}] is {shown(answer)}, expected {{"text": "...", "answer_start": 0}}')
    if not text.strip():
        raise ValueError(f"answers[{number}] is empty; a question without an answer has an empty list")
    if start >= 0 and context[start : start + len(text)] == text:
        return Answer(text, start)
    there = f"at {start} of the context is {shown(context[start : start + len(text)])}" if start >= 0 else f"at {start}"
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not places:
        raise ValueError(f"answers[{number}], {shown(text)}, is nowhere in the context; {there}")
    near = min(places, key=lambda place: abs(place - start))
    raise ValueError(f"answers[{number}], {shown(text)}, begins at {near}, not {start} (count characters); {there}")


# ---- the official score ----

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """An answer as it is compared: small letters, no ASCII punctuation, no articles, single spaces.

    >>> normalized("The  U.S. Army")
    'us army'
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def exact_match(answer: str, truth: str) -> float:
    """1 if both are the same when normalized, else 0."""
    return float(normalized(answer) == normalized(truth))


def word_f1(answer: str, truth: str) -> float:
    """F1 of the words that both have in common, each as often as it occurs; if either has none, 1 if both have none.

    >>> word_f1("the red door", "red")
    0.6666666666666666
    """
    a, b = normalized(answer).split(), normalized(truth).split()
    if not a or not b:
        return float(a == b)
    common = (Counter(a) & Counter(b)).total()
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


def best_over(score: Callable[[str, str], float], answer: str, truths: Sequence[str]) -> float:
    """The highest score over the right answers; those that normalize to nothing do not count, and where none is left
    (a question without an answer) the right answer is "". This is version 2's rule."""
    return max(score(answer, truth) for truth in [truth for truth in truths if normalized(truth)] or [""])
