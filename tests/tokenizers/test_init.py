"""load_tokenizer: which file is read and why, what settings it finds, and what broken directories are told."""

import json
from pathlib import Path

import pytest

from minialbert.errors import CheckpointError, FileError, InputError, MiniAlbertError
from minialbert.tokenizers import SentencePieceTokenizer, WordPieceTokenizer, load_tokenizer
from tests.tokenizers.conftest import sentencepiece_tokenizer
from tests.tokenizers.texts import BERT, COMMAS, TINY, comma_model, fuzz, write_bert
from tests.tokenizers.tokenizer_json import unigram_json


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("name", ["spiece.model", "30k-clean.model", "anything.model"])
def test_a_sentencepiece_model_is_found_by_its_name_or_ending(tmp_path, name):
    (tmp_path / name).write_bytes(comma_model())
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.source == tmp_path / name
    assert "the only kind" in tokenizer.describe() and load_tokenizer(tmp_path / name) == tokenizer
    assert tokenizer.do_lower_case and not tokenizer.keep_accents and tokenizer.model_max_length == 512


@pytest.mark.parametrize("name", ["vocab.txt", "vocab_chinese.txt"])
def test_a_wordpiece_vocabulary_is_found_by_its_name(tmp_path, name):
    write_bert(tmp_path)
    (tmp_path / "vocab.txt").rename(tmp_path / name)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, WordPieceTokenizer) and tokenizer.source == tmp_path / name
    assert tokenizer.max_chars == (100 if name == "vocab.txt" else 200)


def test_two_kinds_are_told_apart_by_what_the_settings_say(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "spiece.model").write_bytes(comma_model())
    with pytest.raises(CheckpointError, match=r"both spiece\.model .* and vocab\.txt"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    assert load_tokenizer(tmp_path).kind == "sentencepiece"
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    tokenizer = load_tokenizer(tmp_path)
    assert (
        tokenizer.kind == "wordpiece"
        and "tokenizer_config.json says tokenizer_class BertTokenizer" in tokenizer.describe()
    )


def test_what_we_save_says_which_of_two_kinds_is_meant(tmp_path):
    (tmp_path / "spiece.model").write_bytes(comma_model())
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    chinese = load_tokenizer(write_bert(tmp_path / "chinese"))
    chinese.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer == chinese and "tokenizer.json says model WordPiece" in tokenizer.describe()
    sentencepiece_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).kind == "sentencepiece"


def test_a_directory_without_vocabulary_names_what_was_looked_for(tmp_path):
    with pytest.raises(FileError, match=r"spiece\.model.*SentencePiece.*vocab\.txt.*WordPiece.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileError, match="no such file"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "vocab.bpe").write_text("x")
    with pytest.raises(FileError, match="no vocabulary by its ending"):
        load_tokenizer(tmp_path / "vocab.bpe")
    (tmp_path / "a.model").write_bytes(b"a")
    (tmp_path / "b.model").write_bytes(b"b")
    with pytest.raises(CheckpointError, match=r"several SentencePiece models \(a\.model, b\.model\)"):
        load_tokenizer(tmp_path)


def test_settings_come_from_the_files_and_arguments_win(tmp_path):
    (tmp_path / "spiece.model").write_bytes(comma_model())
    said = {
        "do_lower_case": False,
        "keep_accents": True,
        "model_max_length": 64,
        "flavor": "google",
        "mask_token": None,
    }
    write_json(tmp_path / "tokenizer_config.json", said | {"cls_token": {"content": "[CLS]", "lstrip": False}, "x": 1})
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.do_lower_case, tokenizer.keep_accents, tokenizer.flavor) == (False, True, "google")
    assert tokenizer.model_max_length == 64
    tokenizer = load_tokenizer(tmp_path, flavor="hf", do_lower_case=True, keep_accents=None)
    assert (tokenizer.do_lower_case, tokenizer.keep_accents, tokenizer.flavor) == (True, True, "hf")
    with pytest.raises(InputError, match="max_chars"):
        load_tokenizer(tmp_path, max_chars=3)


def test_the_longest_text_is_512_or_what_the_files_say(tmp_path):
    write_bert(tmp_path)
    assert load_tokenizer(tmp_path).model_max_length == 512
    write_json(tmp_path / "config.json", {"max_position_embeddings": 40})
    assert load_tokenizer(tmp_path).model_max_length == 40
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 1e30})
    assert load_tokenizer(tmp_path).model_max_length == 40
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 30})
    assert load_tokenizer(tmp_path).model_max_length == 30


def test_special_tokens_may_have_other_names(tmp_path):
    write_bert(tmp_path, ["<p>", "<u>", "<c>", "<s>", "<m>", *BERT[5:]])
    with pytest.raises(CheckpointError, match=r"\[UNK\]"):
        load_tokenizer(tmp_path)
    names = {
        "pad_token": "<p>",
        "unk_token": {"content": "<u>"},
        "cls_token": "<c>",
        "sep_token": "<s>",
        "mask_token": "<m>",
    }
    write_json(tmp_path / "special_tokens_map.json", names)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_tokens == {"<p>": 0, "<u>": 1, "<c>": 2, "<s>": 3, "<m>": 4}
    assert tokenizer.tokenize("a <m> ?") == ["a", "<m>", "<u>"]
    tokenizer.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again") == tokenizer


def test_added_tokens_are_read_from_either_file(tmp_path):
    write_bert(tmp_path)
    write_json(tmp_path / "added_tokens.json", {"[E2]": 26, "[E1]": 25})
    assert load_tokenizer(tmp_path).added == {"[E1]": 25, "[E2]": 26}
    (tmp_path / "added_tokens.json").unlink()
    entries = {"0": {"content": "[PAD]", "special": True}, "25": {"content": "[E1]", "special": True}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": entries})
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == 26 and tokenizer.tokenize("a[E1]") == ["a", "[E1]"] and 25 in tokenizer.special_ids


def test_user_defined_pieces_listed_as_added_tokens_stay_with_sentencepiece(tmp_path):
    """Hugging Face 5 lists ( and . as added tokens, and then cuts "(a" without the mark before the bracket."""
    (tmp_path / "spiece.model").write_bytes(comma_model())
    plain = load_tokenizer(tmp_path)
    entries = {"5": {"content": "(", "special": False}, "9": {"content": ".", "special": False}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": entries})
    assert load_tokenizer(tmp_path) == plain and plain.tokenize("(a.")[:2] == ["▁", "("]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b'{"do_lower_case": tr', "not whole JSON"),
        ("tokenizer_config.json", b"[1]", "holds a JSON list"),
        ("tokenizer_config.json", b'{"a": "\xff"}', "not UTF-8"),
        ("tokenizer_config.json", b"", "is empty"),
        ("tokenizer_config.json", b"[" * 100_000, "nested too deeply"),
        ("tokenizer_config.json", b'{"flavor": "x"}', "google"),
        ("tokenizer_config.json", b'{"do_basic_tokenize": false}', "do_basic_tokenize"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"0": "x"}}', "not readable"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"3": {"content": "hello"}}}', "do not belong together"),
        ("added_tokens.json", b'{"[E1]": 99}', "expected 25"),
        ("added_tokens.json", b'{"[E1]": "x"}', "not readable"),
        ("vocab.txt", b"", "is empty"),
        ("vocab.txt", b"[PAD]\nthe\n", r"no line \[UNK\], \[CLS\], \[SEP\]"),
        ("spiece.model", b"version https://git-lfs", "not a SentencePiece model"),
        ("spiece.model", TINY.read_bytes()[:9000], "cut off after"),
    ],
)
def test_a_broken_file_gets_one_line_that_names_it(tmp_path, name, content, message):
    if name != "spiece.model":
        write_bert(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MiniAlbertError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert message == "google" or str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("official", [True, False])
def test_a_unigram_tokenizer_json_alone_gives_the_ids_of_the_model_it_was_made_from(tmp_path, official):
    """Pieces, types and scores are worked out; official files have lowered the scores of the comma pieces."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "spiece.model").write_bytes(comma_model())
    (tmp_path / "json").mkdir()
    write_json(tmp_path / "json" / "tokenizer.json", unigram_json(comma_model(), official))
    old, new = load_tokenizer(tmp_path / "model"), load_tokenizer(tmp_path / "json")
    assert new.kind == "sentencepiece" and "no spiece.model" in new.describe() and len(new) == len(old)
    assert new.do_lower_case and not new.keep_accents and new.special_tokens == old.special_tokens
    for piece, score in COMMAS:
        assert abs(new._sp.get_score(new.convert_tokens_to_ids(piece)) - score) < 1e-6
    for _, text in fuzz(11, 0.5):
        assert new.encode(text) == old.encode(text), text
    new.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved") == new


def test_case_and_accents_are_read_from_tokenizer_json(tmp_path):
    content = unigram_json(comma_model(), True)
    content["normalizer"]["normalizers"] = content["normalizer"]["normalizers"][-1:]
    write_json(tmp_path / "tokenizer.json", content)
    assert not load_tokenizer(tmp_path).do_lower_case and load_tokenizer(tmp_path).keep_accents
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    assert load_tokenizer(tmp_path).do_lower_case


def test_a_wordpiece_tokenizer_json_alone_gives_the_same_ids_as_its_vocabulary(tmp_path):
    old = load_tokenizer(write_bert(tmp_path / "txt"))
    (tmp_path / "json").mkdir()
    write_json(tmp_path / "json" / "tokenizer.json", old.tokenizer_json())
    new = load_tokenizer(tmp_path / "json")
    assert new == old and new.data == old.data
    write_json(
        tmp_path / "json" / "tokenizer.json", load_tokenizer(tmp_path / "txt", do_lower_case=False).tokenizer_json()
    )
    assert not load_tokenizer(tmp_path / "json").do_lower_case


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds a None model"),
        ({"model": {"type": "BPE"}}, "holds a BPE model, expected Unigram"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 5}}}, "not complete"),
        ({"model": {"type": "WordPiece"}}, "not complete"),
        ({"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}}, "not complete"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 9}}, "not complete"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "normalizer": 3}, "not complete"),
    ],
)
def test_a_tokenizer_json_that_holds_no_such_model_says_so(tmp_path, content, message):
    write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(FileError, match=message):
        load_tokenizer(tmp_path)


SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "bank", "paris", "##s", "n"]
CASED = [*SMALL, "Paris", "The", "Bank", "EU"]


def test_a_vocabulary_full_of_capitals_is_read_without_lower_casing_unless_told(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(CASED))
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.do_lower_case and tokenizer.tokenize("The Paris bank") == ["The", "Paris", "bank"]
    assert "with capitals in it" in tokenizer.describe()
    assert load_tokenizer(tmp_path, do_lower_case=True).tokenize("Paris") == ["paris"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path).do_lower_case  # what the files say counts more


def test_a_capital_here_and_there_is_no_sign_of_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SMALL, *(f"w{i}" for i in range(100)), "Paris"]))
    assert load_tokenizer(tmp_path).do_lower_case
