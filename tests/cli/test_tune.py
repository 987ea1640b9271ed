"""finetune, evaluate, predict on small files of every kind, from the shipped model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import minialbert
from minialbert.cli import main
from minialbert.finetune.tasks import TASKS, kind_of, load_tuned

QUICK = ["--epochs", "1", "--batch", "4", "--max-length", "32", "--set", "num_hidden_layers=1"]
TEXTS = [("the king rode his horse to the castle", "old"), ("the server sends a packet to the client", "new"),
         ("the queen wore a golden crown", "old"), ("press the key to start the program", "new"),
         ("a knight with a sword and a shield", "old"), ("the file is stored on the disk", "new")]  # fmt: skip


def written(path, rows, head=""):
    path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    at = tmp_path_factory.mktemp("data")
    told = {"question": "What is red?", "context": "The sky is blue. The barn is red."}
    answer = {"text": "The barn", "answer_start": 17}
    return {
        "classification": written(at / "c.tsv", [f"{b}\t{a}" for a, b in TEXTS], "label\ttext\n"),
        "multilabel": written(at / "m.tsv", [f"{b},x\t{a}" for a, b in TEXTS], "labels\ttext\n"),
        "regression": written(at / "r.tsv", [f"{i / 2}\t{a}\t{b}" for i, (a, b) in enumerate(TEXTS)],
                              "score\tsentence1\tsentence2\n"),
        "tag": written(at / "t.conll", ["Anna B-PER", "lives O", "in O", "New B-LOC", "York I-LOC", "",
                                        "She O", "reads O", "", "Ben B-PER", "sleeps O"]),
        "answer": written(at / "a.jsonl", [json.dumps(told | {"id": i, "answers": [answer]}) for i in "ab"]),
        "choice": written(at / "q.jsonl", [json.dumps({"question": "two and two", "choices": ["four", "red", "up"],
                                                       "answer": 0})] * 3),
    }  # fmt: skip


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    """A run of each task."""
    at = tmp_path_factory.mktemp("runs")
    for task, data in files.items():
        assert run("finetune", data, data, "--output", at / task, *QUICK) == 0
    return at


# ---- every task, from file to prediction ----


@pytest.mark.parametrize("task", TASKS)
def test_a_file_becomes_a_model_that_knows_its_task_and_is_measured_again(task, files, runs, capsys):
    model, _, found = load_tuned(runs / task)
    assert found.name == task and not model.training
    report = json.loads((runs / task / "report.json").read_text())
    capsys.readouterr()
    assert run("evaluate", runs / task, files[task], "--json", "--predictions", runs / f"{task}.jsonl") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    goal = report["goal"]
    assert scores[goal] == pytest.approx(report["scores"][goal], abs=1e-6)
    kept = (runs / task / "predictions.jsonl").read_text().splitlines()
    again = (runs / f"{task}.jsonl").read_text().splitlines()
    assert len(kept) == len(again) == scores.get("examples", len(kept))
    assert run("evaluate", runs / task / "model", files[task]) == 0
    out = capsys.readouterr().out
    assert goal in out and all(len(line) <= 120 for line in out.splitlines())


@pytest.mark.parametrize("task, head", [
    ("classification", "AutoModelForSequenceClassification"), ("regression", "AutoModelForSequenceClassification"),
    ("multilabel", "AutoModelForSequenceClassification"), ("tag", "AutoModelForTokenClassification"),
    ("answer", "AutoModelForQuestionAnswering"), ("choice", "AutoModelForMultipleChoice"),
])  # fmt: skip
def test_transformers_loads_what_was_trained_to_the_same_logits(task, head, runs):
    theirs = getattr(transformers, head).from_pretrained(runs / task / "model").eval()
    ours, tokenizer, found = load_tuned(runs / task)
    batch = {k: torch.as_tensor(v) for k, v in tokenizer([("the king", "a queen rode"), ("a b", "c")]).items()}
    if task == "choice":
        batch = {k: x[None] for k, x in batch.items()}
    with torch.no_grad():
        a, b = ours(**batch), theirs(**batch)
    for mine, other in zip((x for x in a if x is not None), (x for x in b.to_tuple()), strict=True):
        assert (mine - other).abs().max() < 1e-5
    if found.labels:
        assert list(theirs.config.id2label.values()) == list(found.labels)


def test_predictions_come_in_order_one_a_text_from_everywhere(runs, tmp_path, capsys):
    texts = [a for a, _ in TEXTS] * 3 + [""]
    capsys.readouterr()
    assert run("predict", runs / "classification", *texts) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 19 and all(set(row["probabilities"]) == {"new", "old"} for row in rows)
    first, second = (
        [row["probabilities"]["old"] for row in rows[:6]],
        [row["probabilities"]["old"] for row in rows[6:12]],
    )
    assert np.allclose(first, second, atol=1e-6)
    source = written(tmp_path / "in.txt", texts)
    assert run("predict", runs / "classification", "--input", source, "--output", tmp_path / "out.jsonl") == 0
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in again] == [row["label"] for row in rows]
    assert [row["text"] for row in again] == [row["text"] for row in rows] == texts
    assert [row["line"] for row in again] == list(range(1, 20)) and not any("line" in row for row in rows)
    assert run("predict", runs / "tag", "Anna lives in New York.") == 0
    assert run("predict", runs / "answer", "What is red?\tThe sky is blue. The barn is red.") == 0
    tagged, answer = map(json.loads, capsys.readouterr().out.splitlines())
    assert tagged["text"] == "Anna lives in New York." and answer["question"] == "What is red?"
    assert answer["answer"] in "The sky is blue. The barn is red." and answer["answer"]


@pytest.mark.parametrize("task, field, lines", [
    ("classification", "text", range(2, 8)), ("regression", "pair", range(2, 8)), ("choice", "question", (1, 2, 3)),
    ("answer", "question", (1, 2)), ("tag", "words", (1, 7, 10)),
])  # fmt: skip
def test_predictions_for_a_data_file_tell_its_lines_and_its_labels_are_not_looked_at(
    task, field, lines, files, runs, tmp_path, capsys
):
    rows = Path(files[task]).read_text().splitlines()
    if task == "classification":
        rows = [rows[0], *(("" if n % 2 else "odd") + row[3:] for n, row in enumerate(rows[1:]))]
    source = written(tmp_path / Path(files[task]).name, rows)
    capsys.readouterr()
    assert run("predict", runs / task, "--input", source) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["line"] for row in found] == list(lines) and all(field in row for row in found)


def test_what_was_cut_is_told_at_the_end_of_predict_over_all_its_parts(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minialbert.finetune.predict.CHUNK", 2)
    source = written(tmp_path / "in.txt", ["word " * 99, "a", "b", "word " * 99, "c"])
    assert run("predict", runs / "classification", "--input", source) == 0
    assert capsys.readouterr().err == "2 texts are longer than 32 pieces and lose their end (--max-length)\n"


def test_a_directory_of_transformers_is_a_model_to_evaluate_too(files, runs, tmp_path, capsys):
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(runs / "classification" / "model")
    del theirs.config.minialbert_task
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("spiece.model", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((runs / "classification" / "model" / name).read_bytes())
    capsys.readouterr()
    assert run("evaluate", tmp_path / "theirs", files["classification"], "--json") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert run("evaluate", runs / "classification", files["classification"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["confusion"] == scores["confusion"]


# ---- what learns ----


@pytest.mark.parametrize("options, told", [
    (["--lora", "2", "--alpha", "7"], "lora"), (["--lora", "2", "--per-visit", "--lora-maps", "ffn"], "lora"),
    (["--learn", "head", "--weight-decay", "0.5", "--clip", "0"], "head"),
    (["--freeze", "embeddings", "projection"], "embeddings"),
    (["--no-gradient", "1"], "visits"), (["--unshare", "--freeze", "layer 1"], "attention"),
])  # fmt: skip
def test_ways_to_train_less(options, told, files, tmp_path, capsys):
    quick = ["--epochs", "1", "--batch", "4", "--max-length", "16", "--set", "num_hidden_layers=2"]
    assert run("finetune", files["classification"], files["classification"], "--output", tmp_path / "run", *quick,
               *options, "--dtype", "bfloat16", "--class-weights", "balanced", "--patience", "2") == 0  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["plan"]["visits"] == (1 if told == "visits" else 0)
    assert (tmp_path / "run" / "model" / "adapter").exists() == (told == "lora")
    assert (report["plan"]["weight_decay"], report["plan"]["clip"]) == ((0.5, 0.0) if told == "head" else (0.01, 1.0))
    learn = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("embeddings ")).split()[1]
    assert (learn == "0") == (told != "attention"), "nor do the embeddings where early visits have no gradient"
    assert run("predict", tmp_path / "run", "the king") == 0
    if "--alpha" in options:
        adapter = json.loads((tmp_path / "run" / "model" / "adapter" / "adapter.json").read_text())
        assert adapter["alpha"] == 7.0 and report["options"]["alpha"] == 7.0
    if "--per-visit" in options:
        assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["num_hidden_groups"] == 2


def test_layer_3_of_a_shared_block_cannot_be_frozen_and_the_error_says_what_can(files, tmp_path, capsys):
    data = files["classification"]
    assert run("finetune", data, data, "--output", tmp_path / "run", "--freeze", "layer 3") == 1
    assert "layer 3 has no attention weights of its own" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_seeds_are_told_and_drawn_and_the_same_command_finds_it_done(files, tmp_path, capsys):
    data = files["classification"]
    command = ["finetune", data, "--output", tmp_path / "run", *QUICK, "--seeds", "3", "--plot", tmp_path / "p.svg"]
    assert run(*command) == 0
    first = capsys.readouterr()
    assert "no DEV was given: " in first.err and "median " in first.out and "without looking: " in first.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["train"], report["dev"], report["model"]) == (str(data), None, "minialbert-tiny-en")
    assert report["minialbert"] == minialbert.__version__ and str(tmp_path / "run") not in json.dumps(report)
    assert report["options"]["seeds"] == 3 and report["options"]["set"] == ["num_hidden_layers=1"]
    assert report["failed"] < 3 or f"no seed is better than that: {report['advice']}" in first.out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert run(*command) == 0
    assert capsys.readouterr().out == first.out
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert run(*command, "--peak", "0.01") == 1
    assert "go on as it was made, or give a new directory" in capsys.readouterr().err


def test_a_head_for_other_labels_though_as_many_is_not_taken_over(files, runs, tmp_path, capsys):
    other = written(tmp_path / "o.tsv", ["good\tone", "bad\ttwo", "good\tthree", "bad\tfour"], "label\ttext\n")
    start = ["--model", runs / "classification" / "model", *QUICK, "--peak", "0"]
    assert run("finetune", other, other, "--output", tmp_path / "a", *start) == 0
    same = files["classification"]
    assert run("finetune", same, same, "--output", tmp_path / "b", *start) == 0
    kept, new, before = (load_tuned(at)[0].classifier.weight for at in
                         (tmp_path / "b", tmp_path / "a", runs / "classification"))  # fmt: skip
    assert torch.equal(kept, before) and not torch.equal(new, before)


def test_a_threshold_for_no_answer_is_said_to_be_tuned_on_what_it_is_measured_on(tmp_path, capsys):
    told = {"context": "The barn is red.", "question": "What is red?"}
    rows = [told | {"id": "a", "answers": [{"text": "The barn", "answer_start": 0}]}, told | {"id": "b", "answers": []}]
    data = written(tmp_path / "a.jsonl", map(json.dumps, rows))
    assert run("finetune", data, data, "--output", tmp_path / "run", *QUICK) == 0
    page, report = capsys.readouterr(), json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["threshold"] == report["task"]["threshold"] and report["tuned_on"] == "dev"
    assert f"{report['threshold']:.4f}, a threshold tuned on dev, the same questions: it flatters" in page.out
    assert "\nanswerable: 1 questions, exact_match " in page.out and "\nunanswerable: 1 questions, " in page.out


# ---- files and errors ----


def test_a_text_with_two_labels_is_told_with_its_lines(files, tmp_path, capsys):
    data = written(tmp_path / "c.tsv", [*(f"{b}\t{a}" for a, b in TEXTS), f"new\t{TEXTS[0][0]}"], "label\ttext\n")
    assert run("finetune", data, data, "--output", tmp_path / "run", "--max-length", "9000") == 1
    assert "1 texts have several labels in " in (err := capsys.readouterr().err)
    assert "the first at line 2 and line 8\n" in err


def test_the_kind_of_a_file_is_found(files):
    assert {task: kind_of(path) for task, path in files.items()} == {
        "classification": None, "multilabel": None, "regression": None, "tag": "tag", "answer": "answer",
        "choice": "choice",
    }  # fmt: skip


@pytest.mark.parametrize("arguments, told", [
    (["finetune", "{c}", "--output", "{o}", "--seeds", "0"], "--seeds 0 must be at least 1"),
    (["finetune", "{c}", "--output", "{o}", "--per-visit"], "--per-visit is for --lora RANK"),
    (["finetune", "{c}", "--output", "{o}", "--max-length", "9000"], "--max-length (max_length) 9000: the model has"),
    (["finetune", "{c}", "--output", "{o}", "--max-length", "2"], "--max-length (max_length) 2: [CLS], two [SEP]"),
    (["finetune", "{c}", "--output", "{o}", "--dropout", "1"], "--dropout 1.0 must be 0 to below 1"),
    (["finetune", "{c}", "--output", "{o}", "--no-gradient", "7"], "--no-gradient (visits) 7: the layers that can be"),
    (["finetune", "{q}", "{q}", "--output", "{o}", "--no-gradient", "1"], "--no-gradient is not for choices"),
    (["finetune", "{c}", "--output", "{o}", "--lora", "9000"], "--lora (rank) 9000 must be"),
    (["finetune", "{c}", "--output", "{o}", "--lora", "2", "--alpha", "0"], "--alpha (alpha) 0.0"),
    (["finetune", "{c}", "--output", "{o}", "--alpha", "2"], "--alpha is for --lora RANK"),
    (["finetune", "{c}", "--output", "{o}", "--batch", "0"], "--batch 0 must be at least 1"),
    (["finetune", "{c}", "--output", "{o}", "--task", "tag"], "c.tsv: is a table of texts (label, text); the task tag"),
    (["finetune", "{t}", "--output", "{o}", "--columns", "text=a,label=b"], "--columns is for tables of texts"),
    (["finetune", "{r}", "--output", "{o}", "--class-weights", "balanced"], "--class-weights (class_weights) is for"),
    (["finetune", "{c}", "--output", "{o}", "--plot", "p.gif"], ".gif"),
    (["finetune", "missing.tsv", "--output", "{o}"], "missing.tsv"),
    (["finetune", "{c}", "{t}", "--output", "{o}"], "t.conll: expected .tsv, .csv, .jsonl"),
    (["evaluate", "{m}", "{c}"], "is no fine-tuned model"),
    (["predict", "{m}", "text"], "is no fine-tuned model"),
    (["predict", "{run}"], "give either texts or --input F"),
    (["predict", "{run}", "a", "--input", "-"], "give either texts or --input F"),
    (["predict", "{run}", "a", "--output", "a.txt"], "give a name that ends in .jsonl"),
    (["predict", "{run}", "a", "--output", "nowhere/a.jsonl"], "there is no directory nowhere"),
    (["predict", "{answer}", "no tab"], "expected a question, a tab, and the text"),
    (["predict", "{choice}", "a"], "choices come from a .jsonl file"),
    (["evaluate", "{run}", "{t}"], "t.conll: is a file for the task tag, {run} was tuned for classification"),
    (["evaluate", "{run}", "{odd}"], 'odd.tsv: line 2, column "label": "odd" is not among the 2 labels of {run}'),
    (["evaluate", "{run}", "{r}"], "r.tsv: line 2, column \"score\": \"0.0\" is not among"),
    (["evaluate", "{regression}", "{c}"], "c.tsv: line 2, column \"label\": \"old\" is not a number"),
    (["evaluate", "{run}", "{pairs}"], "pairs.tsv: has pairs, but {run} was tuned on single texts"),
    (["predict", "{run}", "--input", "{pairs}"], "pairs.tsv: has pairs, but {run} was tuned on single texts"),
    (["predict", "{run}", "a", "b\tc"], "text 2: is a pair, the model was tuned on single texts"),
    (["predict", "{regression}", "a\tb", "c"], "text 2: is a single text, the model was tuned on pairs"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(arguments, told, files, runs, tmp_path, capsys):
    from minialbert.convert.sources import shipped

    names = {"c": files["classification"], "t": files["tag"], "r": files["regression"], "o": tmp_path / "run"}
    names |= {"odd": written(tmp_path / "odd.tsv", ["odd\tx"], "label\ttext\n"), "q": files["choice"]}
    names |= {"pairs": written(tmp_path / "pairs.tsv", ["old\tx\ty"], "label\tsentence1\tsentence2\n")}
    names |= {"m": shipped(), "run": runs / "classification"}
    names |= {task: runs / task for task in ("regression", "answer", "choice")}
    capsys.readouterr()
    assert run(*(a.format(**names) for a in arguments)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and told.format(**names) in error
    assert not (tmp_path / "run").exists()
