"""drift and search as commands: from files and shards, as pages and as JSON, with a run on top; errors in one line."""

import gzip
import json
from dataclasses import replace

import pytest
import torch

import minialbert
from minialbert.cli import main
from minialbert.convert.sources import shipped
from minialbert.embed import Embedder
from minialbert.finetune.classify import ClassifyTask
from minialbert.finetune.task import TASK
from minialbert.finetune.tasks import started

PEOPLE, PLACES = ("king", "queen", "knight", "child", "farmer", "horse"), ("castle", "river", "town", "field")
TEXTS = [f"The {who} walked to the {where}." for who in PEOPLE for where in PLACES] + [
    "",
    "Snow fell.",
    "It was night.",
]
QUERY = "Where did the king go?"


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A corpus, its shards, and a run with a pair model."""
    at = tmp_path_factory.mktemp("vectors")
    (at / "corpus.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    (at / "corpus.jsonl").write_text("".join(json.dumps({"id": "x", "body": text}) + "\n" for text in TEXTS))
    assert run("embed", "--input", at / "corpus.txt", "--shards", at / "shards", "--part", "10") == 0
    torch.manual_seed(0)
    model = started(ClassifyTask(["no", "yes"]), None, {"num_hidden_layers": 2}, ())
    model.save_pretrained(at / "run" / "model")
    minialbert.load()[1].save_pretrained(at / "run" / "model")
    alone = ClassifyTask(["no", "yes"], paired=False)
    model.config = replace(model.config, extra=model.config.extra | {TASK: alone.settings})
    model.save_pretrained(at / "alone")
    minialbert.load()[1].save_pretrained(at / "alone")
    return at


def error_of(capsys) -> str:
    """What was said last; it is one line."""
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and sum(line.startswith("error") for line in lines) == 1
    return lines[-1]


# ---- drift ----


def test_a_model_has_not_drifted_from_itself(files, capsys):
    assert run("drift", "minialbert-tiny-en", shipped(), "--input", files / "corpus.txt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "26 texts, mean" and "10 nearest kept" in lines[1]
    for layer, line in enumerate(lines[2:9]):
        assert line.split() == [str(layer), "1.0000", "0.0000", "1.0000", "100%"]
    assert "neighbours" not in "\n".join(lines)


def test_a_run_of_finetune_is_compared_by_its_model_as_a_page_and_as_json(files, capsys):
    arguments = ["drift", "minialbert-tiny-en", files / "run", "--input", files / "corpus.jsonl", "--field", "body"]
    assert run(*arguments, "--neighbours", 3, "--top", 2) == 0
    said = capsys.readouterr()
    assert "6 layers before, 2 after" in said.err and max(map(len, said.out.splitlines())) <= 80
    assert run(*arguments, "--json", "--layers", -1, "--neighbours", 3, "--pooling", "cls", "--top", 1) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pooling"] == "cls" and told["k"] == 3 and told["texts"] == 26
    (row,) = told["layers"]
    assert (row["before"], row["after"]) == (6, 2) and row["cosine"] < 1 and 0 < row["kept"] < 1
    assert len(told["moved"]) == len(told["became"]) == len(told["stopped"]) == 1


ASKED = [{"id": question, "question": question, "answers": []} for question in ("Who slept?", "Who woke?")]
SQUAD = {"data": [{"title": "", "paragraphs": [{"context": "The king slept.", "qas": ASKED}]}]}


@pytest.mark.parametrize("name, content, options, texts", [
    ("a.tsv", "text\tlabel\nOne.\ty\nTwo \"b\".\t\nThree.\tz\n", [], ["One.", 'Two "b".', "Three."]),
    ("a.csv", 'premise,hypothesis,label\n"A, b.",C.,x\nD.,"A, b.",y\n', [], ["A, b.", "C.", "D."]),
    ("a.tsv.gz", "One.\t5\nTwo.\t1\nThree.\t2\n", ["--columns", "text=1"], ["One.", "Two.", "Three."]),
    ("a.conll", "One B-X\n. O\n\nTwo O\n\nAnd O\nthree B-\n", [], ["One .", "Two", "And three"]),
    ("a.json", json.dumps(SQUAD), [], ["The king slept.", "Who slept?", "Who woke?"]),
])  # fmt: skip
def test_the_texts_of_a_data_file_are_compared_whatever_its_labels(name, content, options, texts, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    told = []
    for source in ([path, *options], [tmp_path / "texts.txt"]):
        assert run("drift", shipped(), shipped(), "--layers", 1, "--json", "--input", *source) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["texts"] == 3 and {row["text"] for row in told[0]["moved"]} == set(texts)
    assert told[0]["layers"][0]["kept"] == told[1]["layers"][0]["kept"] == 1


def test_more_texts_than_are_compared_are_told(files, capsys):
    assert run("drift", shipped(), shipped(), "--input", files / "corpus.txt", "--most", 5, "--layers", 0, 6) == 0
    said = capsys.readouterr()
    assert "the first 5 different texts" in said.err and said.out.startswith("5 texts")


# ---- search ----


def test_the_nearest_texts_are_printed_with_their_line_numbers(files, capsys):
    assert run("search", TEXTS[2], TEXTS[9], "--input", files / "corpus.txt", "--top", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == TEXTS[2] and lines[1].split() == ["cosine", "text"]
    assert lines[2].split(maxsplit=2) == ["1.0000", "3", TEXTS[2]] and lines[7].split()[:2] == ["1.0000", "10"]


@pytest.mark.parametrize("options", [[], ["--layer", "cat(1,3)", "--pooling", "cls", "--max-length", 16]])
def test_the_command_finds_what_brute_force_finds(options, files, capsys):
    assert run("search", QUERY, "--input", files / "corpus.txt", "--json", *options) == 0
    told = json.loads(capsys.readouterr().out)
    embed = Embedder(*minialbert.load())
    how = {"layer": "cat(1,3)", "pooling": "cls"} if options else {}
    close = embed([QUERY], normalize=True, **how) @ embed(TEXTS, normalize=True, **how).T
    want = sorted((i for i in range(27) if TEXTS[i]), key=lambda i: (-close[0, i].round(5), i))[:10]
    assert told["query"] == QUERY and [hit["number"] - 1 for hit in told["hits"]] == want
    assert [hit["text"] for hit in told["hits"]] == [TEXTS[i] for i in want]


def test_shards_give_the_same_with_their_texts_or_without(files, capsys):
    told = []
    for where in (["--input", files / "corpus.txt"], ["--shards", files / "shards", "--input", files / "corpus.txt"],
                  ["--shards", files / "shards", "--input", files / "corpus.jsonl", "--field", "body"]):  # fmt: skip
        assert run("search", QUERY, *where) == 0
        said = capsys.readouterr()
        assert "layer 0, mean" in said.err.splitlines()  # what the shipped model says is best for sentences
        told.append(said.out)
    assert told[0] == told[1] == told[2]
    assert run("search", TEXTS[2], "--shards", files / "shards", "--top", 1) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["1.0000", "3"]


def test_a_pair_model_puts_the_best_in_its_order(files, capsys):
    arguments = ["search", QUERY, "--input", files / "corpus.txt", "--rerank", files / "run", "--json"]
    assert run(*arguments, "--label", "yes", "--candidates", 6, "--top", 4) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert run(*arguments, "--label", "no", "--candidates", 6, "--top", 6) == 0
    against = json.loads(capsys.readouterr().out)["hits"]
    assert run("search", QUERY, "--input", files / "corpus.txt", "--json", "--top", 6) == 0
    plain = {hit["number"] for hit in json.loads(capsys.readouterr().out)["hits"]}
    assert len(hits) == 4 and {hit["number"] for hit in against} == plain
    judged = [hit["judged"] for hit in hits]
    assert judged == sorted(judged, reverse=True)
    assert [hit["number"] for hit in hits] == [hit["number"] for hit in against[::-1][:4]]
    assert run(*arguments[:-1], "--label", "yes", "--top", 2) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["yes", "cosine", "text"]


@pytest.mark.parametrize("arguments, words", [
    (["search", "a"], "search where?"), (["search", "a", "--input", "gone.txt"], "gone.txt: no such file"),
    (["search", " ", "--input", "corpus.txt"], "is blank"),
    (["search", "a", "--input", "blank.txt"], "no text to find"),
    (["search", "a", "--input", "corpus.txt", "--layer", "9"], "layers 0..6"),
    (["search", "a", "--input", "corpus.txt", "--top", "0"], "top=0"),
    (["search", "a", "--input", "corpus.txt", "--label", "yes"], "is for --rerank"),
    (["search", "a", "--input", "corpus.txt", "--rerank", "run"], "no, yes (--label)"),
    (["search", "a", "--input", "corpus.txt", "--rerank", "run", "--label", "maybe"], "no label 'maybe'"),
    (["search", "a", "--shards", "shards", "--rerank", "run", "--label", "yes"], "shards have none"),
    (["search", "a", "--shards", "shards", "--max-length", "9"], "--max-length is for texts"),
    (["search", "a", "--shards", "shards", "--model", "run"], "another model"),
    (["search", "a", "--shards", "run"], "not a directory of shards"),
    (["search", "a", "--shards", "shards", "--input", "blank.txt"], "other texts"),
    (["drift", "run", "run", "--input", "blank.txt"], "0 texts"),
    (["drift", "run", "run", "--input", "corpus.txt", "--neighbours", "26"], "from 1 to 25"),
    (["drift", "run", "nothing-here", "--input", "corpus.txt"], "nothing-here"),
    (["drift", "run", "run", "--input", "corpus.txt", "--layers", "7"], "layers 0..2"),
    (["drift", "run", "run", "--input", "corpus.txt", "--columns", "text=1"], "--columns is for tables"),
    (["drift", "run", "run", "--input", "gone.tsv"], "gone.tsv: no such file"),
    (["drift", "run", "run", "--input", "gone.tsv", "--field", "body"], "--field is for .jsonl"),
    (["search", "a", "--input", "corpus.txt", "--rerank", "alone", "--label", "yes"], "tuned on single texts"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_line(arguments, words, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "blank.txt").write_text("\n \n")
    assert run(*arguments) == 1
    assert words in error_of(capsys)
