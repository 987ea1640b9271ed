"""convert on the command line: the table, the exit status, what scripts read."""

import json
import subprocess
import sys

import numpy as np
import pytest

from minialbert import AlbertForPreTraining
from minialbert.cli import main
from minialbert.cli.files import table
from minialbert.convert import LoadReport
from tests.conftest import GOLDEN, tiny_config
from tests.convert.directories import google_variables, write_archive, write_release

PACK = GOLDEN / "google-v2-tiny"


@pytest.fixture
def run(capsys):
    def run(*words):
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


def test_convert_prints_what_became_of_every_tensor(run, tmp_path):
    status, out, err = run("convert", PACK, tmp_path / "out")
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["used", "32"]
    assert "ignored       9" in lines and "missing       0" in lines
    assert any(line.startswith("    8 an optimizer's slot: bert/") for line in lines)
    assert any(line.strip() == "1 a counter of the training: global_step" for line in lines)
    assert "checked     every tensor has the same numbers; outputs differ by 0.0e+00 at most" in lines
    status, out, _ = run("convert", PACK, tmp_path / "all", "--all")
    assert "    bert/pooler/dense/kernel  ->  pooler.weight" in out.splitlines()


def test_convert_tells_scripts_the_same(run, tmp_path):
    status, out, _ = run("convert", PACK, tmp_path / "out", "--json")
    told = json.loads(out)
    assert status == 0 and told["difference"] == 0 and told["class"] == "AlbertForPreTraining"
    assert len(told["report"]["used"]) == len(told["written"]) == 32
    assert (
        told["written"]["albert.pooler.weight"] == told["report"]["used"]["bert/pooler/dense/kernel"] == "pooler.weight"
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_missing_is_in_the_table_and_the_status_is_1(run, tmp_path, as_json):
    config = tiny_config()
    variables = google_variables(config)
    del variables["bert/pooler/dense/kernel"]
    release = write_release(tmp_path / "src", variables, config)
    status, out, err = run("convert", release, tmp_path / "out", *["--json"] * as_json)
    assert status == 1
    assert err.count("\n") == 1 and err.startswith("error: ") and "1 of 32 tensors missing: pooler.weight" in err
    if as_json:
        assert json.loads(out)["report"]["missing"] == ["pooler.weight"]
    else:
        assert "missing       1\n    pooler.weight" in out
    assert not (tmp_path / "out").exists()


def test_back_and_forth_on_the_command_line_is_bit_equal(run, tmp_path):
    config = tiny_config()
    release = write_release(tmp_path / "albert_tiny", google_variables(config), config)
    archive = write_archive(tmp_path / "albert_tiny.tar.gz", release)
    assert run("convert", archive, tmp_path / "hf")[0] == 0
    assert run("convert", tmp_path / "hf", tmp_path / "google", "--to", "google")[0] == 0
    for name in ("vocab_chinese.txt", "model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001"):
        assert (tmp_path / "google" / name).read_bytes() == (release / name).read_bytes(), name
    status, out, _ = run("embed", "word1 word2", "--model", archive)
    assert status == 0 and run("embed", "word1 word2", "--model", tmp_path / "google")[1] == out
    assert run("tokenize", "word1", "--model", archive)[1] == run("tokenize", "word1", "--model", tmp_path / "hf")[1]
    assert run("inspect", archive)[1].startswith(f"{archive}: TensorFlow checkpoint, albert, V=31 E=7")


def test_a_field_of_the_configuration_can_be_set(run, tmp_path):
    config = tiny_config(hidden_act="gelu")
    AlbertForPreTraining(config).save_pretrained(tmp_path / "v1")
    status, _, err = run("convert", tmp_path / "v1", tmp_path / "out", "--to", "google")
    assert status == 1 and "--set hidden_act=gelu_new" in err and not (tmp_path / "out").exists()
    assert run("convert", tmp_path / "v1", tmp_path / "out", "--to", "google", "--set", "hidden_act=gelu_new")[0] == 0
    assert json.loads((tmp_path / "out" / "albert_config.json").read_text())["hidden_act"] == "gelu"
    for words, setting in (("expected KEY=VALUE", "hidden_act"), ("hidden_acts is no field", "hidden_acts=relu")):
        status, _, err = run("convert", tmp_path / "v1", tmp_path / "other", "--set", setting)
        assert status == 1 and words in err


def test_an_error_is_in_what_scripts_read(run, tmp_path):
    status, out, err = run("convert", PACK, tmp_path / "out", "--class", "ForQuestionAnswering", "--json")
    told = json.loads(out)
    assert status == 1 and told["error"] in err and told["report"]["missing"] == ["qa.weight", "qa.bias"]
    assert len(told["report"]["used"]) == 32 and "it has no such head" in err


def test_a_run_that_is_asked_to_end_leaves_nothing_behind(tmp_path):
    code = f"""
import os, signal, sys
import minialbert.convert.writing as writing
from minialbert import AlbertForPreTraining
from minialbert.cli import main
writing.write_text = lambda path, text: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(main(["convert", {str(PACK)!r}, {str(tmp_path / "out")!r}]))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_long_list_is_cut_unless_all_is_asked_for():
    report = LoadReport(ignored={f"{i}/adam_m": "an optimizer's slot" for i in range(9)}, tied=["a", "b", "c", "d"])
    assert "9 an optimizer's slot: 0/adam_m, 1/adam_m, 2/adam_m, ...\n" in table(report) + "\n"
    assert "8/adam_m" in table(report, everything=True)
    assert table(report).count("\n    ") == 5  # what is tied is told in full


def test_numbers_that_are_not_numbers_are_converted_as_they_are(run, tmp_path):
    config = tiny_config()
    variables = google_variables(config)
    variables["cls/predictions/output_bias"][3] = np.nan
    release = write_release(tmp_path / "src", variables, config)
    status, out, _ = run("convert", release, tmp_path / "hf")
    assert status == 0 and "note        not all numbers are finite in mlm.bias" in out
    assert run("convert", tmp_path / "hf", tmp_path / "google", "--to", "google")[0] == 0
    for name in ("model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001"):
        assert (tmp_path / "google" / name).read_bytes() == (release / name).read_bytes(), name
