"""The benchmark runs, its numbers are numbers, and the two sides compute the same. No time is asserted anywhere."""

import argparse
import json
import math
import sys

import pytest

from minialbert.cli import speed
from minialbert.errors import InputError, NameUnknown
from minialbert.tools import bench as module
from minialbert.tools.bench import ROWS, TOLERANCE, bench, compare, interleave, sentences
from tests.conftest import tiny_bert, tiny_config


def run(*arguments: str) -> int:
    top = argparse.ArgumentParser()
    speed.add_commands(top.add_subparsers())
    given = top.parse_args(["bench", *arguments])
    return given.run(given)


def numbers(row: dict) -> list[float]:
    return [row["ratio"], *row["ours"].values(), *row["theirs"].values(), *row["facts"].values()]


@pytest.fixture(scope="module")
def found() -> dict:
    return bench(rows=["corpus", "dense", "bfloat16", "layer-k"], quick=True)


def test_every_row_has_finite_numbers_and_a_verdict(found):
    names = [row["name"] for row in found["rows"]]
    expected = {"corpus, padded", "corpus, sorted", "dense 2 x 16, packed.py", "dense 2 x 16, model.py",
                "dense 2 x 16, transformers", "layer 1 alone", "layer 2 alone"}  # fmt: skip
    assert expected <= set(names)
    for row in found["rows"]:
        assert all(math.isfinite(x) for x in numbers(row)) and row["ratio"] > 0
        assert row["met"] in (True, False) if row["goal"] else row["met"] is None
    assert found["machine"]["matrix products, GFLOP/s"]["median"] > 0


def test_both_sides_compute_the_same_vectors(found):
    row = found["rows"][0]
    assert row["equal"] and row["facts"]["largest difference"] < TOLERANCE


def test_bfloat16_is_measured_or_said_to_be_left_out(found):
    measured = any(row["name"] == "bfloat16" for row in found["rows"])
    assert measured != any(line.startswith("bfloat16: left out") for line in found["left out"])


def test_a_cpu_without_bfloat16_leaves_its_row_out(monkeypatch):
    monkeypatch.setattr(module, "cpu_flags", lambda: ["avx2"])
    found = bench(rows=["bfloat16"], quick=True)
    assert found["rows"] == [] and "AVX512-BF16" in found["left out"][0]


def test_tables_and_json_hold_the_same_rows(capsys):
    assert run("--quick", "--rows", "layer-k") == 0
    table = capsys.readouterr()
    assert "layer 1 alone" in table.out and "<= 0.30" in table.out and "measuring layer-k" in table.err
    assert run("--quick", "--rows", "layer-k", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["layer 1 alone", "layer 2 alone"]


def test_vectors_that_differ_are_a_failure(monkeypatch, capsys):
    honest = module.their_vectors
    monkeypatch.setattr(module, "their_vectors", lambda *given: honest(*given) * 1.001)
    assert run("--quick", "--rows", "corpus") == 1
    assert "error: corpus, padded, corpus, sorted: the vectors differ" in capsys.readouterr().err


def test_without_transformers_its_side_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run("--quick", "--rows", "corpus", "dense", "import") == 0
    told = capsys.readouterr()
    assert "transformers is not installed" in told.err
    assert "dense 2 x 16, packed.py" in told.out and "dense 2 x 16, transformers" not in told.out
    rows = [line.split() for line in told.out.splitlines() if line.startswith(("corpus, padded", "import"))]
    assert len(rows) == 2 and all("-" in row for row in rows)


def test_import_is_timed_in_fresh_processes(monkeypatch):
    spoken = []

    def process(command, **_):
        spoken.append(command[-1])
        return argparse.Namespace(stdout="0.25\n")

    monkeypatch.setattr(module.subprocess, "run", process)
    (row,) = bench(rows=["import"], quick=True)["rows"]
    assert row["ratio"] == 1 and row["met"] is False
    assert len(spoken) == 4 and "import minialbert;" in spoken[0] and "AlbertModel" in spoken[1]


def test_real_texts_with_their_tokenizer(minilm, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"Sentence number {i} is about trains.\n\n" for i in range(8)))
    found = bench(minilm, rows=["tokenize", "layer-k"], texts=str(file), count=4, repeats=2)
    row = found["rows"][0]
    assert row["name"] == "tokenize" and row["facts"] == {"same ids": 1.0} and row["ratio"] > 0
    assert found["corpus"]["texts"] == 4 and not found["left out"]
    assert "at least 9 texts" in bench(minilm, rows=["tokenize"], texts=str(file), repeats=8)["left out"][0]


@pytest.mark.parametrize("config", [tiny_config(project_embeddings=None), tiny_bert()], ids=["albert", "bert"])
def test_both_families_have_the_same_weights_on_both_sides(config, monkeypatch, tmp_path):
    module.AlbertModel(config).eval().save_pretrained(tmp_path)
    monkeypatch.setattr(module, "load", lambda ref: (module.AlbertModel.from_pretrained(ref), None))
    found = bench(tmp_path, rows=["corpus"], count=5, repeats=1)
    assert all(row["equal"] for row in found["rows"])


def test_lengths_are_those_of_sentences_and_always_the_same():
    ids = sentences(2000, V=50, P=512)
    assert 26 < sum(map(len, ids)) / 2000 < 30 and ids == sentences(2000, V=50, P=512)
    assert max(map(len, sentences(200, V=50, P=16))) == 16
    assert max(max(row) for row in ids) < 50


def test_works_take_turns_after_a_round_that_does_not_count():
    order = []
    seconds = interleave({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert "".join(order) == "ababab" and {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_the_rounds_and_meets_its_goal_or_not():
    row = compare("x", [1, 2, 4], "y", [2, 4, 2], ">= 1.5", "texts/s", (10, 10))
    assert row.ours == {"median": 5, "low": 2.5, "high": 10} and row.ratio == 2 and row.met is True
    assert compare("x", [1, 2, 4], "y", [2, 4, 2], "<= 0.4").met is False
    alone = compare("x", [1.0], "y", None, "<= 0.4")
    assert alone.theirs is None and alone.ratio is None and alone.met is None


def test_unusable_arguments_are_refused():
    with pytest.raises(NameUnknown, match="Nearest: corpus"):
        bench(rows=["corpsu"], quick=True)
    with pytest.raises(NameUnknown, match="albert-base-v2"):
        bench(preset="albert-bse-v2")
    with pytest.raises(InputError, match="at least 1"):
        bench(repeats=0)
    with pytest.raises(InputError, match="needs --model"):
        bench(texts="texts.txt")
    with pytest.raises(InputError, match="--threads 0"):
        run("--threads", "0")
    assert list(ROWS) == ["corpus", "dense", "bfloat16", "layer-k", "import", "tokenize"]
