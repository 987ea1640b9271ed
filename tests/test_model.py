"""The encoder: masks, depth, stored states, both attentions, and what is refused. Parity is in tests/parity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import AlbertModel, Editor, Recorder
from minialbert.errors import InputError, MiniAlbertError
from tests.conftest import random_batch, tiny_bert, tiny_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AlbertModel(tiny_config(initializer_range=0.3)).double().eval()


def change_all(model, **batch):
    """The attention written out: an edit that changes nothing but the object."""
    return model(**batch, tap=Editor("attention.probs", fn=torch.clone))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 9))
def test_fused_and_written_out_attention_are_equal(model, seed, B, T):
    batch = random_batch(model.config, B, T, seed)
    if seed % 3 == 0:
        batch["attention_mask"][seed % B] = 0  # a row with nothing to attend to
    with torch.no_grad():
        assert (model(**batch)[0] - change_all(model, **batch)[0]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_row_with_nothing_to_attend_to_is_uniform_in_every_precision(dtype):
    torch.manual_seed(0)
    model = AlbertModel(tiny_config(initializer_range=0.3)).to(dtype).eval()
    batch = random_batch(model.config)
    batch["attention_mask"][1] = 0
    tape = Recorder("attention.probs", "attention.context", "attention.v")
    with torch.no_grad():
        out = model(**batch, tap=tape).last_hidden_state
        written = change_all(model, **batch).last_hidden_state
    assert out.isfinite().all() and written.isfinite().all()
    assert (out - written).abs().max() < {torch.float16: 2e-2, torch.bfloat16: 2e-1, torch.float32: 1e-5}[dtype]
    for layer in range(1, 7):
        assert torch.allclose(tape["attention.probs", layer][1].float(), torch.tensor(1 / 9), atol=1e-3)
        mean = tape["attention.v", layer][1].float().mean(1, keepdim=True)
        assert (tape["attention.context", layer][1].float() - mean).abs().max() < 2e-2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_padding_never_changes_a_real_token_beyond_rounding(model, seed, more):
    batch = random_batch(model.config, B=1, T=6, seed=seed)
    padded = {name: torch.nn.functional.pad(x, (0, more), value=int(name == "input_ids")) for name, x in batch.items()}
    with torch.no_grad():
        assert (model(**batch)[0] - model(**padded)[0][:, :6]).abs().max() < 1e-12


def test_any_mask_value_but_zero_attends_and_no_mask_is_all_ones(model):
    batch = random_batch(model.config)
    mask = batch.pop("attention_mask")
    with torch.no_grad():
        want = model(**batch, attention_mask=mask)[0]
        for other in (mask.bool(), mask * 2, mask * -0.5, mask.numpy(), mask.tolist()):
            assert torch.equal(model(**batch, attention_mask=other)[0], want)
        assert (model(**batch)[0] - model(**batch, attention_mask=mask * 0 + 1)[0]).abs().max() < 1e-12


def test_a_boolean_mask_for_each_query_is_taken_as_it_is(model):
    batch = random_batch(model.config)
    mask = batch.pop("attention_mask").bool()
    square = mask[:, None, None, :].expand(3, 1, 9, 9)
    causal = torch.ones(9, 9, dtype=torch.bool).tril().expand(3, 1, 9, 9)
    with torch.no_grad():
        a, b = model(**batch, attention_mask=mask)[0], model(**batch, attention_mask=square)[0]
        assert (a - b).abs().max() < 1e-12
        heads = model(**batch, attention_mask=square.expand(3, 3, 9, 9))[0]
        assert (a - heads).abs().max() < 1e-12
        before = model(**batch, attention_mask=causal)[0]
        batch["input_ids"][:, -1] += 1
        batch["input_ids"] %= 31
        after = model(**batch, attention_mask=causal)[0]
        assert (before[:, :-1] - after[:, :-1]).abs().max() < 1e-12
        assert (before[:, -1] - after[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [tiny_config(), tiny_config(num_hidden_groups=3, inner_group_num=2), tiny_bert()])
def test_depth_stops_after_that_layer_bit_for_bit(config):
    model, batch = AlbertModel(config).eval(), random_batch(config)
    tape = Recorder("hidden")
    with torch.no_grad():
        model(**batch, tap=tape)
        for depth in range(config.num_visits + 1):
            assert torch.equal(model(**batch, depth=depth).last_hidden_state, tape["hidden", depth])


@pytest.mark.parametrize("config", [tiny_config(), tiny_config(num_hidden_groups=3), tiny_bert()])
def test_the_forward_goes_on_from_stored_states_of_any_layer(config):
    model, batch = AlbertModel(config).eval(), random_batch(config)
    tape = Recorder("hidden")
    with torch.no_grad():
        want = model(**batch, tap=tape)
        for layer in range(config.num_visits + 1):
            later = Recorder("hidden")
            out = model(attention_mask=batch["attention_mask"], hidden_states=tape["hidden", layer],
                        from_layer=layer, tap=later)  # fmt: skip
            assert torch.equal(out.last_hidden_state, want.last_hidden_state)
            assert torch.equal(out.pooler_output, want.pooler_output)
            assert {n for _, n in later} == set(range(layer + 1, config.num_visits + 1))


def test_one_shared_block_can_be_visited_more_often_than_it_has_layers(model):
    batch, tape = random_batch(model.config), Recorder("hidden")
    with torch.no_grad():
        model(**batch, tap=tape, depth=20)
        assert torch.equal(tape["hidden", 6], model(**batch)[0]) and ("hidden", 20) in tape
        with pytest.raises(InputError, match="depth=7"):
            AlbertModel(tiny_bert(num_hidden_layers=6))(**batch, depth=7)


def test_position_ids_move_the_output_and_left_out_ones_count_from_zero(model):
    batch = random_batch(model.config)
    with torch.no_grad():
        plain = model(**batch)[0]
        assert torch.equal(plain, model(**batch, position_ids=torch.arange(9)[None])[0])
        assert (plain - model(**batch, position_ids=torch.arange(5, 14).expand(3, 9))[0]).abs().max() > 1e-3


def test_word_vectors_can_be_given_in_place_of_ids(model):
    batch = random_batch(model.config)
    words = model.embeddings.word(batch.pop("input_ids"))
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=words, **batch)[0], model(**random_batch(model.config))[0])


def test_the_trunk_says_what_is_shared(model):
    assert "1 attention and 1 feed-forward sets of weights, 6 visits" in repr(model)
    assert repr(model(**random_batch(model.config))) == (
        "ModelOutput(last_hidden_state: [3, 9, 12], pooler_output: [3, 12])"
    )


def test_training_mode_has_two_hidden_dropouts_a_layer_unless_told_otherwise():
    for ffn, count in [(True, 2), (False, 1)]:
        model = AlbertModel(tiny_config(hidden_dropout_prob=0.5, ffn_dropout=ffn)).train()
        block = [model.encoder.attentions[0].drop_out.p, model.encoder.feed_forwards[0].drop.p]
        assert sum(p > 0 for p in block) == count
    a, b = (model(**random_batch(model.config))[0] for _ in range(2))
    assert not torch.equal(a, b)
    assert torch.equal(*(model.eval()(**random_batch(model.config))[0] for _ in range(2)))


def test_new_weights_are_a_normal_cut_at_two_deviations():
    model = AlbertModel(tiny_config(vocab_size=5000))
    weights = model.embeddings.word.weight
    assert weights.abs().max() <= 0.04 and abs(weights.std() - 0.0176) < 5e-4
    assert model.encoder.attentions[0].query.bias.abs().max() == 0
    assert (model.embeddings.norm.weight == 1).all()


def test_autocast_and_gradients_reach_every_parameter(model):
    model = AlbertModel(tiny_config())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**random_batch(model.config))
    (out.last_hidden_state.float().sum() + out.pooler_output.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


BAD = {
    "neither": ({}, "give either input_ids"),
    "both": ({"input_ids": [[1]], "inputs_embeds": torch.zeros(1, 1, 7)}, "give either input_ids"),
    "one row without a batch": ({"input_ids": [1, 2, 3]}, "input_ids is [3], expected input_ids [B, T]"),
    "a text": ({"input_ids": "a text"}, "text needs a tokenizer"),
    "no tokens": ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "input has T=0 tokens"),
    "states and ids": ({"input_ids": [[1]], "hidden_states": torch.zeros(1, 1, 12).double()}, "leave them out"),
    "states of another width": ({"hidden_states": torch.zeros(1, 2, 5).double()}, "expected [B, T, 12]"),
    "too long": ({"input_ids": [[1] * 17]}, "input has T=17 tokens, the model has P=16 positions. Cut it"),
    "id too large": ({"input_ids": [[1, 31]]}, "input_ids run from 1 to 31, the table has rows 0..30"),
    "id negative": ({"input_ids": [[1, -1]]}, "input_ids run from -1 to 1"),
    "ids that are fractions": ({"input_ids": torch.rand(1, 3)}, "expected whole numbers"),
    "type too large": ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, "token_type_ids run from 0 to 2"),
    "types of another shape": ({"input_ids": [[1, 2]], "token_type_ids": [[0, 1, 1]]}, "token_type_ids is [1, 3]"),
    "positions of another shape": ({"input_ids": [[1, 2]], "position_ids": [[0], [1]]}, "position_ids is [2, 1]"),
    "position too large": ({"input_ids": [[1, 2]], "position_ids": [[0, 16]]}, "position_ids run from 0 to 16"),
    "mask too short": ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask is [1, 1]"),
    "mask in three dimensions": ({"input_ids": [[1, 2]], "attention_mask": torch.ones(1, 2, 2)}, "attention_mask is"),
    "additive mask": ({"input_ids": [[1, 2]], "attention_mask": torch.zeros(1, 1, 2, 2)}, "torch.float32"),
    "embeddings H wide": ({"inputs_embeds": torch.zeros(1, 2, 12)}, "expected [B, T, 7]"),
    "depth too large": ({"input_ids": [[1]], "depth": -1}, "depth=-1"),
    "from a layer without states": ({"input_ids": [[1]], "from_layer": 2}, "from_layer=2 needs hidden_states"),
    "from beyond": ({"hidden_states": torch.zeros(1, 2, 12).double(), "from_layer": 7}, "from_layer=7"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(case, model):
    arguments, words = BAD[case]
    with pytest.raises(InputError) as caught:
        model(**arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, MiniAlbertError)


def test_unknown_arguments_are_refused(model):
    with pytest.raises(TypeError, match="head_mask"):
        model([[1]], head_mask=None)
