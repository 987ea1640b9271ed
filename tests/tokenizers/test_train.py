"""A vocabulary with ALBERT's recipe: the recorded one again, its layout, what it is measured on, what is refused."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import minialbert.tokenizers.train as train
from minialbert.errors import CheckpointError, FileError, InputError
from minialbert.protobuf import fields
from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer
from minialbert.tokenizers.model_file import NORMAL, NORMALIZER, PIECES, USER_DEFINED
from minialbert.tokenizers.normalize import clean
from minialbert.tokenizers.train import SIGNS, SPECIAL, Draw, Options, Report, check_layout, pieces_of, train_tokenizer
from tests.tokenizers.texts import SENTENCES, TINY, any_text, fuzz

DEFAULTS = Options(500, True, False, SIGNS, 0.99995, "hf", 0.01, 10_000_000, 0, 16)


def parts(data: bytes, which: int) -> list[bytes]:
    return [bytes(part) for field, part in fields(data) if field == which]


def learn(texts, directory: Path, **how) -> tuple[Report, Tokenizer, dict[str, int]]:
    """A vocabulary, and its pieces with their kinds."""
    report = train_tokenizer(texts, directory, **({"size": 500, "held_out": 0, "threads": 1} | how))
    return report, load_tokenizer(directory), dict(pieces_of((directory / "spiece.model").read_bytes()))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Report, Tokenizer, dict[str, int]]:
    return learn(SENTENCES, tmp_path_factory.mktemp("tiny") / "vocabulary")


def said(*arguments, **how) -> str:
    """The message of the InputError that comes."""
    with pytest.raises(InputError) as caught:
        train_tokenizer(*arguments, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the recipe ----


@pytest.mark.parametrize("flavor", ["google", "hf"])
@pytest.mark.filterwarnings("ignore:.*in transformers, other ids")
def test_the_recipe_gives_the_recorded_vocabulary_piece_by_piece_and_score_by_score(tmp_path, flavor):
    """The corpus has no doubled apostrophes: both flavors clean it alike.

    Older versions of the library learn otherwise: 403 of these pieces (0.2.0, 0.2.1), 292 (0.2.2).
    """
    learn(SENTENCES, tmp_path / "again", flavor=flavor)
    again, recorded = (tmp_path / "again" / "spiece.model").read_bytes(), TINY.read_bytes()
    if sentencepiece.__version__ in ("0.2.0", "0.2.1", "0.2.2"):
        assert pieces_of(again)[:13] == pieces_of(recorded)[:13]
        assert len(set(pieces_of(again)) & set(pieces_of(recorded))) >= 292
        return
    assert parts(again, PIECES) == parts(recorded, PIECES)  # text, score and kind, to the last bit
    assert parts(again, NORMALIZER) == parts(recorded, NORMALIZER)


def test_ids_are_laid_out_as_in_the_official_model(tiny):
    report, tokenizer, pieces = tiny
    assert list(pieces)[:14] == [*SPECIAL, "(", ")", '"', "-", ".", "–", "£", "€", "▁"]
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("[MASK]") == [2, 4, 3] and len(tokenizer) == len(pieces) == 500
    kinds = ["control", "unknown"] + ["control"] * 3 + ["user-defined"] * 8
    assert report.first[:13] == [(n, name, kinds[n]) for n, name in enumerate([*SPECIAL, *SIGNS])]
    assert report.first[13] == (13, "▁", "") and len(report.first) == 21


def test_the_check_of_the_layout_finds_the_trap_of_signs_in_one_string():
    """As one string with commas the double quote begins a quoted field, and the ids behind it shift."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=out, vocab_size=500, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols="[CLS],[SEP],[MASK]", user_defined_symbols=",".join(SIGNS), num_threads=1, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"mine: id 7 is ',-,.*' \(user-defined\), expected '\"' \(user"):
        check_layout(out.getvalue(), DEFAULTS, "mine")
    check_layout(TINY.read_bytes(), DEFAULTS, "recorded")


def test_the_check_of_the_layout_finds_every_other_fault():
    def fault(**changes) -> str:
        with pytest.raises(CheckpointError) as caught:
            check_layout(TINY.read_bytes(), Options(**(vars(DEFAULTS) | changes)), "v")
        return str(caught.value)

    assert fault(size=600) == "v: 500 pieces, expected 600"
    assert "id 9 is '.' (user-defined), expected '?'" in fault(user_defined=(*SIGNS[:4], "?"))
    assert "id 13 is '▁' (learnt), expected '$' (user-defined)" in fault(user_defined=(*SIGNS, "$"))
    inside = parts(TINY.read_bytes(), PIECES)
    bad = b"".join(b"\x0a" + bytes([len(p)]) + p for p in [*inside[:-1], b"\x0a\x03a.b"])
    with pytest.raises(CheckpointError, match=r"v: id 499, 'a\.b', has the user-defined sign '\.' in it"):
        check_layout(bad, DEFAULTS, "v")


def test_no_piece_has_a_user_defined_sign_in_it(tmp_path):
    texts = [f"<br>{s}<br> a.m.(x) c++ 3.50" for s in SENTENCES] * 2
    report, tokenizer, pieces = learn(texts, tmp_path / "v", user_defined=[*SIGNS, "<br>", "c++", ",", "@"], size=300)
    own = [piece for piece, kind in pieces.items() if kind == USER_DEFINED]
    assert own == [*SIGNS, "<br>", "c++", ",", "@"] == list(report.signs)
    assert not [p for p, kind in pieces.items() if kind == NORMAL and any(sign in p for sign in own)]
    assert report.signs["<br>"] == 2 * len(texts) and report.signs["c++"] == len(texts) and report.signs["@"] == 0
    assert tokenizer.tokenize("a<br>b") == ["▁a", "<br>", "b"]


# ---- texts ----


def test_texts_are_cleaned_as_the_tokenizer_will_clean_them(tmp_path, tiny):
    _, tokenizer, pieces = tiny
    assert not [piece for piece in list(pieces)[13:] if piece != clean(piece)]
    shouted = [f"  {text.upper()}\t" for text in SENTENCES]
    assert learn(shouted, tmp_path / "shouted")[1] == tokenizer
    _, cased, theirs = learn(shouted, tmp_path / "cased", lower_case=False)
    assert "▁THE" in theirs and "▁the" not in theirs and cased.do_lower_case is False


def test_accents_and_case_are_two_settings_and_both_are_saved(tmp_path):
    texts = ["Été à Ærø: blåbær, smørrebrød"] * 3 + SENTENCES
    for keep, lower in [(True, True), (True, False), (False, True)]:
        _, tokenizer, pieces = learn(texts, tmp_path / f"{keep}{lower}", keep_accents=keep, lower_case=lower)
        letters = set("".join(pieces))
        assert ("å" in letters) is keep and ("É" in letters) is (keep and not lower) and "ø" in letters
        assert (tokenizer.keep_accents, tokenizer.do_lower_case) == (keep, lower)
        assert ("å" in "".join(tokenizer.tokenize("blåbær"))) is keep


def test_no_text_is_dropped_for_its_length_or_for_a_sign_of_the_library(tmp_path):
    """The library drops texts of more than 4,192 bytes, and those that hold U+2585, without a word."""
    long = "ж" + " b" * 2500
    _, tokenizer, _ = learn(
        [*SENTENCES, long, "щ \u2585 b", "ч \0 \u2047 \ufffd"], tmp_path / "v", character_coverage=1
    )
    assert all(tokenizer.unk_id not in tokenizer.encode(letter) for letter in "жщч")
    assert tokenizer.unk_id in tokenizer.encode("\u2585")


def test_learnt_pieces_give_the_cleaned_text_back(tiny):
    _, tokenizer, _ = tiny
    for text in SENTENCES:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == clean(text)


def test_digits_and_comma_are_cut_apart_though_learnt_together(tmp_path):
    texts = SENTENCES + [f"in 2009, and 1999, or 19{n}," for n in range(60)]
    _, tokenizer, pieces = learn(texts, tmp_path / "v")
    assert any(piece.endswith("9,") for piece in pieces)
    assert tokenizer.tokenize("2009,")[-1] == "," and "".join(tokenizer.tokenize("2009,")) == "▁2009,"


@settings(max_examples=5, deadline=None)
@given(st.lists(any_text, max_size=30))
def test_whatever_the_texts_hold_there_is_a_vocabulary_that_is_read_back(tmp_path_factory, texts):
    directory = tmp_path_factory.mktemp("odd") / "v"
    report, tokenizer, _ = learn(SENTENCES[:200] + texts, directory, size=400, character_coverage=1)
    assert report.texts == 200 + sum(not text.isspace() and text != "" for text in texts)
    assert 0 <= report.unknown < 0.02 and len(tokenizer) == 400


def test_transformers_gives_the_same_ids_for_the_corpus(tiny, tmp_path):
    report, tokenizer, _ = tiny
    theirs = AutoTokenizer.from_pretrained(report.directory)
    texts = SENTENCES + [text for category, text in fuzz(3) if category in ("natural", "numbers", "quotes")]
    assert tokenizer(texts, padding=False).input_ids == theirs(texts)["input_ids"] and len(texts) > 400


# ---- the report ----


def test_the_figures_are_those_of_a_count_by_hand(tiny, tmp_path):
    report, tokenizer, _ = tiny
    ids = [n for row in tokenizer(SENTENCES, padding=False, add_special_tokens=False).input_ids for n in row]
    assert report.trained_on == report.texts == report.measured_on == len(SENTENCES) and not report.held_out
    assert report.tokens_per_word == len(ids) / sum(len(text.split()) for text in SENTENCES)
    assert report.bytes_per_token == sum(len(text.encode()) for text in SENTENCES) / len(ids)
    assert report.unknown == 0 and report.unknown_characters == {}
    assert report.signs == {sign: sum(clean(text).count(sign) for text in SENTENCES) for sign in SIGNS}
    assert json.loads(json.dumps(report.as_dict()))["options"]["size"] == 500
    rare, tokenizer, pieces = learn(SENTENCES, tmp_path / "rare", character_coverage=0.98, size=300)
    rows = [tokenizer.encode(text)[1:-1] for text in SENTENCES]
    assert rare.unknown == sum(row.count(1) for row in rows) / sum(map(len, rows)) > 0
    assert len(rare.unknown_characters) == 10 and not set(rare.unknown_characters) & set("".join(list(pieces)[5:]))
    for character, count in rare.unknown_characters.items():
        assert count == clean(" ".join(SENTENCES)).count(character)


def test_nothing_is_learnt_from_what_is_held_out(tmp_path):
    texts = SENTENCES * 3 + ["", " \t"]
    chosen, held = train.divide(texts, Options(**(vars(DEFAULTS) | {"held_out": 0.2})))
    assert not set(chosen.texts) & set(held.texts) and set(chosen.texts) | set(held.texts) == set(SENTENCES)
    assert 0.1 < len(held.texts) / len(texts) < 0.3
    report, _, _ = learn([*texts, held.texts[0] + " жжж"], tmp_path / "v", held_out=0.2, size=400)
    assert report.held_out and report.trained_on + report.measured_on == report.texts == len(SENTENCES) * 3 + 1
    other = train.divide(texts, Options(**(vars(DEFAULTS) | {"held_out": 0.2, "seed": 1})))[1]
    assert set(other.texts) != set(held.texts)


def test_the_same_texts_and_arguments_give_the_same_bytes(tmp_path):
    how = {"size": 300, "held_out": 0.1, "sample": 250, "threads": 4}
    for name in "ab":
        learn((text for text in SENTENCES), tmp_path / name, **how)
    learn(SENTENCES, tmp_path / "c", **how, seed=1)
    contents = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc"]
    assert sorted(contents[0]) == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]
    assert contents[0] == contents[1] and contents[0]["spiece.model"] != contents[2]["spiece.model"]


# ---- a sample ----


def test_a_generator_of_any_length_takes_only_the_memory_of_the_sample(tmp_path):
    def texts(count):
        draw = random.Random(0)
        for n in range(count):
            yield f"{n} " + draw.choice(SENTENCES)

    list(texts(10))
    tracemalloc.start()
    chosen, held = train.divide(texts(20_000), Options(**(vars(DEFAULTS) | {"sample": 300})))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(chosen.texts) == 300 and chosen.seen + held.seen == 20_000 and 120 < held.seen < 280
    assert peak < 300_000  # bytes; all texts are 2 million
    numbers = [int(text.split()[0]) for text in chosen.texts]
    assert 8_000 < sum(numbers) / 300 < 12_000, "from the whole length"


def test_each_text_has_the_same_chance_to_be_drawn():
    counts: Counter = Counter()
    for seed in range(2000):
        draw = Draw(5, seed)
        for text in "abcdefghijklmnopqrst":
            draw.add(text)
        assert len(draw.texts) == len(set(draw.texts)) == 5
        counts.update(draw.texts)
    assert len(counts) == 20 and all(abs(count - 500) < 100 for count in counts.values())  # 5 deviations


# ---- what is refused ----


@pytest.mark.parametrize("texts", [["a"], ["a b c", "the cat sat", "the dog"], SENTENCES[:20], ["日本語", "かな"]])
def test_a_size_that_the_texts_cannot_give_is_told_with_the_largest_that_they_can(tmp_path, texts):
    message = said(texts, tmp_path / "v", size=5000, held_out=0)
    assert message.startswith("size=5000: these texts give at most ") and "or more texts" in message
    largest = int(message.split("at most ")[1].split()[0])
    assert not (tmp_path / "v").exists()
    assert len(learn(texts, tmp_path / "v", size=largest)[1]) == largest
    assert f"at most {largest} " in said(texts, tmp_path / "w", size=largest + 1, held_out=0)


def test_a_size_under_the_number_of_characters_is_told_with_the_smallest(tmp_path):
    message = said(SENTENCES, tmp_path / "v", size=30, held_out=0)
    assert message.startswith("size=30: the characters of these texts alone need ")
    smallest = int(message.split("need ")[1].split()[0])
    assert len(learn(SENTENCES, tmp_path / "v", size=smallest + 1)[1]) == smallest + 1


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([], "0 held out, all others blank"),
        (["", " \n", "\u3000"], "0 held out, all others blank"),
        (["\u0301", "\u200b", "\0"], "nothing is left of the texts after cleaning"),
        ("one string", "texts is one string"),
        (["a", None], "text 2 is a NoneType, expected a string"),
        (["a", b"b"], "text 2 is a bytes"),
    ],
)
def test_without_texts_there_is_no_vocabulary(tmp_path, texts, why):
    assert why in said(texts, tmp_path / "v", held_out=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"size": 0}, "size=0 must be from 14 to"),
        ({"character_coverage": 0.5}, "character_coverage=0.5 must be from 0.98 to 1"),
        ({"held_out": 1}, "held_out=1 must be from 0 to 0.5"),
        ({"held_out": float("nan")}, "held_out=nan"),
        ({"sample": 0}, "sample=0 must be"),
        ({"threads": 0}, "threads=0 must be from 1 to 1,024"),
        ({"flavor": "bert"}, "flavor='bert' must be"),
        ({"user_defined": ["É"]}, "'É' becomes 'e' when texts are cleaned"),
        ({"user_defined": ["``"]}, "becomes '\"'"),
        ({"user_defined": ["a b"]}, "without white space"),
        ({"user_defined": [""]}, "must be visible"),
        ({"user_defined": ["\u200b"]}, "must be visible"),
        ({"user_defined": ["a▁"]}, "must be visible"),
        ({"user_defined": ["(", "("]}, "in the vocabulary already"),
        ({"user_defined": ["<pad>"]}, "in the vocabulary already"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_text_is_read(tmp_path, how, why):
    def texts():
        raise AssertionError("read")
        yield ""

    assert why in said(texts(), tmp_path / "v", **how)


def test_a_directory_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spiece.model").write_text("precious")
    with pytest.raises(FileError, match="is there and not empty"):
        train_tokenizer(SENTENCES, tmp_path / "mine", size=500)
    with pytest.raises(FileError, match=r"spiece\.model/v: cannot be made .* is a file"):
        train_tokenizer(SENTENCES, tmp_path / "mine" / "spiece.model" / "v", size=500)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "spiece.model"]
    (tmp_path / "empty").mkdir()
    assert learn(SENTENCES[:100], tmp_path / "empty", size=200)[0].texts == 100
    assert learn(SENTENCES[:100], tmp_path / "new" / "deep", size=200)[0].texts == 100


@pytest.mark.parametrize("step", ["check_layout", "load_tokenizer", "measure"])
def test_whatever_fails_at_the_end_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(train, step, fail)
    with pytest.raises(OSError, match="disk full"):
        train_tokenizer(SENTENCES, tmp_path / "v", size=200)
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_texts_comes_through_as_it_is(tmp_path):
    def texts():
        yield from SENTENCES
        raise FileError("line 7 is not UTF-8")

    with pytest.raises(FileError, match="line 7"):
        train_tokenizer(texts(), tmp_path / "v", size=200)


ENDLESS = """
import random, sys
import minialbert.tokenizers.train as train
train.HEARTBEAT = 0.05
draw = random.Random(0)
words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(60000)]
say = lambda line: print(line, flush=True)
train.train_tokenizer((" ".join(words[n : n + 20]) for n in range(0, 60000, 20)), sys.argv[1], size=20000, say=say)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_stops_at_once_and_leaves_nothing(tmp_path, how):
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, tmp_path / "v"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    assert "training on" in process.stdout.readline() and "training for 0 s" in process.stdout.readline()
    process.send_signal(how)
    told = process.communicate(timeout=5)[1]
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL) and not os.listdir(tmp_path)
    assert told.strip().endswith("KeyboardInterrupt") is (how == signal.SIGINT)


def test_the_library_itself_says_nothing_and_progress_is_told(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(train, "HEARTBEAT", 0.01)
    told: list[str] = []
    train_tokenizer(SENTENCES, tmp_path / "v", size=300, threads=1, say=told.append)
    assert told[0] == "379 texts, 6 of them held out; training on 373"
    assert told[1:] and set(told[1:]) == {"training for 0 s"}
    with pytest.raises(InputError):
        train_tokenizer(SENTENCES, tmp_path / "w", size=3000)
    assert capfd.readouterr() == ("", "")


def test_the_saved_tokenizer_is_the_one_made_from_its_model_file(tiny):
    report, tokenizer, _ = tiny
    assert SentencePieceTokenizer(report.directory / "spiece.model") == tokenizer
