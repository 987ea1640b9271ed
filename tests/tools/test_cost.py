"""Computed costs against a run: FLOPs, the peak of a forward, what the backward pass keeps, a whole step."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert import AlbertForPreTraining, AlbertModel
from minialbert.cli import main
from minialbert.config import ACTIVATIONS, PRESETS, AlbertConfig
from minialbert.convert import load
from minialbert.errors import InputError
from minialbert.tools.cost import answers, bert_of_the_same_shape, cost, released, short
from minialbert.tools.cost_measuring import Side, cache_effect, cache_sizes, check_memory, in_turns, measure
from minialbert.tools.count import counted
from tests.conftest import TINY, tiny_bert, tiny_config

BASE = AlbertConfig.preset("albert-base-v2")
SMALL = {"vocab_size": 100, "num_attention_heads": 4, "max_position_embeddings": 32, "num_labels": 2}
FEW = 64  # bytes of single numbers that a run keeps (counts of labels), and that no size decides


@pytest.mark.parametrize("family", ["albert", "bert"])
@pytest.mark.parametrize("name, length", [("tiny", 128), ("albert-base-v2", 128), ("albert-large-v2", 16)])
def test_what_is_computed_is_what_a_forward_counts_at_three_sizes(name, length, family):
    config = load()[0].config if name == "tiny" else AlbertConfig.preset(name)
    config = config if family == "albert" else bert_of_the_same_shape(config)
    with torch.device("meta"):
        model = AlbertModel(config)
    model, ids, computed = (
        model.to_empty(device="cpu"),
        torch.ones(1, length, dtype=torch.long),
        cost(config, 1, length),
    )
    with torch.inference_mode():
        forward = counted(lambda: model(ids))
    assert (forward.flops, forward.peak_bytes) == (2 * computed.total_multiply_adds, computed.inference_bytes)
    kept = counted(lambda: model(ids))
    assert kept.saved_bytes == computed.training_bytes
    assert 1 <= kept.peak_bytes / kept.saved_bytes < 1.02  # a forward of training needs little more than it keeps


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_computed_is_what_a_run_counts_for_any_configuration(data):
    """To the byte and the FLOP: every activation, kind of sharing, dropout, with and without heads."""
    draw, rate = data.draw, st.sampled_from([0.0, 0.1])
    L = draw(st.integers(1, 4), "L")
    config = AlbertConfig(
        **SMALL, hidden_size=64, num_hidden_layers=L, num_hidden_groups=draw(st.integers(1, L), "G"),
        inner_group_num=draw(st.integers(1, 2), "inner"), embedding_size=draw(st.sampled_from([16, 64]), "E"),
        intermediate_size=draw(st.sampled_from([64, 256]), "F"), hidden_act=draw(st.sampled_from(ACTIVATIONS), "act"),
        hidden_dropout_prob=draw(rate, "dropout"), attention_probs_dropout_prob=draw(rate, "of probs"),
        ffn_dropout=draw(st.booleans(), "of the feed-forward"), sop_dropout_prob=draw(rate, "of the order head"),
        parameter_sharing=draw(st.sampled_from(["all", "attention", "ffn", "none"]), "sharing"),
    )  # fmt: skip
    B, T = draw(st.integers(2, 4), "B"), draw(st.integers(8, 24), "T")
    masked = draw(st.sampled_from([None, 3, T]), "masked")
    computed, run = cost(config, B, T, masked=masked), Side(config, B, T, masked).counted()
    assert run["flops"] == 2 * computed.total_multiply_adds
    assert run["step_flops"] == 2 * computed.step_multiply_adds
    assert run["inference_bytes"] == computed.inference_bytes
    assert 0 <= run["training_bytes"] - computed.training_bytes <= FEW


@pytest.mark.parametrize("changes", [{}, {"num_hidden_groups": 6}, {"hidden_dropout_prob": 0.1}])
@pytest.mark.parametrize("B, T, masked", [(1, 8, None), (8, 32, None), (8, 32, 5)])
def test_a_step_needs_no_more_than_its_gradients_and_what_it_kept(changes, B, T, masked):
    """At first all activations and no gradient, at last the other way round, in between some of both.

    On top: a matrix whose gradient is being summed over visits, and the logits with their gradient.
    """
    config = AlbertConfig(
        **SMALL, embedding_size=32, hidden_size=128, num_hidden_layers=6, intermediate_size=512, **changes
    )
    computed, peak = cost(config, B, T, masked=masked), Side(config, B, T, masked).counted()["step_peak_bytes"]
    assert max(computed.gradient_bytes, computed.training_bytes) <= peak
    top = 2 * 4 * 128 * 512 + 4 * B * T * 512 * 2 + 2 * 4 * B * (masked or 0) * config.vocab_size
    assert peak <= computed.gradient_bytes + computed.training_bytes + top


def test_a_number_of_two_bytes_halves_every_figure_and_a_run_agrees():
    config = tiny_config(hidden_size=96, intermediate_size=384)
    whole, half = cost(config, 2, 16), cost(config, 2, 16, item_bytes=2)
    assert whole.weight_bytes == 2 * half.weight_bytes and whole.total_multiply_adds == half.total_multiply_adds
    side = Side(config, 2, 16, None)
    side.whole.to(torch.bfloat16)
    run = side.counted()
    assert run["inference_bytes"] == half.inference_bytes
    assert abs(run["training_bytes"] / half.training_bytes - 1) < 0.01


def test_padding_adds_a_copy_of_the_context_in_every_layer():
    config, mask = tiny_config(hidden_size=96, intermediate_size=384), torch.ones(4, 16)
    mask[1:, 9:] = 0
    model, ids = AlbertModel(config), torch.ones(4, 16, dtype=torch.long)
    more = counted(lambda: model(ids, mask)).saved_bytes - cost(config, 4, 16).training_bytes
    copies = 6 * 4 * 16 * 96 * 4
    assert copies < more < 1.02 * copies  # the rest is the mask


# ---- known facts ----


def test_sharing_saves_parameters_and_no_work():
    """22,373,597,184 FLOPs of albert-base-v2 at T = 128: linear maps, projection, pooler, products of the attention."""
    bert = bert_of_the_same_shape(BASE)
    ours, theirs = cost(BASE), cost(bert)
    T, E, H, L = 128, 128, 768, 12
    maps, products = 2 * L * T * (4 * H * H + 2 * H * 4 * H), 2 * L * 2 * T * T * H
    projection, pooler = 2 * T * E * H, 2 * H * H
    assert maps + products + projection + pooler == 2 * ours.total_multiply_adds == 22_373_597_184
    assert (maps, products, projection, pooler) == (21_743_271_936, 603_979_776, 25_165_824, 1_179_648)
    assert 2 * (ours.total_multiply_adds - theirs.total_multiply_adds) == projection
    assert ours.total_parameters == 11_683_584 and theirs.total_parameters == 109_081_344
    assert bert.is_bert_shaped
    unshared = cost(replace(BASE, num_hidden_groups=12))
    assert unshared.total_multiply_adds == ours.total_multiply_adds
    assert unshared.training_bytes == ours.training_bytes and unshared.inference_bytes == ours.inference_bytes


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_a_model_and_bert_has_its_own_shape(name):
    config = AlbertConfig.preset(name)
    with torch.device("meta"):
        model = AlbertForPreTraining(config)
    found = cost(config, masked=20)
    assert found.total_parameters == sum(p.numel() for p in model.parameters())
    assert found.gradient_bytes == found.weight_bytes == 4 * found.total_parameters == found.moment_bytes // 2
    if config.model_type == "bert":
        assert bert_of_the_same_shape(config) == config


def test_the_word_head_is_where_a_narrow_table_saves_work():
    ours, theirs = cost(BASE, masked=128), cost(bert_of_the_same_shape(BASE), masked=128)
    assert ours.multiply_adds["mlm"] == 128 * (768 * 128 + 128 * 30_000)
    assert theirs.multiply_adds["mlm"] == 128 * (768 * 768 + 768 * 30_000)
    assert 0.8 < ours.total_multiply_adds / theirs.total_multiply_adds < 0.85
    said = answers(BASE, ours, theirs)[0]
    assert said.startswith("In part: it does 0.8") and "difference is in mlm: 2.52 G less" in said


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"length": 0}, {"length": 513}, {"item_bytes": 0}, {"masked": 0}, {"masked": 129}],
)
def test_what_no_model_can_do_is_refused(changes):
    with pytest.raises(InputError, match=r"at least 1|expected"):
        cost(BASE, **changes)


# ---- the answers ----


def test_the_answers_are_computed():
    lines = answers(BASE, cost(BASE), cost(bert_of_the_same_shape(BASE)), released())
    assert len(lines) == 3 and "1.001 times BERT's work, 12 layers" in lines[0]
    assert "9.3 times fewer weights, 1.00 times the activations" in lines[1]
    assert "44.6 MiB and not 416 MiB" in lines[2] and "27.0 MiB and not 324 MiB" in lines[2]
    large = AlbertConfig.preset("albert-xxlarge-v2")  # fewer parameters than BERT-large, and many times its work
    said = answers(large, cost(large), cost(bert_of_the_same_shape(large)), released())[0]
    assert "bert-large-uncased, with 1.5 times its parameters, does 0.13 of its work." in said
    unshared = replace(BASE, num_hidden_groups=12)
    assert "324 MiB in both" in answers(unshared, cost(unshared), cost(bert_of_the_same_shape(unshared)))[2]
    bert = AlbertConfig.preset("bert-base-uncased")
    assert answers(bert, cost(bert), cost(bert))[0].startswith("No, this is a BERT")
    assert released(length=512) and not released(length=513)


def test_numbers_are_said_short():
    said = [short(7), short(999), short(1500), short(11_683_584), short(109_081_344), short(22_373_597_184)]
    assert said == ["7", "999", "1.50 k", "11.7 M", "109 M", "22.4 G"]
    assert [short(48 * 1024, "B"), short(46_734_336, "B"), short(10, "B")] == ["48.0 KiB", "44.6 MiB", "10 B"]


# ---- measuring ----


@pytest.mark.parametrize("masked", [None, 2])
def test_both_sides_are_counted_and_timed(masked):
    found = measure(tiny_config(), 2, 8, masked, text=4, repeats=1)
    assert json.loads(json.dumps(found)) == found
    for name, config in (("model", tiny_config()), ("bert", bert_of_the_same_shape(tiny_config()))):
        assert found["counted"][name]["flops"] == 2 * cost(config, 2, 8, masked=masked).total_multiply_adds
    assert list(found["seconds"]) == ["B=1 T=4", "B=2 T=8"]
    assert [row["tokens"] for row in found["layer"]] == [1, 4] and found["layer"][0]["rounds"] == 8
    for row in (*found["seconds"].values(), *found["layer"]):
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"] and row["bert"]["low"] > 0
    assert found["block_bytes"]["bert"] == TINY["num_hidden_layers"] * found["block_bytes"]["model"]
    assert "6 layers read" in found["said"]


def test_sides_take_turns_and_the_first_round_does_not_count():
    turns = []
    found = in_turns({"model": lambda: turns.append("a"), "bert": lambda: turns.append("b")}, rounds=2)
    assert turns == ["a", "b"] * 3 and found["rounds"] == 2


@pytest.mark.parametrize(
    "low, high, bert, words",
    [(0.6, 0.7, 12, "not read from memory again"), (0.9, 1.1, 12, "no gain that stands out of the noise"),
     (1.2, 1.3, 12, "which sharing does not explain"), (0.9, 1.1, 1, "nothing is shared")],
)  # fmt: skip
def test_the_sentence_about_the_cache_follows_the_times(low, high, bert, words):
    row = {"tokens": 16, "ratio": {"median": (low + high) / 2, "low": low, "high": high}}
    found = {"machine": {"caches": {"L2": 2 << 20}}, "block_bytes": {"model": 1 << 20, "bert": bert << 20}}
    said = cache_effect(12, found | {"layer": [row]})
    assert words in said and "L2 2.00 MiB" in said and f"{(low + high) / 2:.2f} at T=16" in said


def test_caches_are_read_where_the_system_tells(tmp_path):
    rows = [("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "2", "2048K"), ("Unified", "3", "32M")]
    for number, row in enumerate(rows):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("type", "level", "size"), row, strict=True):
            (folder / name).write_text(value + "\n")
    (tmp_path / "index9").mkdir()
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 32 << 20}
    assert cache_sizes(tmp_path / "none") == {}


def test_models_that_do_not_fit_are_refused_before_they_are_made(tmp_path):
    free = tmp_path / "meminfo"
    free.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    check_memory(2 << 20, free)
    with pytest.raises(InputError, match=r"need .* and 2\.00 MiB are free"):
        check_memory((2 << 20) + 1, free)
    check_memory(1 << 60, tmp_path / "none")  # nobody tells
    with pytest.raises(InputError, match="repeats=0"):
        measure(tiny_config(), repeats=0)


# ---- the command ----


def test_the_command_takes_names_files_models_and_changes(tmp_path, capsys):
    AlbertModel(tiny_config()).save_pretrained(tmp_path)

    def parameters(*arguments: str) -> int:
        assert main(["cost", *arguments, "--length", "8", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["model"]["total_parameters"]

    tiny = tiny_config().count_parameters()["model"]
    assert parameters(str(tmp_path)) == parameters(str(tmp_path / "config.json")) == tiny
    assert parameters(str(tmp_path / "model.safetensors")) == tiny
    assert parameters() == load()[0].config.count_parameters()["model"] == parameters("minialbert-tiny-en")
    assert (
        parameters("albert-base-v2", "--set", "num_hidden_groups=12")
        == cost(replace(BASE, num_hidden_groups=12)).total_parameters
    )


def test_the_page_is_80_columns_wide_and_ends_with_the_answers(capsys):
    assert main(["cost", "albert-xxlarge-v2", "--batch", "64", "--length", "512", "--masked", "77"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "dropout, on a CPU" in out
    page, said = out.split("\nIs it faster than BERT?\n")
    assert said.count("\n  ") - said.count("\n    ") == 2 and "counted in a run" not in page  # three lines begin
    for word in ("mlm", "sop", "moments", "gradients, sent in every step", "a forward of bert-large-uncased"):
        assert word in page


def test_a_measured_page_says_that_counts_are_as_computed(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_bert().to_json() | {"max_position_embeddings": 64}))
    before = torch.get_num_threads()
    try:
        assert main(["cost", str(path), "--length", "64", "--measure", "--repeats", "1", "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(before)
    out, err = capsys.readouterr()
    assert "counted in a run" in out and "off what was computed" not in out and "1 thread;" in out
    told = " ".join(out.split())
    assert "Measured: a forward takes this share of BERT's time" in told and "4 layers read" in told and "timing" in err
    assert max(map(len, out.splitlines()[1:])) <= 80  # the first is as long as the path


@pytest.mark.parametrize(
    "arguments, words",
    [(["--length", "513"], "at most P=512"), (["--masked", "129"], "masked=129"), (["--set", "hiden=1"], "Nearest"),
     (["--measure", "--dtype", "bfloat16"], "float32"), (["--measure", "--threads", "0"], "--threads 0"),
     (["--measure", "--repeats", "0"], "repeats=0"), (["no-such-model"], "no preset"), (["a/b.json"], "a/b.json")],
)  # fmt: skip
def test_what_cannot_be_told_is_one_line(arguments, words, capsys):
    assert main(["cost", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
