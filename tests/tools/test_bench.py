"""The benchmark runs, its numbers are numbers, and the two sides compute the same. No time is asserted anywhere."""

import argparse
import json
import math
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from minialbert import AlbertModel, Embedder, load
from minialbert.cli import speed
from minialbert.errors import ConfigError, InputError, NameUnknown
from minialbert.heads import IGNORED
from minialbert.tools import bench as module
from minialbert.tools import bench_files, bench_peers, bench_plot, bench_processes, bench_vectors
from minialbert.tools import bench_training as training
from minialbert.tools.bench import ROWS, bench, sentences
from minialbert.tools.bench_measuring import TOLERANCE, compare, interleave
from minialbert.tools.bench_peers import COMPILED, EAGER, ONNX, OURS_COMPILED, SDPA, SENTENCES, Peers
from minialbert.tools.plot_style import alt_text
from tests.conftest import tiny_bert, tiny_config
from tests.tools.test_plots import misplaced


def run(*arguments: str) -> int:
    top = argparse.ArgumentParser()
    speed.add_commands(top.add_subparsers())
    given = top.parse_args(["bench", *arguments])
    return given.run(given)


def numbers(row: dict) -> list[float]:
    return [row["ratio"], *row["ours"].values(), *row["theirs"].values(), *row["facts"].values()]


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Peers that the tests do not need are not there, installed or not; whoever wants one puts a stand-in."""
    for name in ("onnx", "onnxruntime", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="module")
def found() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench_peers.MAKERS, ONNX, bench_peers.MAKERS[EAGER])
        return bench(rows=["corpus", "dense", "latency", "bfloat16", "training", "layer-k"], quick=True)


def test_every_row_has_finite_numbers_and_a_verdict(found):
    names = [row["name"] for row in found["rows"]]
    expected = {"corpus, padded", "corpus, sorted", "corpus, sorted for onnxruntime", "dense 2 x 16, packed.py",
                "dense 2 x 16, model.py", "dense 2 x 16, transformers, sdpa", "dense 2 x 16, transformers, eager",
                "latency 1 x 28, packed.py", "latency 1 x 28, model.py", "training 2 x 16", "layer 1 alone",
                "layer 2 alone"}  # fmt: skip
    assert expected <= set(names)
    for row in found["rows"]:
        assert all(math.isfinite(x) for x in numbers(row)) and row["ratio"] > 0
        assert row["ratio_spread"][0] <= row["ratio"] <= row["ratio_spread"][1]
        assert row["met"] in (True, False) if row["goal"] else row["met"] is None
    assert found["machine"]["matrix products, GFLOP/s"]["median"] > 0
    assert set(found["seconds taken"]) == {"corpus", "dense", "latency", "bfloat16", "training", "layer-k"}
    assert found["machine"]["peers"]["transformers"] == __import__("transformers").__version__


def test_both_sides_compute_the_same_vectors(found):
    rows = [row for row in found["rows"] if row["name"].startswith("corpus")]
    alone = [row for row in found["rows"] if row["name"].startswith("latency")]
    assert len(rows) == 3 and len(alone) == 4
    assert all(row["equal"] and 0 <= row["facts"]["largest difference"] < TOLERANCE for row in rows + alone)


def test_one_text_is_timed_beside_every_peer(found):
    pairs = [(row["name"], row["peer"]) for row in found["rows"] if row["name"].startswith("latency")]
    packed, model = "latency 1 x 28, packed.py", "latency 1 x 28, model.py"
    assert pairs == [(packed, SDPA), (packed, EAGER), (packed, ONNX), (model, SDPA)]
    assert any("torch.compile left out of --quick" in line for line in found["left out"])


def test_torch_compile_of_both_is_timed_and_one_text_must_give_the_same_vector(monkeypatch, capsys):
    monkeypatch.setattr(module.AlbertConfig, "preset", lambda name: tiny_config())
    monkeypatch.setattr(torch, "compile", lambda model: model)
    rows = bench(rows=["latency"], repeats=1, count=1)["rows"]
    assert [(row["name"].split(", ", 1)[1], row["peer"]) for row in rows] == [
        ("packed.py", SDPA), ("packed.py", EAGER), ("packed.py", COMPILED), ("model.py", SDPA),
        (OURS_COMPILED, COMPILED)]  # fmt: skip
    monkeypatch.setitem(bench_peers.MAKERS, EAGER, lambda peers: lambda ids, mask: torch.ones(1, ids.shape[1], 12))
    assert run("--repeats", "1", "--count", "1", "--rows", "latency") == 1
    assert "error: latency 1 x 16, packed.py: the sides differ" in capsys.readouterr().err


def test_bfloat16_is_measured_or_said_to_be_left_out(found):
    measured = any(row["name"] == "bfloat16" for row in found["rows"])
    assert measured != any(line.startswith("bfloat16: left out") for line in found["left out"])
    trained = any(row["name"] == "training 2 x 16, bfloat16" for row in found["rows"])
    assert trained == measured != any(line.startswith("training, bfloat16: left") for line in found["left out"])


def test_a_cpu_without_bfloat16_leaves_its_row_out(monkeypatch):
    for where in (bench_vectors, training):
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
    honest = bench_vectors.padded_vectors
    monkeypatch.setattr(bench_vectors, "padded_vectors", lambda *given: honest(*given) * 1.001)
    assert run("--quick", "--rows", "corpus") == 1
    assert "error: corpus, padded, corpus, sorted: the sides differ" in capsys.readouterr().err


def test_without_transformers_its_side_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(bench_processes, "told_by", without_transformers)
    assert run("--quick", "--rows", "corpus", "dense", "latency", "training", "import") == 0
    told = capsys.readouterr()
    assert "transformers, sdpa: left out, transformers is not installed" in told.err
    assert "import: transformers' AlbertModel left out, ModuleNotFoundError" in told.err
    assert "dense 2 x 16, packed.py" in told.out and "dense 2 x 16, transformers" not in told.out
    starts = ("corpus, padded", "latency 1 x 28, packed.py", "training 2 x 16 ", "import")
    rows = [line.split() for line in told.out.splitlines() if line.startswith(starts)]
    assert len(rows) == 4 and all("-" in row for row in rows)


def without_transformers(program, arguments):
    if "transformers" in program:
        raise RuntimeError("ModuleNotFoundError: No module named 'transformers'")
    return [0.25, 0]


# ---- peers ----


@pytest.fixture
def peers(tmp_path):
    model, lines = AlbertModel(tiny_config()).eval(), []
    model.save_pretrained(tmp_path)
    found = Peers(model, lambda: tmp_path, lines.append)
    found.lines = lines
    return found


def test_a_peer_that_is_not_installed_is_one_line_said_once(peers):
    for name in (ONNX, SENTENCES, ONNX):
        assert peers.get(name) is None
    assert [line.split(",")[0] for line in peers.lines] == [f"{ONNX}: left out", f"{SENTENCES}: left out"]
    assert all(line.endswith("is not installed") for line in peers.lines)


def test_a_peer_that_fails_is_one_line_with_its_own_words(peers, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda **_: 1 / 0)
    assert peers.get(OURS_COMPILED) is None and peers.get(COMPILED) is None
    assert peers.lines == [f"{name}: left out, division by zero" for name in (OURS_COMPILED, COMPILED)]


@pytest.mark.parametrize("name", [SDPA, EAGER, COMPILED, OURS_COMPILED])
def test_every_way_to_run_the_weights_gives_the_same_vectors(peers, monkeypatch, name):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # what it makes faster stays the same
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.inference_mode():
        want, found = peers.model(ids, mask).last_hidden_state, peers.get(name)(ids, mask)
        assert torch.allclose(found[mask == 1], want[mask == 1], atol=1e-5)
        assert torch.allclose(peers.get(name)(ids, None), peers.model(ids).last_hidden_state, atol=1e-5)


def test_onnxruntime_gets_transformers_graph_ones_for_no_mask_and_our_threads(peers, monkeypatch):
    seen = {}

    class Session:
        def __init__(self, file, options, providers):
            seen.update(file=file, threads=options.intra_op_num_threads, entries=options.entries)

        def run(self, _, inputs):
            seen["mask"] = inputs["mask"]
            return [inputs["ids"].astype(np.float32)]

    class Options:
        def __init__(self):
            self.entries = {}

        def add_session_config_entry(self, key, value):
            self.entries[key] = value

    def export(model, inputs, file, **how):
        seen.update(exported=file, hidden=model(*inputs), axes=how["dynamic_axes"])

    stand_in = ModuleType("onnxruntime")
    stand_in.SessionOptions, stand_in.InferenceSession = Options, Session
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    monkeypatch.setitem(sys.modules, "onnx", ModuleType("onnx"))
    monkeypatch.setattr(torch.onnx, "export", export)
    forward, ids = peers.get(ONNX), torch.arange(6).view(2, 3)
    assert torch.equal(forward(ids, None), ids.float()) and seen["mask"].tolist() == [[1] * 3] * 2
    assert forward(ids, torch.tensor([[1, 1, 0]] * 2)) is not None and seen["mask"].tolist() == [[1, 1, 0]] * 2
    assert seen["file"] == seen["exported"] and seen["threads"] == torch.get_num_threads()
    assert seen["hidden"].shape == (2, 4, 12) and all(axes == {0: "B", 1: "T"} for axes in seen["axes"].values())
    assert seen["entries"] == {"session.force_spinning_stop": "1"}


def test_sentence_transformers_gets_the_same_texts(monkeypatch, tmp_path):
    class Stand:
        """Its three classes: what reads a directory, what pools, and the chain of both."""

        def __init__(self, *given, modules=(), device="cpu"):
            self.given, self.modules = given, modules

        def encode(self, texts, batch_size, show_progress_bar):
            (directory,), (width, pooling) = (module.given for module in self.modules)
            model, tokenizer = load(directory)
            assert (width, pooling, batch_size) == (256, "mean", 32) and show_progress_bar is False
            return Embedder(model, tokenizer)(texts, -1)

    package, models = ModuleType("sentence_transformers"), ModuleType("sentence_transformers.models")
    package.SentenceTransformer = models.Transformer = models.Pooling = Stand
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    monkeypatch.setitem(sys.modules, "sentence_transformers.models", models)
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"Sentence number {i} is about trains.\n" for i in range(5)))
    found = bench("weights/minialbert-tiny-en", rows=["corpus"], texts=str(file), count=4, repeats=1)
    row = found["rows"][-1]
    assert row["name"] == "corpus, from texts" and row["peer"] == SENTENCES
    assert row["equal"] and row["facts"] == {"largest difference": 0} and row["goal"] == ">= 1.45"
    line = bench("weights/minialbert-tiny-en", rows=["corpus"], count=4, repeats=1)["left out"][-1]
    assert line == "corpus: sentence-transformers left out, it takes texts; give --model and --texts"


# ---- processes ----


def test_import_is_timed_in_fresh_processes_that_take_turns(monkeypatch):
    spoken = []

    def process(command, **_):
        spoken.append(command[2])
        return SimpleNamespace(stdout="[0.25, 0]\n", returncode=0)

    monkeypatch.setattr(bench_processes.subprocess, "run", process)
    (row,) = bench(rows=["import"], quick=True, repeats=2)["rows"]
    assert row["ratio"] == 1 and row["met"] is False and row["equal"]
    assert ["minialbert" in program for program in spoken] == [True, False] * 2
    spoken.clear()
    monkeypatch.setattr(module.AlbertConfig, "preset", lambda name: tiny_config())
    bench(rows=["import"], preset="albert-base-v2", repeats=2, count=1)
    assert len(spoken) == 6, "but for --quick, a round that does not count goes first"


def test_fresh_processes_find_the_same_vectors_on_both_sides():
    first, memory = bench(rows=["first-vector", "memory"], quick=True)["rows"]
    assert (first["name"], first["unit"], memory["name"], memory["unit"]) == ("first-vector", "s", "memory", "MiB")
    for row in (first, memory):
        assert row["ratio"] > 0 and row["equal"] and 0 <= row["facts"]["largest difference"] < TOLERANCE


def test_the_time_before_a_process_begins_to_work_counts(monkeypatch):
    clock = iter([10.0, 20.0])
    monkeypatch.setattr(bench_processes, "told_by", lambda *_: [22.5, [1.0]])
    monkeypatch.setattr(bench_processes.time, "monotonic", lambda: next(clock))
    (row,) = bench(rows=["first-vector"], quick=True)["rows"]
    assert (row["ours"]["median"], row["theirs"]["median"]) == (12.5, 2.5)


def test_vectors_of_processes_that_differ_are_a_failure(monkeypatch, capsys):
    side = iter([[5.0, [[1.0, 2.0]]], [5.0, [[1.0, 2.1]]]])
    monkeypatch.setattr(bench_processes, "told_by", lambda *_: next(side))
    assert run("--quick", "--rows", "memory") == 1
    assert "error: memory: the sides differ" in capsys.readouterr().err


def test_a_process_that_fails_says_why_in_one_line():
    with pytest.raises(RuntimeError, match=r"^ValueError: no such luck$"):
        bench_processes.told_by("raise ValueError('no such  luck')", [])


def test_random_weights_of_bert_have_no_tokenizer_for_a_first_vector(monkeypatch):
    monkeypatch.setattr(module.AlbertConfig, "preset", lambda name: tiny_bert())
    found = bench(rows=["first-vector"], preset="bert", repeats=1, count=1)
    assert not found["rows"] and "give --model" in found["left out"][0]


# ---- files ----


def test_converting_there_and_back_is_timed_beside_a_copy():
    rows = bench(rows=["convert"], quick=True)["rows"]
    assert [row["name"] for row in rows] == [
        "convert, to Google's files", "convert, and back", "convert, and back, checked"]  # fmt: skip
    assert all(row["equal"] and row["unit"] == "MB/s" and row["peer"] == "shutil.copyfile" for row in rows)


def test_a_conversion_that_changes_a_number_is_a_failure(monkeypatch, capsys):
    honest = bench_files.convert

    def changed(source, target, **how):
        honest(source, target, **how)
        if how.get("to") != "google":
            AlbertModel(module.AlbertConfig(**module.QUICK)).save_pretrained(target)

    monkeypatch.setattr(bench_files, "convert", changed)
    assert run("--quick", "--rows", "convert") == 1
    assert "error: convert, and back" in capsys.readouterr().err


def test_a_model_that_google_has_no_files_for_is_not_converted(monkeypatch):
    def refuse(*_, **__):
        raise ConfigError("no place for it")

    monkeypatch.setattr(bench_files, "convert", refuse)
    found = bench(rows=["convert"], quick=True)
    assert not found["rows"] and found["left out"] == ["convert: left out, no place for it"]


def test_real_texts_with_their_tokenizer(minilm, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"Sentence number {i} is about trains.\n\n" for i in range(8)))
    before = dict(os.environ)
    found = bench(minilm, rows=["tokenize", "layer-k"], texts=str(file), count=4, repeats=2)
    row = found["rows"][0]
    assert row["name"] == "tokenize" and row["facts"] == {"same ids": 1.0} and row["ratio"] > 0
    assert found["corpus"]["texts"] == 4 and not found["left out"]
    assert "at least 9 texts" in bench(minilm, rows=["tokenize"], texts=str(file), repeats=8)["left out"][0]
    assert dict(os.environ) == before, "one thread is for this row alone"


@pytest.mark.parametrize("config", [tiny_config(project_embeddings=None), tiny_bert()], ids=["albert", "bert"])
def test_both_families_have_the_same_weights_on_both_sides(config, monkeypatch, tmp_path):
    AlbertModel(config).eval().save_pretrained(tmp_path)
    monkeypatch.setattr(module, "load", lambda ref: (AlbertModel.from_pretrained(ref), None))
    found = bench(tmp_path, rows=["corpus"], count=5, repeats=1)
    assert len(found["rows"]) == 2 and all(row["equal"] for row in found["rows"])


# ---- the figure ----


def test_the_figure_has_a_bar_a_row_from_1_to_its_ratio_and_a_mark_at_its_goal(found):
    figure = bench_plot.drawn(found)
    axes, rows = figure.axes[0], found["rows"]
    assert axes.get_xscale() == "log"
    bars = {round(bar.get_y() + bar.get_height() / 2): bar for bar in axes.patches}
    for i, row in enumerate(rows):
        assert bars[i].get_x() + bars[i].get_width() == pytest.approx(row["ratio"]) or bars[i].get_x() == row["ratio"]
        assert 1 in (pytest.approx(bars[i].get_x()), pytest.approx(bars[i].get_x() + bars[i].get_width()))
    (lines,) = axes.collections
    assert [tuple(x for x, _ in line) for line in lines.get_segments()] == [
        pytest.approx(row["ratio_spread"]) for row in rows]  # fmt: skip
    marks = next(line for line in axes.lines if line.get_marker() == "|")
    assert list(marks.get_xdata()) == [float(row["goal"].split()[1]) for row in rows if row["goal"]]
    assert len(bars) == len(rows) and not misplaced(figure)
    for row in rows:
        assert f"{row['name']} beside {row['peer']}: " in alt_text(figure)


def test_less_is_better_has_another_look_than_more(found):
    axes = bench_plot.drawn(found).axes[0]
    hatched = {round(bar.get_y() + bar.get_height() / 2) for bar in axes.patches if bar.get_hatch()}
    assert hatched == {i for i, row in enumerate(found["rows"]) if row["unit"] in ("s", "ms")} != set()


def test_a_figure_of_all_that_bench_can_tell_has_no_text_on_another(found):
    names = ("corpus, sorted for onnxruntime", "convert, and back, checked", "first-vector", "memory")
    peers = ("onnxruntime, batches of 32", "shutil.copyfile", "transformers, Auto classes", "x")
    more = [found["rows"][0] | {"name": name, "peer": peer, "ratio": r, "ratio_spread": (r / 2, 2 * r)}
            for name, peer, r in zip(names, peers, (1e-4, 0.03, 2, 300), strict=True)]  # fmt: skip
    assert not misplaced(bench_plot.drawn(found | {"rows": found["rows"] + more}))


def test_the_command_writes_the_figure_and_refuses_another_ending_before_the_work(tmp_path, capsys):
    assert run("--quick", "--rows", "layer-k", "--plot", str(tmp_path / "speed.svg")) == 0
    assert "layer 1 alone beside all 4 layers" in (tmp_path / "speed.svg").read_text()
    with pytest.raises(InputError, match="by its ending"):
        run("--plot", str(tmp_path / "speed.txt"))
    with pytest.raises(InputError, match="nothing to draw"):
        bench_plot.drawn({"rows": []})


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
    works = {name: lambda name=name: order.append(name) or f"did {name}" for name in "ab"}
    kept, cleaned = {}, []
    seconds = interleave(works, 2, kept, between=lambda: cleaned.append(len(order)))
    assert kept == {"a": "did a", "b": "did b"} and cleaned == [0, 1, 2, 3, 4, 5]
    assert "".join(order) == "ababab" and {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_the_rounds_and_meets_its_goal_or_not():
    row = compare("x", [1, 2, 4], "y", [2, 4, 2], ">= 1.5", "texts/s", (10, 10))
    assert row.ours == {"median": 5, "low": 2.5, "high": 10} and row.ratio == 2 and row.met is True
    assert row.ratio_spread == (0.5, 2)
    assert compare("x", [1, 2, 4], "y", [2, 4, 2], "<= 0.4").met is False
    alone = compare("x", [1.0], "y", None, "<= 0.4")
    assert alone.theirs is None and alone.ratio is None and alone.met is None


def test_unusable_arguments_are_refused():
    with pytest.raises(NameUnknown, match="Nearest: corpus"):
        bench(rows=["corpsu"], quick=True)
    with pytest.raises(NameUnknown, match="albert-base-v2"):
        bench(preset="albert-bse-v2")
    with pytest.raises(InputError, match="repeats=0 must be"):
        bench(repeats=0)
    with pytest.raises(InputError, match="count=0 must be"):
        bench(count=0)
    with pytest.raises(InputError, match="needs --model"):
        bench(texts="texts.txt")
    with pytest.raises(InputError, match="--threads 0"):
        run("--threads", "0")
    assert list(ROWS) == [
        "corpus", "dense", "latency", "bfloat16", "layer-k", "training", "import", "first-vector", "memory",
        "tokenize", "convert"]  # fmt: skip
