"""The benchmark runs, its numbers are numbers, and the two sides compute the same. No time is asserted anywhere."""

import argparse
import json
import math
import sys

import pytest
import torch

from minialbert.cli import speed
from minialbert.errors import InputError, NameUnknown
from minialbert.heads import IGNORED
from minialbert.tools import bench as module
from minialbert.tools import bench_training as training
from minialbert.tools.bench import ROWS, TOLERANCE, bench, sentences
from minialbert.tools.bench_measuring import compare, interleave
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
    return bench(rows=["corpus", "dense", "bfloat16", "training", "layer-k"], quick=True)


def test_every_row_has_finite_numbers_and_a_verdict(found):
    names = [row["name"] for row in found["rows"]]
    expected = {"corpus, padded", "corpus, sorted", "dense 2 x 16, packed.py", "dense 2 x 16, model.py",
                "dense 2 x 16, transformers", "training 2 x 16", "layer 1 alone", "layer 2 alone"}  # fmt: skip
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
    trained = any(row["name"] == "training 2 x 16, bfloat16" for row in found["rows"])
    assert trained == measured != any(line.startswith("training, bfloat16: left") for line in found["left out"])


def test_a_cpu_without_bfloat16_leaves_its_row_out(monkeypatch):
    for where in (module, training):
        monkeypatch.setattr(where, "fast_bfloat16", lambda: False)
    found = bench(rows=["bfloat16", "training"], quick=True)
    assert [row["name"] for row in found["rows"]] == ["training 2 x 16"]
    assert all("AVX512-BF16" in line for line in found["left out"]) and len(found["left out"]) == 2


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
    assert "error: corpus, padded, corpus, sorted: the sides differ" in capsys.readouterr().err


def test_without_transformers_its_side_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert run("--quick", "--rows", "corpus", "dense", "training", "import") == 0
    told = capsys.readouterr()
    assert "transformers is not installed" in told.err
    assert "dense 2 x 16, packed.py" in told.out and "dense 2 x 16, transformers" not in told.out
    rows = [
        line.split()
        for line in told.out.splitlines()
        if line.startswith(("corpus, padded", "training 2 x 16 ", "import"))
    ]
    assert len(rows) == 3 and all("-" in row for row in rows)


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


# ---- training ----


FAMILIES = pytest.mark.parametrize(
    "config",
    [tiny_config(hidden_dropout_prob=0.3), tiny_bert(attention_probs_dropout_prob=0.3)],
    ids=["albert", "bert"],
)


@FAMILIES
def test_one_step_of_training_leads_to_the_same_weights_in_float64(config):
    ours, theirs = training.sides(config, 3, 12)
    for side in (ours, theirs):
        side.model.double()
    before = [w.detach().clone() for w in theirs.model.parameters()]
    found = training.differences(ours, theirs, torch.float64)
    assert found["difference of losses"] < 1e-12 and found["difference of updates"] < 1e-10, found
    moved = [not torch.equal(w, old) for w, old in zip(theirs.model.parameters(), before, strict=True)]
    assert all(moved), "every parameter of theirs has been trained"


@FAMILIES
def test_both_sides_are_trained_by_the_same_optimizer_without_dropout(config):
    ours, theirs = training.sides(config, 3, 12)
    for side in (ours, theirs):
        assert side.model.training
        assert not any(m.p for m in side.model.modules() if isinstance(m, torch.nn.Dropout))
    mine, other = (side.optimizer.param_groups for side in (ours, theirs))
    assert [{k: x for k, x in group.items() if "param" not in k} for group in mine] == [
        {k: x for k, x in group.items() if "param" not in k} for group in other
    ]
    for a, b in zip(mine, other, strict=True):
        assert sorted(w.shape for w in a["params"]) == sorted(w.shape for w in b["params"])


def test_both_sides_are_asked_for_the_same_words_and_none_is_padding():
    B, T = 4, 40
    ours, theirs = training.batch(tiny_config(max_position_embeddings=T), B, T)
    positions, mask = ours["masked_positions"], ours["attention_mask"]
    assert mask.sum(1).tolist() == [40, 40, 40, 30] and bool(mask.gather(1, positions).all())
    assert torch.equal(theirs["labels"].gather(1, positions), ours["labels"])
    asked = (theirs["labels"] != IGNORED).sum(1)
    assert asked.tolist() == [6, 6, 6, 4] and positions.shape == (B, 6), "15 % of the words"
    assert torch.equal(ours["sentence_order_label"], theirs["sentence_order_label"])


@pytest.mark.parametrize("part", ["albert.pooler.weight", "albert.embeddings.word_embeddings.weight"])
def test_a_step_that_differs_is_a_failure(monkeypatch, capsys, part):
    honest = training.their_model

    def changed(model):
        theirs = honest(model)
        with torch.no_grad():
            theirs.get_parameter(part)[0, 0] += 0.05
        return theirs

    monkeypatch.setattr(training, "their_model", changed)
    assert run("--quick", "--rows", "training") == 1
    assert "error: training 2 x 16" in capsys.readouterr().err


def test_a_step_that_leaves_out_a_part_of_the_work_is_a_failure(monkeypatch, capsys):
    honest = training.batch

    def changed(*given):
        ours, theirs = honest(*given)
        return ours, {name: x for name, x in theirs.items() if name != "token_type_ids"}

    monkeypatch.setattr(training, "batch", changed)
    assert run("--quick", "--rows", "training") == 1
    assert "error: training 2 x 16" in capsys.readouterr().err


# ---- numbers ----


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
    assert list(ROWS) == ["corpus", "dense", "bfloat16", "layer-k", "training", "import", "tokenize"]
