"""`minialbert parity` as a user types it: a table on stdout, the verdict last, exit 0 or 1."""

import argparse
import json
import re
import sys

import pytest
from safetensors.torch import load_file, save_file

from minialbert.cli import proof
from minialbert.errors import FileError, InputError
from tests.conftest import theirs_of, tiny_config


def run(*arguments: object) -> int:
    top = argparse.ArgumentParser()
    proof.add_commands(top.add_subparsers())
    given = top.parse_args(["parity", *map(str, arguments)])
    return given.run(given)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    theirs_of(tiny_config(num_hidden_layers=3), "ForPreTraining").save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def other(directory, tmp_path_factory):
    """The same with query and key swapped."""
    place = tmp_path_factory.mktemp("other")
    tensors = load_file(directory / "model.safetensors")
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention."
    for end in ("weight", "bias"):
        q, k = f"{block}query.{end}", f"{block}key.{end}"
        tensors[q], tensors[k] = tensors[k], tensors[q]
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    (place / "config.json").write_text((directory / "config.json").read_text())
    return place


def test_the_table_has_a_line_for_every_layer_and_ends_with_the_verdict(directory, capsys):
    assert run(directory) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    parts = [line.split("  ")[0] for line in lines]
    wanted = {"config", "weights", "embeddings", "layer 0", "layer 3", "sdpa", "packed", "pooled", "mlm.logits", "loss"}
    assert wanted | {"gradients"} <= set(parts)
    assert lines[-1] == "equal" and "0 past the tolerance" in lines[-2]
    assert not [line for line in err.splitlines() if line.startswith("error")]
    assert all(len(line) <= 140 for line in lines[3:-4])


def test_points_prints_every_one(directory, capsys):
    assert run(directory, "--points", "--no-gradients", "--dtype", "float64") == 0
    out = capsys.readouterr().out
    for point in (
        "attention.probs, layer 3",
        "weights: embeddings.word.weight",
        "hidden, layer 0",
        "config: hidden_act",
    ):
        assert f"\n{point} " in out
    assert "gradients" not in out


def test_a_difference_is_exit_1_and_the_last_line_names_point_and_cause(directory, other, capsys):
    assert run(directory, "--against", "transformers", other, "--no-gradients") == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {directory} differs, first in weights: encoder.attentions.0.query.{{weight,bias}}")
    assert last.endswith("swapped with encoder.attentions.0.key; seen in the forward first at attention.q, layer 1")
    assert "then: attention.q, layer 1" in out and "every point agrees" in out
    assert "NO" in out and "\nequal" not in out


def test_json_holds_rows_findings_and_verdict(directory, other, capsys):
    assert run(directory, "--against", "transformers", other, "--json", "--dtype", "float64") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False and found["findings"][0]["section"] == "weights"
    assert {"section", "point", "layer", "distance", "tolerance", "ok", "note"} == found["rows"][0].keys()
    assert found["versions"].keys() == {"torch", "transformers"}


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_a_figure_is_written_whole(directory, ending, tmp_path):
    target = tmp_path / f"parity{ending}"
    assert run(directory, "--plot", target) == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    content = target.read_bytes()
    assert {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[ending] in content
    assert len(content) > 10_000
    if ending == ".svg":
        told = r"minialbert and transformers: AlbertFor.*largest difference at each of .* there: float32 up to"
        assert re.search(told, content.decode())


def test_bad_arguments_are_one_line(directory, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf"):
        run(directory, "--plot", tmp_path / "parity.txt")
    with pytest.raises(InputError, match="cannot be used here"):
        run(directory, "--device", "cuda:99")
    with pytest.raises(InputError, match="cannot be used here"):
        run(directory, "--device", "abacus")
    with pytest.raises(InputError, match="must be one of transformers, google-pack"):
        run(directory, "--against", "nobody", directory)
    with pytest.raises(FileError):
        run(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FileError, match=r"matplotlib is not installed.*pip install"):
        run(directory, "--plot", tmp_path / "parity.png")
