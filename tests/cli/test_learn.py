"""`minialbert train-tokenizer` as a user types it."""

import gzip
import io
import json
from pathlib import Path

import pytest

from minialbert.cli import main
from minialbert.tokenizers import load_tokenizer
from minialbert.tokenizers.train import train_tokenizer
from tests.tokenizers.texts import CORPUS, SENTENCES


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(CORPUS, encoding="utf-8")

    def call(*arguments):
        status = main(["train-tokenizer", *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_text_file_becomes_a_vocabulary_and_the_report_is_printed(run, tmp_path):
    status, out, err = run("corpus.txt", "--output", "mine", "--size", 500)
    lines = out.splitlines()
    assert status == 0 and err == "379 texts, 6 of them held out; training on 373\n"
    assert lines[0].startswith("mine: 500 pieces, spiece.model sha256 ")
    assert lines[3] == "     2  [CLS]       control" and lines[6] == "     5  (           user-defined"
    assert lines[14] == "    13  ▁"
    assert "measured on      6 held-out texts" in lines and lines[-1].startswith("use it: minialbert tokenize --model")
    assert any(line.startswith("unknown          0.0") for line in lines)
    assert main(["tokenize", "--model", "mine", "Some text."]) == 0
    train_tokenizer(SENTENCES, tmp_path / "same", size=500)
    assert (tmp_path / "same" / "spiece.model").read_bytes() == (tmp_path / "mine" / "spiece.model").read_bytes()


def test_json_says_the_same_and_every_option_arrives(run, tmp_path, monkeypatch):
    with gzip.open("more.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": "x", "said": f"Été {text} #tag"}) + "\n" for text in SENTENCES)
    options = ["--size", 400, "--keep-case", "--keep-accents", "--flavor", "google", "--signs", "# - .",
               "--coverage", 1, "--held-out", 0.1, "--sample", 300, "--seed", 3, "--threads", 2]  # fmt: skip
    status, out, _ = run("more.jsonl.gz", "--field", "said", "--output", "v", *options, "--json")
    found = json.loads(out)
    assert status == 0 and found["trained_on"] == 300 and found["texts"] == 379 and found["held_out"]
    assert found["first"][5:8] == [[n, s, "user-defined"] for n, s in enumerate("#-.", start=5)]
    assert found["signs"]["#"] == 300 and found["directory"] == "v"
    expected = {
        "size": 400, "lower_case": False, "keep_accents": True, "user_defined": ["#", "-", "."], "flavor": "google",
        "character_coverage": 1.0, "held_out": 0.1, "sample": 300, "seed": 3, "threads": 2,
    }  # fmt: skip
    assert {name: found["options"][name] for name in expected} == expected
    tokenizer = load_tokenizer("v")
    assert (tokenizer.do_lower_case, tokenizer.keep_accents, tokenizer.flavor) == (False, True, "google")
    assert "é" in "".join(tokenizer.tokenize("Été"))


def test_several_files_and_standard_input_are_read_one_after_the_other(run, tmp_path, monkeypatch):
    class Input:
        buffer = io.BytesIO(CORPUS.encode())

    monkeypatch.setattr("sys.stdin", Input)
    status, _, err = run("corpus.txt", "-", "--output", "v", "--size", 300, "--held-out", 0, "--signs", "")
    assert status == 0 and err == "758 texts, 0 of them held out; training on 758\n"
    assert "(" not in load_tokenizer("v").tokenize("(b")[0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["corpus.txt"], "error: size=30000: these texts give at most "),
        (["corpus.txt", "--size", "40"], "error: size=40: the characters of these texts alone need "),
        (["corpus.txt", "missing.txt"], "error: missing.txt: no such file"),
        (["corpus.txt", "--output", "."], "error: .: is there and not empty"),
        (["corpus.txt", "--signs", "( É"], "error: user-defined sign 'É' becomes 'e'"),
        (["corpus.txt", "--held-out", "2"], "error: held_out=2.0 must be from 0 to 0.5"),
        (["latin.txt", "--size", "40"], "error: latin.txt: not UTF-8: byte 0xE9 in line 2"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_leaves_nothing(run, tmp_path, arguments, why):
    (tmp_path / "latin.txt").write_bytes(b"a\n\xe9\n")
    before = sorted(tmp_path.iterdir())
    status, out, err = run("--output", "v", *arguments)
    assert status == 1 and out == "" and err.splitlines()[-1].startswith(why)
    assert sorted(tmp_path.iterdir()) == before


def test_usage_errors_exit_with_2(run):
    with pytest.raises(SystemExit) as caught:
        run("corpus.txt")
    assert caught.value.code == 2


def test_text_becomes_a_model_that_asks_and_embeds(tmp_path, capsys):
    text = Path(__file__).parent.parent / "golden" / "tokenizer" / "corpus.txt"
    run = ["pretrain", str(text), "--layout", "sentences", "--tokenizer", str(text.with_name("albert-tiny-500.model")),
           "--config", "albert-base-v2", "--stage", "24:3:4", "--stage", "32:2:4", "--held-out", str(text),
           "--save-every", "5", "--log-every", "1", "--output", str(tmp_path / "run")]  # fmt: skip
    sizes = [
        "embedding_size=8",
        "hidden_size=16",
        "num_attention_heads=2",
        "intermediate_size=32",
        "num_hidden_layers=2",
    ]
    run += [word for size in [*sizes, "max_position_embeddings=32"] for word in ("--set", size)]
    assert main([*run, "--prepare-only"]) == 0
    out = capsys.readouterr().out
    assert "masked" in out and "length 24" in out and "[MASK]" in out
    assert main([*run, "--until", "2"]) == 0 and main(run) == 0  # broken off, and gone on with
    last = capsys.readouterr().out.splitlines()[-2].split()
    assert last[0] == "last" and last[1].endswith("step-00000005")
    assert main(["fill-mask", "the [MASK] wakes", "--model", last[1]]) == 0
    assert main(["order", "the harbour wakes.", "gulls argue.", "--model", last[1]]) == 0
    assert main(["embed", "the harbour wakes.", "--model", last[1]]) == 0
    again = ["pretrain", str(text), "--layout", "sentences", "--tokenizer", last[1], "--from", last[1],
             "--stage", "24:1:2", "--output", str(tmp_path / "more")]  # fmt: skip
    assert main(again) == 0
    assert main([*run, "--seed", "1"]) == 1 and "start in a new directory" in capsys.readouterr().err


TEXT = Path(__file__).parent.parent / "golden" / "tokenizer" / "corpus.txt"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            ["--set", "hidden_sise=16"],
            "error: --set hidden_sise=16: hidden_sise is no field. Nearest: hidden_size",
        ),
        (["--set", "hidden_size=20"], "error: hidden_size=20 is not a multiple of num_attention_heads=12"),
        (["--config", "albert-bse-v2"], "error: "),
        (["--held-out-share", "1.5"], "error: a share of 1.5 of the documents cannot be held out"),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_text_is_read(tmp_path, capsys, changed, why):
    run = ["pretrain", str(TEXT), "--tokenizer", str(TEXT.with_name("albert-tiny-500.model")), "--config",
           "albert-base-v2", "--stage", "24:3:4", "--output", str(tmp_path / "run"), *changed]  # fmt: skip
    assert main(run) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(why) and not any("corpus:" in line for line in said)


def test_a_head_start_is_for_a_new_model_and_is_told_of(tmp_path, capsys):
    run = ["pretrain", str(TEXT), "--layout", "sentences", "--tokenizer", str(TEXT.with_name("albert-tiny-500.model")),
           "--stage", "24:2:4", "--output"]  # fmt: skip
    sizes = [
        "embedding_size=16",
        "hidden_size=32",
        "num_attention_heads=2",
        "intermediate_size=32",
        "num_hidden_layers=2",
    ]
    new = ["--config", "albert-base-v2", *(word for size in sizes for word in ("--set", size))]
    assert main([*run, str(tmp_path / "run"), *new, "--head-start", "--held-out-share", "0.2"]) == 0
    out, err = capsys.readouterr()
    assert "counting which words stand together" in err and "a new run; losses: " in err
    last = tmp_path / "run" / "step-00000002"
    assert out.splitlines() == [f"last  {last}", f"best  {last}"]
    assert main([*run, str(tmp_path / "run"), *new, "--head-start", "--held-out-share", "0.2"]) == 0
    assert f"going on from {last}" in capsys.readouterr().err
    assert main([*run, str(tmp_path / "more"), "--from", str(last), "--head-start"]) == 1
    assert "--head-start is for a new model" in capsys.readouterr().err
    assert main([*run, str(tmp_path / "deeper"), "--from", str(last), "--set", "num_hidden_layers=3"]) == 0
    assert capsys.readouterr().out == f"last  {tmp_path / 'deeper' / 'step-00000002'}\n"  # nothing was held out


def test_a_stage_that_is_none_is_a_matter_of_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(
            ["pretrain", "x.txt", "--tokenizer", "v", "--config", "albert-base-v2", "--output", "o", "--stage", "128:9"]
        )
    assert caught.value.code == 2
    assert "'128:9' is not LENGTH:STEPS:BATCH, such as 128:900:64" in capsys.readouterr().err
