"""minialbert trace: 80 columns, one truth with the library, no colour where nobody sees it."""

import dataclasses
import json
import re
import sys
import unicodedata

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.cli import look, main
from minialbert.cli.look import clipped, columns, short
from minialbert.hooks import POINTS
from minialbert.tools.ask import fill_mask, load_with_heads, order
from minialbert.tools.trace import trace

MASKED = "The cat [MASK] on the [MASK]."
STEP = re.compile(r"^  ([a-z_.]+) +\[\d", re.M)
PAIR = ("He opened the door.", "Then he went in.")


@pytest.fixture(scope="module")
def shipped():
    return load_with_heads()


@pytest.fixture
def run(capsys, shipped, monkeypatch):
    """Runs a command; the shipped model is loaded once."""
    monkeypatch.setattr(look, "load_with_heads", lambda ref: shipped if ref is None else load_with_heads(ref))

    def call(*arguments):
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_text_is_told_visit_by_visit_with_the_line_of_each_step(run, shipped):
    status, out, err = run("trace", MASKED)
    assert (status, err) == (0, "")
    headings = re.findall(r"^layer .*$", out, re.M)
    assert headings[:3] == [
        "layer 0: the input",
        "layer 1 of 6: new weights (attention 0, feed-forward 0)",
        "layer 2 of 6: the same weights as layer 1 (attention 0, feed-forward 0)",
    ]
    assert len(headings) == 7 and "\nafter the last layer\n" in out
    assert out.startswith("albert: 1 block, 6 visits\nB=1 T=")
    steps = trace(shipped[0], shipped[1]([MASKED]))
    assert re.findall(r"\S+\.py:\d+$", out, re.M) == [f"{step.file}:{step.line}" for step in steps]
    assert STEP.findall(out) == [step.point for step in steps]
    mid = next(step for step in steps if (step.point, step.layer) == ("mid", 3))
    row = out[out.index("layer 3 of 6") :]
    numbers = [short(x) for x in (mid.mean, mid.std, mid.norm, mid.low, mid.high)]
    assert re.search(r"^  mid .*\]\s+(.*)\n", row, re.M)[1].split() == numbers
    assert "LayerNorm(hidden[2] + attention.out)" in row


def test_the_pieces_and_ids_of_the_text_come_first(run, shipped):
    _, out, _ = run("trace", MASKED, "--point", "pooled")
    found = shipped[1]([MASKED])
    rows = {label: [] for label in ("place", "piece", "id")}
    for line in out.split("mean, std")[0].splitlines():
        if line.split(" ")[0] in rows:
            rows[line.split(" ")[0]] += line.split()[1:]
    assert rows["piece"] == found.tokens[0] and rows["id"] == [str(n) for n in found.input_ids[0]]
    assert rows["place"] == [str(n) for n in range(len(rows["id"]))]


def test_the_heads_say_what_fill_mask_and_order_say(run, shipped):
    _, out, _ = run("trace", MASKED, "--point", "hidden", "--layer", 0)
    for row in fill_mask(*shipped, MASKED, top=3):
        assert ", ".join(f"{guess.piece} {guess.probability:.3f}" for guess in row) in out
    assert "no --pair, so no order" in out
    _, out, _ = run("trace", PAIR[0], "--pair", PAIR[1], "--layer", 0)
    chance = order(*shipped, *PAIR)
    assert f"in order {chance:.3f}, swapped {1 - chance:.3f}" in out and "no [MASK] in the text" in out


def test_json_is_one_object_with_the_steps_of_the_library(run, shipped):
    _, out, err = run("trace", *("He [MASK] it.", "--pair", PAIR[1]), "--json")
    told, batch = json.loads(out), shipped[1]([("He [MASK] it.", PAIR[1])])
    steps = [dataclasses.asdict(step) | {"shape": list(step.shape)} for step in trace(shipped[0], batch)]
    assert err == "" and told["steps"] == steps and len(out.splitlines()) == 1
    assert told["pieces"] == batch.tokens[0] and told["ids"] == batch.input_ids[0].tolist()
    assert told["plan"] == [[0, 0]] * 6 and told["pair"] == PAIR[1]
    with torch.no_grad():
        said = shipped[0](**batch)
    assert told["in_order"] == said.sop_logits.softmax(-1)[0, 0].item()
    place = told["pieces"].index("[MASK]")
    best = said.prediction_logits[0, place].softmax(-1).max().item()
    assert list(told["masks"]) == [str(place)] and len(told["masks"][str(place)]) == 3
    assert told["masks"][str(place)][0]["probability"] == pytest.approx(best, rel=1e-6)


def test_layers_points_and_depth_choose(run):
    _, out, _ = run("trace", "A cat.", "--layer", 0, 3, "--point", "hidden", "attention.probs")
    assert STEP.findall(out) == ["hidden", "attention.probs", "hidden"]
    assert "layer 3 of 6: the same weights as layers 1, 2 " in out and "layer 2" not in out
    _, out, _ = run("trace", "A cat.", "--depth", 8, "--point", "hidden")
    assert out.startswith("albert: 1 block, 8 visits\n")
    assert "layer 8 of 8: the same weights as layers 1-7 (" in out
    _, out, _ = run("trace", "A cat.", "--depth", 0)
    assert re.findall(r"^layer .*$", out, re.M) == ["layer 0: the input"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--point", "attention"], "no point named 'attention'. Nearest: attention.q"),
        (["--layer", "7"], "layer 7: this run has layers 0..6"),
        (["--layer", "1", "3", "--depth", "2"], "layer 3: this run has layers 0..2"),
        (["--point", "pooled", "--layer", "2"], "nothing passes pooled at layer 2"),
        (["--depth", "-1"], "depth=-1"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(run, arguments, said):
    status, out, err = run("trace", "A cat.", *arguments)
    assert (status, out, len(err.splitlines())) == (1, "", 1) and err.startswith("error: ") and said in err


def test_an_empty_text_is_traced_and_one_that_is_too_long_is_refused(run, shipped):
    status, out, _ = run("trace", "")
    assert status == 0 and "[CLS]  [SEP]" in out
    P = shipped[0].config.max_position_embeddings
    status, out, err = run("trace", "cat " * P)
    assert (status, out) == (1, "") and f"T={P + 2} tokens, the model has P={P} positions" in err
    status, out, _ = run("trace", "cat " * (P - 2), "--point", "attention.scores", "--layer", 1)
    assert status == 0 and f"[1, 4, {P}, {P}]" in out and max(map(len, out.splitlines())) <= 80


def test_a_bert_without_heads_is_traced_too(run, minilm):
    status, out, err = run("trace", "A cat.", "--model", minilm)
    assert status == 0 and out.startswith("bert: 6 blocks, 6 visits\n")
    assert "layer 3 of 6: new weights (attention 2, feed-forward 2)" in out
    assert "gelu(ffn.pre)" in out and "embeddings, H wide as they are" in out
    assert out.endswith("no head was saved with this model, so it says no word and no order\n")
    status, _, err = run("trace", "A cat.", "--model", minilm, "--point", "mlm.logits")
    assert status == 1 and "in an AlbertModel nothing passes mlm.logits" in err
    told = json.loads(run("trace", "A [MASK].", "--pair", "So.", "--model", minilm, "--json")[1])
    assert told["masks"] == {} and told["in_order"] is None and told["plan"] == [[i, i] for i in range(6)]


def test_a_bert_with_its_heads_is_asked_whether_the_second_follows(run, minilm, tmp_path):
    encoder, tokenizer = minialbert.load(minilm)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "embedding_size": 12, "intermediate_size": 8, "num_attention_heads": 2}
    small = dataclasses.replace(encoder.config, **sizes, vocab_size=encoder.config.vocab_size + 6)
    model = minialbert.AlbertForPreTraining(small)
    with torch.no_grad():
        model.mlm.bias[-6:] = 100.0  # rows that fill a table up and are no words
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, out, _ = run("trace", "A [MASK].", "--pair", "So.", "--model", tmp_path, "--point", "sop.logits")
    assert re.search(r"^  the pair: follows 0\.\d{3}, does not 0\.\d{3}$", out, re.M) and "at place 2: " in out
    minialbert.AlbertForMaskedLM(small).save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    _, out, _ = run("trace", "A [MASK].", "--pair", "So.", "--model", tmp_path / "words", "--point", "mlm.logits")
    assert "at place 2: " in out and "pair" not in out


# ---- 80 columns ----

CHARACTERS = "abc .,Äß你好世界カナ한국어😀🚀ＡＢаб\x1b\t\u202eﬁ"


def width_of(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(CHARACTERS, max_size=40), min_size=1, max_size=12))
@example(["你" * 60])
@example(["\x1b[31mred"])
@example(["a " * 13])
def test_no_line_is_wider_than_80_columns(run, words):
    status, out, _ = run("trace", " ".join(words), "--point", "hidden", "attention.scores", "--layer", 0, 6)
    assert status == 0 and "\x1b" not in out and "\u202e" not in out
    assert max(map(width_of, out.splitlines())) <= 80


@pytest.mark.parametrize("T", range(1, 31))
def test_no_line_is_wider_for_any_number_of_tokens(run, T):
    _, out, _ = run("trace", "cat " * (T - 2) if T > 2 else "", "--point", "pooled", "sop.logits")
    assert max(map(width_of, out.splitlines())) <= 80


def test_every_step_of_the_whole_page_fits(run):
    _, out, _ = run("trace", f"{MASKED} 你好 😀 ❤️")
    assert max(map(len, out.splitlines())) <= 80
    ends = {len(line) for line in out.splitlines() if re.search(r"\.py:\d+$", line)}
    assert ends == {80}  # the lines of code stand in one column, at the right edge


@settings(deadline=None)
@given(st.floats(-1e300, 1e300))
@example(-99.9996)
@example(-9999.97)
@example(-0.00099999)
@example(-9.96e-100)
def test_a_number_takes_seven_columns_and_keeps_its_size(x):
    assert len(short(x)) <= 7
    digits = 0.06 if 1e-9 <= abs(x) < 9e98 else 0.5  # one digit beside a long power
    assert float(short(x)) == pytest.approx(x, rel=digits, abs=1e-300)


def test_short_numbers():
    numbers = (0.0, 1.0, -0.0123, 12.3456, -123.456, 12345.6, 3.4e38, 1.25e-7, float("nan"), float("-inf"))
    assert [short(x) for x in numbers] == [
        "0.000", "1.000", "-0.012", "12.346", "-123.5", "1.2e4", "3.4e38", "1.2e-7", "nan", "-inf",
    ]  # fmt: skip


def test_columns_of_wide_characters_marks_and_emoji():
    assert [columns(text) for text in ("abc", "你好", "😀", "e\u0301", "❤\ufe0f", "")] == [3, 4, 2, 1, 2, 0]
    assert clipped("你好世界", 5) == "你好…" and clipped("abc", 3) == "abc" and clipped("abcd", 3) == "ab…"
    assert clipped("a\x1b[0mb", 9) == "a\N{REPLACEMENT CHARACTER}[0mb"


# ---- colour ----


def test_colours_only_on_a_terminal_that_wants_them(run, monkeypatch):
    plain = run("trace", MASKED)[1]
    assert "\x1b" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = run("trace", MASKED)[1]
    assert "\x1b[1m" in coloured and re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert all(line.count("\x1b") in (0, 2) for line in coloured.splitlines())  # a pager may cut anywhere
    assert "\x1b" not in run("trace", MASKED, "--json")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("trace", MASKED)[1] == plain


def test_every_point_is_on_the_page(run):
    _, out, _ = run("trace", "A cat.")
    assert set(STEP.findall(out)) == set(POINTS)


def test_a_text_behind_layer_is_told_where_it_stands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trace", "--layer", "0", "1", "A cat."])
    assert stopped.value.code == 2
    assert "'A cat.' is no number of a layer; TEXT stands before --layer" in capsys.readouterr().err
