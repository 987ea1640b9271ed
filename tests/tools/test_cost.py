"""Counted costs against a run: FLOPs by torch's counter, activations by what the backward pass keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minialbert import AlbertModel, Editor
from minialbert.config import AlbertConfig
from minialbert.tools.cost import bert_of_the_same_shape, cost
from tests.conftest import tiny_bert, tiny_config

SMALL = {"vocab_size": 100, "embedding_size": 16, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3,
         "intermediate_size": 200, "max_position_embeddings": 64}  # fmt: skip
CONFIGS = [tiny_config(), tiny_bert(), AlbertConfig(**SMALL), AlbertConfig(**SMALL | {"num_hidden_groups": 3}),
           tiny_config(num_hidden_groups=2, inner_group_num=3), tiny_config(parameter_sharing="attention")]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_multiply_adds_are_half_the_flops_of_a_run(config):
    model = AlbertModel(config)
    write_out = Editor("attention.probs", fn=torch.clone)  # the counter does not see into the fused kernel
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.ones(2, 9, dtype=torch.long), tap=write_out)
    # the written-out attention runs beside nothing else, so scores and context are counted once
    assert counter.get_total_flops() == 2 * cost(config, batch=2, length=9).total_multiply_adds


@pytest.mark.parametrize("config", CONFIGS)
def test_training_bytes_are_what_the_backward_pass_keeps(config):
    model, kept = AlbertModel(config), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.ones(2, 16, dtype=torch.long))
    counted = cost(config, batch=2, length=16).training_bytes
    assert abs(counted / sum(kept.values()) - 1) < 0.08


def test_sharing_saves_parameters_and_no_work():
    albert = AlbertConfig.preset("albert-base-v2")
    bert = bert_of_the_same_shape(albert)
    ours, theirs = cost(albert), cost(bert)
    assert 2 * ours.total_multiply_adds == 22_373_597_184
    assert 2 * (ours.total_multiply_adds - theirs.total_multiply_adds) == 2 * 128 * 128 * 768  # the projection
    assert ours.total_parameters == 11_683_584 and theirs.total_parameters == 109_081_344
    assert bert.is_bert_shaped
    unshared = cost(AlbertConfig.preset("albert-base-v2", num_hidden_groups=12))
    assert unshared.total_multiply_adds == ours.total_multiply_adds


def test_bytes_follow_the_size_of_a_number():
    config = AlbertConfig.preset("albert-base-v2")
    whole, half = cost(config), cost(config, item_bytes=2)
    assert whole.weight_bytes == 4 * 11_683_584 == 2 * half.weight_bytes
    assert whole.inference_bytes == 2 * half.inference_bytes
