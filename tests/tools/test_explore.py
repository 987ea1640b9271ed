"""The page's numbers are those of the library, its text stays text, and its file is whole. What it does in a browser is
in test_explore_browser.py."""

import base64
import dataclasses
import hashlib
import json
import re
from importlib.resources import files
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import AlbertForPreTraining, Recorder
from minialbert.cli import main
from minialbert.errors import FileError, InputError
from minialbert.tools.ask import fill_mask, load_with_heads
from minialbert.tools.explore import MOST, explore, look, page, write
from minialbert.tools.lens import layer_distances, logit_lens, token_path
from minialbert.tools.trace import trace
from tests.conftest import tiny_bert, tiny_config

SENTENCE = (
    "The old captain looked at the dark sea, and [MASK] that the storm would come before the ship could reach the "
    "quiet harbour late at night."
)
TEXTS = {  # kinds of text that have broken pages
    "empty": "", "one token": "a", "Chinese": "日本語のテキスト", "right to left": "שלום עולם العربية",
    "emoji": "a 👩‍👩‍👧 😀 b", "controls": "a\0b\x1b[31m\u2028\u2029\ufeff", "surrogate": "a \ud800 b",
    "markup": "</script><script>alert(1)</script> <!-- <b>&amp; @DATA@ @SCRIPT@ {{ }}",
}  # fmt: skip


@pytest.fixture(scope="module")
def shipped():
    return load_with_heads()


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])


def close(shown, exact, rel=6e-4):
    return torch.allclose(torch.tensor(shown).double(), exact.double(), rtol=rel, atol=1e-9)


# ---- the numbers ----


def test_every_number_is_that_of_the_library(shipped):
    model, tokenizer = shipped
    data = look(model, tokenizer, SENTENCE, "They were right.")
    batch = tokenizer([(SENTENCE, "They were right.")])
    T = batch.input_ids.shape[1]
    tape = Recorder("attention.probs")
    with torch.no_grad():
        model(**batch, tap=tape)
    assert data["tokens"] == batch.tokens[0]
    for layer in range(1, 7):
        shown = torch.tensor(data["attention"][layer - 1]).view(4, T, T) / 1e6
        assert (shown - tape["attention.probs", layer][0]).abs().max() < 6e-7
    path, moved = token_path(model, batch), layer_distances(model, batch)
    assert close(data["path"]["points"], path.points) and close(data["path"]["share"], path.share)
    assert close(data["distances"]["l2"], moved.l2, 1e-5) and close(data["distances"]["degrees"], moved.degrees, 1e-5)
    steps = trace(model, batch)
    assert [(s["point"], s["layer"], s["line"], s["formula"]) for s in data["steps"]] == [
        (s.point, s.layer, s.line, s.formula) for s in steps
    ]
    for shown, step in zip(data["steps"], steps, strict=True):
        assert shown["norm"] == pytest.approx(step.norm, rel=1e-5) and shown["shape"] == list(step.shape)


def test_the_lens_is_the_lens_and_its_last_layer_is_what_the_model_answers(shipped):
    model, tokenizer = shipped
    data = look(model, tokenizer, SENTENCE)
    found = logit_lens(model, tokenizer([SENTENCE]), top=5)
    assert len(data["lens"]) == 7 and all(len(layer) == len(data["tokens"]) for layer in data["lens"])
    for layer, row in enumerate(data["lens"]):
        for place, cell in enumerate(row):
            assert [piece for piece, _ in cell] == tokenizer.convert_ids_to_tokens(found.ids[layer, 0, place].tolist())
            assert close([p for _, p in cell], found.probabilities[layer, 0, place])
    place = data["tokens"].index("[MASK]")
    assert data["start"] == place
    for (piece, p), guess in zip(data["lens"][6][place], fill_mask(model, tokenizer, SENTENCE)[0], strict=True):
        assert piece == guess.piece and p == pytest.approx(guess.probability, rel=1e-3)


def test_the_python_on_the_page_gives_the_map_that_is_shown(shipped):
    data = look(*shipped, 'It\'s "so"', "\\n")
    assert data["call"] == "tokenizer([('It\\'s \"so\"', '\\\\n')])" and data["model"]["load"] == "minialbert.load()"
    model, tokenizer = minialbert.load()
    tape = Recorder("attention.probs", layers=3)
    model(**eval(data["call"], {"tokenizer": tokenizer}), tap=tape)
    shown = torch.tensor(data["attention"][2][1]) / 1e6
    assert (shown - tape["attention.probs", 3][0, 1].flatten()).abs().max() < 6e-7
    assert data["model"]["digest"] == model.digest()


def test_looking_changes_nothing_in_the_model(shipped):
    _, tokenizer = shipped
    model = AlbertForPreTraining.from_pretrained("minialbert-tiny-en").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert look(model, tokenizer, "Some text.") == look(model, tokenizer, "Some text.")  # no dropout while looking
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "config, plan",
    [
        (tiny_config(num_hidden_groups=2), [[0, 0]] * 3 + [[1, 1]] * 3),
        (tiny_bert(), [[i, i] for i in range(4)]),
        (tiny_config(parameter_sharing="attention"), [[0, i] for i in range(6)]),
    ],
    ids=["groups", "bert", "attention shared"],
)
def test_the_page_has_the_sharing_plan_of_any_model(config, plan, shipped):
    tokenizer = shipped[1]
    model = AlbertForPreTraining(dataclasses.replace(config, vocab_size=len(tokenizer))).eval()
    data = data_of(explore(model, tokenizer, "a b"))
    assert data["model"]["plan"] == plan and len(data["attention"]) == len(plan) and len(data["lens"]) == len(plan) + 1
    assert data["model"]["block"] == sum(p.numel() for p in model.albert.encoder.parameters())


def test_a_model_without_a_head_says_so_and_a_bert_has_its_own_words(minilm):
    model, tokenizer = load_with_heads(minilm)
    data = look(model, tokenizer, "The bank.", ref=minilm)
    assert (
        data["lens"] is None
        and data["missing"] == "This AlbertModel has no head for masked words, so there is nothing to ask."
    )
    assert data["model"]["name"] == "model" and data["model"]["load"] == "minialbert.load('model')"
    assert str(minilm.parent) not in page(data), "where somebody keeps files is not for readers"


# ---- the text stays text ----


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_gives_a_page_with_that_text_in_it(shipped, text):
    html = explore(*shipped, text, pair=text)
    html.encode()
    data = data_of(html)
    assert data["text"] == data["pair"] == text
    assert html.count("<script") == html.count("</script") == 2 and "alert(1)" not in re.sub(
        r'<script id="data".*?</script>', "", html, flags=re.S
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.text("<>/scriptSCRIPT!-&@DATA\u2028\\\"'"))
def test_no_text_becomes_markup(text):
    data = {"text": text, "tokens": [text], "lens": None}
    html = page(data)
    assert data_of(html) == data
    block = html[html.index('<script id="data"') :]
    assert "<" not in block[block.index(">") + 1 : block.index("</script>")]


def test_the_policy_allows_this_style_and_this_script_and_nothing_else():
    html = page({"text": ""})
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, name in (("style", "style"), ("script", "script")):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert re.findall(r"https?://[^\"')\s]+", html) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", html)
    assert not re.search(r"\bstyle=|\bon\w+=\"|<link|<img|@import|url\(", html)


# ---- how much it holds ----


def test_thirty_tokens_of_the_shipped_model_are_far_below_two_megabytes(shipped):
    html = explore(*shipped, SENTENCE)
    assert len(data_of(html)["tokens"]) == 30
    print(f"30 tokens, 6 x 4 heads: {len(html):,} bytes")
    assert len(html) < 300_000


def test_base_size_fits_too(shipped):
    tokenizer = shipped[1]
    sizes = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 48, "vocab_size": len(tokenizer)}
    model = AlbertForPreTraining(tiny_config(**sizes, max_position_embeddings=128)).eval()
    for words in (28, 126):
        html = explore(model, tokenizer, "the " * words)
        print(f"{words + 2} tokens, 12 x 12 heads: {len(html):,} bytes")
        assert len(html) < (2_000_000 if words == 28 else 18_000_000)


def test_a_text_that_is_too_long_is_refused_in_one_line(shipped):
    with pytest.raises(InputError, match=r"T=602 tokens, the model has P=512 positions"):
        explore(*shipped, "the " * 600)
    with pytest.raises(InputError, match=rf"L A T T = 6,048,\d+ numbers; a page holds {MOST:,}: .* up to 408 tokens$"):
        explore(*shipped, "the " * 500)


def test_numbers_that_are_not_finite_are_refused(shipped):
    _, tokenizer = shipped
    model = AlbertForPreTraining.from_pretrained("minialbert-tiny-en")
    with torch.no_grad():
        model.albert.encoder.attentions[0].query.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"^attention\.probs at layer 1 holds numbers that are not finite"):
        explore(model, tokenizer, "Some text.")


# ---- the colours ----


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_the_scale_of_colours_is_monotone_in_lightness(theme):
    """So it reads in grey and by any kind of colour vision: lightness alone carries the number."""
    css = (files("minialbert.tools.explore") / "page.css").read_text(encoding="utf-8")
    stops = [re.search(rf"--s{i}: light-dark\((#\w+), (#\w+)\)", css).groups()[theme] for i in range(6)]
    lightness = [luminance(stop) ** (1 / 3) for stop in stops]
    steps = [b - a for a, b in pairwise(lightness)]
    assert all(step < -0.05 for step in steps) if theme == 0 else all(step > 0.05 for step in steps)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- the file, and the command ----


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    target.write_text("what was there")
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(FileError, match="cannot be written"):
        write("new", target)
    monkeypatch.undo()
    assert target.read_text() == "what was there" and list(tmp_path.iterdir()) == [target]
    write("new ☃", target)
    assert target.read_text(encoding="utf-8") == "new ☃" and list(tmp_path.iterdir()) == [target]


def refuse(path, data):
    with open(path, "wb") as file:
        file.write(data[:1])
    raise OSError(28, "No space left on device")


def test_explore_writes_a_page_and_says_where(tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["explore", "The cat [MASK].", "--pair", "It slept.", "--output", str(target)]) == 0
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(rf"{target}: [\d,]+ bytes; open it in a browser\n", err)
    data = data_of(target.read_text(encoding="utf-8"))
    assert data["command"] == "minialbert explore 'The cat [MASK].' --pair 'It slept.' --output page.html"


@pytest.mark.parametrize("place, said", [("none/page.html", "there is no directory"), (".", "is a directory")])
def test_explore_refuses_a_place_it_cannot_write_to_before_any_work(tmp_path, capsys, place, said):
    assert main(["explore", "Text.", "--model", "/no/such/model", "--output", str(tmp_path / place)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
