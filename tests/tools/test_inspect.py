"""What inspect says of a directory, and that it runs nothing in it."""

import pickle

import pytest
import torch

from minialbert import AlbertForMaskedLM
from minialbert.errors import CheckpointError
from minialbert.tools.inspect import inspect, sharing_table
from tests.conftest import tiny_config


def test_the_sharing_table_lists_the_layers_of_each_set_of_weights():
    table = sharing_table(tiny_config(num_hidden_groups=2, inner_group_num=2))
    assert table["encoder.attentions.0"] == [1, 3, 5] and table["encoder.feed_forwards.3"] == [8, 10, 12]


def test_a_directory_is_told_whole(tmp_path):
    model = AlbertForMaskedLM(tiny_config())
    model.save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert len(found["tensors"]) == len(model.state_dict())
    assert found["tensors"]["albert.embeddings.word_embeddings.weight"] == {"dtype": "F32", "shape": [31, 7]}
    assert len(found["report"]["ignored"]) == 5 and "masked words" in found["report"]["ignored"]["predictions.bias"]
    assert "error" in found["tokenizer"]


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    AlbertForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="would run code"):
        inspect(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        inspect(tmp_path)
    assert not (tmp_path / "ran").exists()
