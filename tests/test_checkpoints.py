"""What a run leaves on disk: read back to the bit, by others too; whole or not there; damage told by name."""

import json
import os

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import minialbert
from minialbert import checkpoints as module
from minialbert.checkpoints import (
    MODEL,
    OPTIMIZER,
    STATE,
    best,
    check_digests,
    checkpoints,
    keep,
    last,
    read_state,
    restore_optimizer,
    save_checkpoint,
)  # fmt: skip
from minialbert.errors import CheckpointError, FileError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain.lamb import Lamb
from minialbert.tokenizers import load_tokenizer
from minialbert.training import LOG, Log, parameter_groups, read_log
from tests.conftest import GOLDEN, random_batch, tiny_config

TOKENIZER = load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model")
CONFIG = tiny_config(vocab_size=500, num_hidden_layers=2)


def trained(config=CONFIG, trust: bool = True) -> tuple[AlbertForPreTraining, Lamb]:
    """A model after two updates."""
    torch.manual_seed(0)
    model = AlbertForPreTraining(config)
    optimizer = Lamb(parameter_groups(model), lr=0.01, trust=trust)
    for seed in range(2):
        batch = random_batch(config, seed=seed)
        model(**batch, labels=batch["input_ids"], sentence_order_label=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(directory, step: int, loss: float | None = None):
    held_out = {} if loss is None else {"loss": loss}
    return save_checkpoint(directory, *saved_model(), {"step": step, "held_out": held_out})


def saved_model():
    model, optimizer = trained()
    return model, TOKENIZER, optimizer


# ---- written and read ----


@pytest.mark.parametrize("trust", [True, False], ids=["lamb", "adamw"])
@pytest.mark.parametrize("sharing", ["all", "attention", "none"])
def test_model_and_optimizer_come_back_bit_for_bit(tmp_path, sharing, trust):
    config = tiny_config(vocab_size=500, parameter_sharing=sharing)
    model, optimizer = trained(config, trust)
    path = save_checkpoint(tmp_path, model, TOKENIZER, optimizer, {"step": 2, "held_out": {}})
    assert path == tmp_path / "step-00000002"
    again = AlbertForPreTraining.from_pretrained(path)
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in model.state_dict().items())
    other = Lamb(parameter_groups(again), lr=0.01, trust=trust)
    restore_optimizer(path, read_state(path), other)
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        was, now = optimizer.state[ours], other.state[theirs]
        assert was.keys() == now.keys() and was["step"] == now["step"] == 2
        assert all(torch.equal(was[key], now[key]) for key in was if key != "step")


def test_a_checkpoint_is_a_directory_that_others_read(tmp_path):
    path = save(tmp_path, 1)
    model, tokenizer = minialbert.load(path)
    assert tokenizer == TOKENIZER
    theirs = transformers.AlbertForPreTraining.from_pretrained(path).eval()
    ours = AlbertForPreTraining.from_pretrained(path)
    batch = random_batch(CONFIG)
    with torch.no_grad():
        distance = (ours(**batch).prediction_logits - theirs(**batch).prediction_logits).abs().max()
    assert distance < 1e-5
    assert not model.training


def test_the_optimizers_tensors_are_under_the_names_of_the_parameters(tmp_path):
    path = save(tmp_path, 1)
    tensors, state = load_file(path / OPTIMIZER), read_state(path)
    names = {name for name, _ in trained()[0].named_parameters()}
    assert {key.rpartition("/")[0] for key in tensors} == names == set(state["optimizer_steps"])
    assert {key.rpartition("/")[2] for key in tensors} == {"m", "v", "trust_ratio"}
    assert {file.suffix for file in path.rglob("*") if file.is_file()} <= {".json", ".safetensors", ".model"}


# ---- whole or not there ----


def test_what_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    first = save(tmp_path, 1)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(FileError, match=r"step-00000002: cannot be written .No space left on device."):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"] and last(tmp_path) == first


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step(tmp_path):
    (save(tmp_path, 1) / "note.txt").write_text("old")
    path = save(tmp_path, 1, loss=2.0)
    assert not (path / "note.txt").exists() and read_state(path)["held_out"] == {"loss": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_run_left_is_no_checkpoint_and_goes(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.abc").mkdir()
    (tmp_path / ".step-00000000.77.old").mkdir()
    (tmp_path / ".step-00000000.77.old" / "model.safetensors").write_bytes(b"half")
    (tmp_path / f".{LOG}.77.tmp").write_text("half")
    (tmp_path / "step-by-step.txt").write_text("a file of the user")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]
    keep(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-by-step.txt"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 9), min_size=1, max_size=12), st.integers(1, 4))
def test_the_newest_and_the_best_are_kept(tmp_path_factory, losses, count):
    directory = tmp_path_factory.mktemp("run")
    for step, loss in enumerate(losses):
        (directory / f"step-{step:08d}" / "training").mkdir(parents=True)
        state = {"format": module.FORMAT, "step": step, "held_out": {"loss": loss}}
        (directory / f"step-{step:08d}" / STATE).write_text(json.dumps(state))
        keep(directory, count)
    steps = [int(path.name[5:]) for path in checkpoints(directory)]
    newest = list(range(len(losses)))[-count:]
    assert best(directory).name == f"step-{losses.index(min(losses)):08d}", "the best of all, the first one on ties"
    assert steps == sorted({*newest, losses.index(min(losses))})
    assert last(directory).name == f"step-{len(losses) - 1:08d}"


def test_without_figures_there_is_no_best_and_without_checkpoints_no_last(tmp_path):
    assert last(tmp_path) is None and best(tmp_path) is None and last(tmp_path / "none") is None
    for step in (1, 2, 3):
        save(tmp_path, step)
        keep(tmp_path, 1)
    assert best(tmp_path) is None and [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]


# ---- damage ----


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_damaged_tensors_are_told_by_name(tmp_path, name, damage):
    path = save(tmp_path, 1)
    check_digests(path, read_state(path))
    data = bytearray((path / name).read_bytes())
    data[-5] ^= 1
    (path / name).write_bytes(data if damage == "bit" else data[:-9])
    if damage == "gone":
        os.remove(path / name)
    with pytest.raises(CheckpointError, match=f"{name}: missing, damaged or changed .* the run goes on from the one"):
        check_digests(path, read_state(path))


def test_a_state_that_is_none_is_told_by_name(tmp_path):
    path = save(tmp_path, 1)
    (path / STATE).write_text("{")
    with pytest.raises(CheckpointError, match=r"state.json: is not JSON; delete"):
        read_state(path)
    (path / STATE).write_text('{"format": "another"}')
    with pytest.raises(CheckpointError, match=r'state.json: is not a "minialbert training state 1"'):
        read_state(path)
    os.remove(path / STATE)
    with pytest.raises(FileError, match=r"state.json: cannot be read .* is .* a checkpoint of a run?"):
        read_state(path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        save(tmp_path / "file", 1)
    with pytest.raises(FileError, match="file: cannot be written"):
        Log(tmp_path / "file", 0)


# ---- the log ----


def test_a_log_goes_on_after_the_step_of_the_checkpoint(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write({"step": step, "loss": 1 / step})
    log.close()
    with open(tmp_path / LOG, "a") as file:
        file.write('{"step": 5, "lo')  # killed here
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    log = Log(tmp_path, 2)
    log.write({"step": 3, "loss": 7.0})
    log.close()
    assert read_log(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 7.0}]
    assert read_log(tmp_path / "none") == []
