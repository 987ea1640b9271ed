"""Which task a file is for, or a trained model: the names of all tasks, and how each is read.

task.py says what a task is. A model that was fine-tuned here has its task in config.json; of another one the class and
the kind of labels tell it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minialbert.config import AlbertConfig
from minialbert.convert.filling import fill
from minialbert.convert.reading import check_vocabulary
from minialbert.convert.sources import opened
from minialbert.errors import CheckpointError, InputError
from minialbert.finetune import choose, questions
from minialbert.finetune.answer import AnswerTask
from minialbert.finetune.choose import ChooseTask
from minialbert.finetune.classify import ClassifyTask, MultilabelTask, RegressTask, TextTask, balanced
from minialbert.finetune.columns import KINDS as COLUMNS
from minialbert.finetune.columns import read_tags, sentence_of
from minialbert.finetune.data import LABELS, PAIRS, SINGLES, Example, Like, read_data
from minialbert.finetune.rows import text_of
from minialbert.finetune.tag import TagTask
from minialbert.finetune.task import TASK, Task
from minialbert.tokenizers import Tokenizer

CLASSES: tuple[type[Task], ...] = (ClassifyTask, MultilabelTask, RegressTask, TagTask, AnswerTask, ChooseTask)
TASKS: dict[str, type[Task]] = {cls.name: cls for cls in CLASSES}
TEXTS = ("classification", "multilabel", "regression")  # those that data.py reads
TAGGED = set(COLUMNS) - {".txt", ".tsv"}  # these two may be anything: --task tag says so
LABELLED = (ClassifyTask, MultilabelTask, TagTask)
LENGTHS = {"answer": 384}  # max_length where 128 is too short; never more than the model has positions


def read(
    path: str | Path, task: str | None = None, *, like: Any = None, labelled: bool = True, **columns: Any
) -> Any:  # fmt: skip
    """The examples of a file, for a task or for the one that the file is for.

    like: what was read to train on; task and labels are then its own. columns: `columns` and `separator` of
    data.read_data. Raises InputError, and FileError that names the line.
    """
    task = task or kind_of(path)
    if task not in (None, *TASKS):
        raise InputError(f"task={task!r} must be one of {', '.join(TASKS)}")
    columns = {name: value for name, value in columns.items() if value is not None}
    if columns and task in ("tag", "answer", "choice"):
        raise InputError(f"{path}: --{next(iter(columns))} is for tables of texts, this is a file for the task {task}")
    if task == "tag":
        refuse_table(path)
        return read_tags(path, like=like, labelled=labelled)
    if task == "answer":
        return questions.read_questions(path, labelled=labelled)
    if task == "choice":
        return choose.read_questions(path, labelled=labelled)
    return read_data(path, task, like=like, labelled=labelled, **columns)


def read_for(ref: str | Path, task: Task, path: str | Path, *, labelled: bool = True, **columns: Any) -> Any:
    """The examples of a file, for a model that was tuned on a task; what `read` raises, and what does not fit it."""
    if (kind := kind_of(path)) not in (None, task.name) and (task.name not in TEXTS or kind == "tag"):
        raise InputError(f"{path}: is a file for the task {kind}, {ref} was tuned for {task.name}")
    like = Like(str(ref), task.name, task.labels, task.paired) if isinstance(task, TextTask) else None
    return read(path, task.name, like=like, labelled=labelled, **columns)


def refuse_table(path: str | Path) -> None:
    """Raises InputError for a .tsv of labelled texts, which could be taken for words and tags."""
    if ".tsv" not in Path(path).suffixes:
        return
    names = [cell.strip().lower() for cell in text_of(path, (".tsv",))[1].partition("\n")[0].split("\t")]
    if set(names) & set(LABELS) and set(names) & {*SINGLES, *(name for pair in PAIRS for name in pair)}:
        told = ", ".join(names)
        raise InputError(
            f"{path}: is a table of texts ({told}); the task tag reads a word and its tag a line, no header"
        )


def kind_of(path: str | Path) -> str | None:
    """The task by the file's ending and, in JSON, by its keys; None for a table of texts, whose labels decide."""
    endings = [ending for ending in Path(path).suffixes if ending not in (".gz", ".xz")]
    ending = endings[-1].lower() if endings else ""
    if ending in TAGGED:
        return "tag"
    if ending == ".json":
        return "answer"
    if ending == ".jsonl":
        first = next((line for line in text_of(path, (".jsonl",))[1].split("\n") if line.strip()), "")
        try:
            keys = set(json.loads(first))
        except (ValueError, TypeError):
            return None  # whoever reads it says what is wrong
        if "choices" in keys:
            return "choice"
        if {"question", "context"} <= keys:
            return "answer"
    return None


def task_for(data: Any, positions: int, max_length: int | None = None, **settings: Any) -> Task:
    """The task of data to train on, for a model of so many positions.

    settings: those of the task's class; class_weights="balanced" makes rare labels count more.
    """
    name = task_name(data)
    length = min(positions, LENGTHS.get(name, 128)) if max_length is None else max_length
    if not 4 <= length <= positions:
        what = f"the model has P={positions} positions" if length > 4 else "[CLS], two [SEP] and one piece need 4"
        raise InputError(f"--max-length (max_length) {length}: {what}")
    if settings.pop("class_weights", None) == "balanced":
        if name != "classification":
            raise InputError(f"--class-weights (class_weights) is for classification, this is {name}")
        settings["weights"] = balanced(data.labels, data.examples)
    if name == "answer" and data.without:
        settings.setdefault("no_answer", True)
    if name in TEXTS:
        settings["paired"] = data.paired
    return TASKS[name](labels=getattr(data, "labels", ()), max_length=length, **settings)


def task_name(data: Any) -> str:
    """The task that data was read for."""
    if (name := getattr(data, "task", None)) is not None:
        return name
    return {"TagData": "tag", "QuestionData": "answer"}.get(type(data).__name__, "choice")


def task_of(config: AlbertConfig, path: str | Path = "the model") -> Task:
    """The task that a model was fine-tuned for, from its configuration. Raises CheckpointError when it has none."""
    kept = config.extra.get(TASK)
    labels = _names(config)
    if isinstance(kept, dict) and kept.get("task") in TASKS:
        settings = {name: value for name, value in kept.items() if name != "task"}
        try:
            return TASKS[kept["task"]](labels=labels, **settings)
        except TypeError:
            raise CheckpointError(f"{path}: its {TASK} {kept} is of another version") from None
    made_for = " ".join(config.extra.get("architectures") or ())
    name = {"SequenceClassification": _kind_of_labels(config), "TokenClassification": "tag",
            "QuestionAnswering": "answer", "MultipleChoice": "choice"}.get(made_for.partition("For")[2])  # fmt: skip
    if name is None:
        raise CheckpointError(f"{path}: is no fine-tuned model ({made_for or 'no architecture'} in its config.json)")
    return TASKS[name](labels=labels, max_length=min(LENGTHS.get(name, 128), config.max_position_embeddings))


def started(task: Task, ref: str | Path | None, changes: Mapping[str, Any], train: Sequence[Any]) -> Any:
    """A model for a task: the encoder of whatever `load` takes, and the head, new unless the file has this very one.

    A new head is drawn from torch's generator. changes: of the configuration, besides the task's own. A head that was
    trained for other labels, though as many, is not taken over.
    """
    with opened(ref) as source:
        before = AlbertConfig.from_json(source.config)
        model, report, _ = fill(task.head, source, torch.float32, None, {**changes, **task.changes()})
    new = any(name.split(".")[0] in ("classifier", "qa") for name in report.new)
    if not new and isinstance(task, LABELLED) and _names(before) != _names(model.config):
        model.add(model.classifier)
        new = True
    if new:
        task.start(model, train)
    return model


def _names(config: AlbertConfig) -> list[str]:
    """The labels in their order; unnamed ones as `transformers` calls them."""
    labels = config.id2label or {number: f"LABEL_{number}" for number in range(config.num_labels)}
    return [labels[number] for number in sorted(labels)]


def load_tuned(ref: str | Path) -> tuple[nn.Module, Tokenizer, Task]:
    """A fine-tuned model, its tokenizer and its task: of a run of ours, of its model/, or of another library.

    Raises what loading raises, and CheckpointError when the head is not in the file.
    """
    with opened(ref) as source:
        task = task_of(AlbertConfig.from_json(source.config), ref)
        model, report, _ = fill(task.head, source, torch.float32, None, {})
        if report.new:
            raise CheckpointError(f"{ref}: has no head for the task {task.name}; was it fine-tuned?")
        tokenizer = source.tokenizer(config=model.config)
        check_vocabulary(model.config, tokenizer, tokenizer.source)
    return model, tokenizer, task


def _kind_of_labels(config: AlbertConfig) -> str:
    kinds = {"regression": "regression", "multi_label_classification": "multilabel"}
    return kinds.get(config.problem_type or "", "regression" if config.num_labels == 1 else "classification")


def as_examples(task: Task, texts: Iterable[str]) -> Iterator[Any]:
    """Bare texts as examples to predict; a pair has a tab between its texts. Raises InputError where none can be."""
    if isinstance(task, ChooseTask):
        raise InputError("choices come from a .jsonl file (--input), not as bare texts")
    for line, text in enumerate(texts, start=1):
        first, tab, second = text.partition("\t")
        if isinstance(task, TagTask):
            yield replace(sentence_of(text), line=line)
        elif isinstance(task, AnswerTask):
            if not tab:
                raise InputError(f"text {line}: expected a question, a tab, and the text to find the answer in")
            yield questions.Question("", first, second, where=f"line {line}")
        else:
            yield Example(first, second if tab else None, None, line)


def named(example: Any, numbered: bool = True) -> dict[str, Any]:
    """What a prediction is of: its line, where that is known, and its text, pair of texts, or question."""
    where = getattr(example, "where", "").removeprefix("line ")  # of questions in SQuAD's tree it is no line
    line = getattr(example, "line", None) or (int(where) if where.isdecimal() else None)
    texts = {name: getattr(example, name, None) for name in ("text", "pair", "question")}
    found = {"line": line if numbered else None} | texts
    return {name: value for name, value in found.items() if value is not None}
