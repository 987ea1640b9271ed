"""Texts laid end to end without padding give what model.py gives with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import AlbertModel, Recorder, packed
from minialbert.errors import InputError
from minialbert.packed import PackedEncoder
from tests.conftest import tiny_bert, tiny_config

CONFIGS = [
    tiny_config(initializer_range=0.3),
    tiny_config(initializer_range=0.3, num_hidden_groups=2, inner_group_num=2, hidden_act="relu"),
    tiny_config(initializer_range=0.3, parameter_sharing="ffn", hidden_act="gelu"),
    tiny_config(initializer_range=0.3, embedding_size=12),
    tiny_bert(initializer_range=0.3),
]


@settings(max_examples=40, deadline=None)
@given(
    which=st.integers(0, len(CONFIGS) - 1),
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=12),
    double=st.booleans(),
    seed=st.integers(0, 999),
)
def test_packed_equals_padded_at_every_layer(which, lengths, double, seed):
    torch.manual_seed(seed)
    model = AlbertModel(CONFIGS[which]).eval().to(torch.float64 if double else torch.float32)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # 0 at first
            torch.nn.init.normal_(weight, std=0.3)
    L = model.config.num_visits
    B, T = len(lengths), max(lengths)
    ids, types = torch.randint(0, 31, (B, T)), torch.randint(0, 2, (B, T))
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    tape = Recorder("hidden", "embeddings")
    with torch.no_grad():
        model(ids, mask, types, tap=tape)
    got = PackedEncoder(model)(ids[mask], types[mask], lengths, range(-1, L + 1))
    for layer in range(-1, L + 1):
        want = tape["embeddings"] if layer < 0 else tape["hidden", layer]
        assert (got[layer] - want[mask]).abs().max() < (1e-10 if double else 1e-5), layer


def test_bfloat16_is_as_near_to_float64_as_in_model_py():
    torch.manual_seed(0)
    model = AlbertModel(tiny_config(hidden_size=64, intermediate_size=256, num_attention_heads=4)).eval().double()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.05)
    ids = torch.randint(0, 31, (64, 16))
    with torch.no_grad():
        want = model(ids).last_hidden_state.flatten(0, 1)
        half = model.bfloat16()
        padded = half(ids).last_hidden_state.flatten(0, 1)
    L = model.config.num_visits
    laid = PackedEncoder(half)(ids.flatten(), ids.flatten() * 0, [16] * 64, [L])[L]
    errors = [(x.double() - want).abs().mean() for x in (laid, padded)]
    assert errors[0] < 1.1 * errors[1], errors


def one_step(model):
    model(torch.tensor([[1, 2, 3]])).last_hidden_state[0, 0].sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@torch.no_grad()
def one_number(model):
    model.encoder.attentions[0].value.bias[3] += 1


@pytest.mark.parametrize(
    "change",
    [
        one_step,
        one_number,
        torch.inference_mode()(one_number),
        lambda model: model.load_state_dict(AlbertModel(model.config).state_dict()),
        lambda model: model.double(),
        lambda model: model.bfloat16().float(),
        lambda model: setattr(model.encoder.attentions[0], "query", torch.nn.Linear(12, 12)),
    ],
    ids=["step", "number", "in inference mode", "state", "float64", "there and back", "module"],
)
def test_a_changed_model_is_followed(change):
    model = AlbertModel(CONFIGS[0]).eval()
    ids = torch.randint(0, 31, (9,))
    encoder = PackedEncoder(model)
    before, copies = encoder(ids, ids * 0, [9], [2])[2], encoder.qkv
    assert torch.equal(encoder(ids, ids * 0, [9], [2])[2], before) and encoder.qkv is copies, "copied once"
    change(model)
    after = encoder(ids, ids * 0, [9], [2])[2]
    assert torch.equal(after, PackedEncoder(model)(ids, ids * 0, [9], [2])[2]) and not torch.equal(after, before)


def test_a_model_loaded_in_inference_mode_runs():
    with torch.inference_mode():
        model = AlbertModel(CONFIGS[0]).eval()
    ids = torch.tensor([1, 2, 3])
    with torch.no_grad():
        want = model(ids[None]).last_hidden_state[0]
    assert (PackedEncoder(model)(ids, ids * 0, [3], [6])[6] - want).abs().max() < 1e-5


def test_a_lower_layer_costs_only_the_layers_below_it():
    model = AlbertModel(CONFIGS[0]).eval()
    encoder, visits = PackedEncoder(model), []
    attend = encoder.attend
    encoder.attend = lambda *arguments: visits.append(1) or attend(*arguments)
    ids = torch.tensor([1, 2, 3])
    for layers, count in [([-1], 0), ([0], 0), ([2], 2), ([1, 3], 3), ([6], 6)]:
        visits.clear()
        assert set(encoder(ids, ids * 0, [3], layers)) == set(layers)
        assert len(visits) == count


def test_keeping_several_layers_changes_none_of_them():
    model = AlbertModel(CONFIGS[0]).eval()
    encoder = PackedEncoder(model)
    ids = torch.randint(0, 31, (9,))
    every = encoder(ids, ids * 0, [4, 4, 1], range(7))
    for layer in range(7):
        assert torch.equal(encoder(ids, ids * 0, [4, 4, 1], [layer])[layer], every[layer])


def test_what_cannot_run_is_refused():
    encoder = PackedEncoder(AlbertModel(CONFIGS[0]).eval())
    ids = torch.ones(17, dtype=torch.long)
    with pytest.raises(InputError, match="17 tokens, the model has P=16"):
        encoder(ids, ids * 0, [17], [1])
    with pytest.raises(InputError, match="layer 7"):
        encoder(ids[:3], ids[:3] * 0, [3], [7])


@pytest.mark.parametrize("dtype, near", [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_the_gelu_written_otherwise_is_the_tanh_form(dtype, near, monkeypatch):
    monkeypatch.setattr(packed, "CACHED", 100)  # several stretches, the last one short
    x = torch.cat([torch.linspace(-12, 12, 1190), torch.tensor([0.0, -1e-20, 40, -40, 1e4, -1e4, 1e15, -1e15, 3, -3])])
    x = x.to(dtype).view(-1, 24)
    bias = torch.linspace(-1, 1, 24).to(dtype)
    want = torch.nn.functional.gelu(x.double() + bias.double(), approximate="tanh")
    got = packed.gelu_new_(x.clone(), bias)
    assert got.dtype == dtype and ((got.double() - want).abs() <= near * want.abs().clamp(min=1)).all()
