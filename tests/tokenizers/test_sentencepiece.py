"""ALBERT's tokenizer: Google's recorded answers, transformers 4's recorded answers, the comma rule, offsets."""

import json

import pytest
import sentencepiece
from hypothesis import given, settings

from minialbert.errors import CheckpointError, FileError, InputError
from minialbert.protobuf import bytes_field, fields, number_field
from minialbert.tokenizers import SentencePieceTokenizer
from minialbert.tokenizers.model_file import (
    CONTROL,
    NORMAL,
    TRAINER,
    UNKNOWN,
    check_model,
    write_model,
)
from tests.tokenizers.conftest import sentencepiece_tokenizer
from tests.tokenizers.texts import CORPUS, GOLDEN, TINY, fuzz, plain_text

HF, GOOGLE = sentencepiece_tokenizer(), sentencepiece_tokenizer(flavor="google")
CASED = sentencepiece_tokenizer(do_lower_case=False, keep_accents=True)


def content(tokenizer, text: str) -> list[int]:
    return tokenizer(text, padding=False, add_special_tokens=False).input_ids[0]


@pytest.mark.parametrize("line", (GOLDEN / "tokenization.jsonl").read_text(encoding="utf-8").splitlines())
def test_google_flavor_equals_googles_recorded_answers(line):
    want = json.loads(line)
    small = SentencePieceTokenizer(TINY, flavor="google")
    large = SentencePieceTokenizer(TINY, flavor="google", do_lower_case=False)
    assert small.clean(want["text"]) == want["preprocessed"]
    assert large.clean(want["text"]) == want["preprocessed_keep_case"]
    assert small.tokenize(want["text"]) == want["pieces"]
    assert content(small, want["text"]) == want["ids"]


def test_hf_flavor_equals_transformers_4_recorded_answers():
    """303 texts through the slow AlbertTokenizer of transformers 4.57.6 with the model of `comma_model`."""
    cased = sentencepiece_tokenizer(do_lower_case=False)
    lines = (GOLDEN / "transformers-4.57.6-slow.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 300
    for want in map(json.loads, lines):
        assert content(HF, want["text"]) == want["lower"], want["text"]
        assert content(cased, want["text"]) == want["keep_case"], want["text"]


@pytest.mark.parametrize(
    ("text", "hf", "google"),
    [
        ("2009,", "▁ 2 0 0 9 ,", "▁ 2 0 0 9 ,"),
        ("x/03,", "▁ x / 0 3 ,", "▁ x ▁ / 0 3 ,"),  # Google's code leaves a second mark
        ("x9,", "▁ x 9 ,", "▁ x ▁ 9 ,"),
        ("1,", "▁ 1 ,", "▁ 1 ,"),
        ("the end,", "▁the ▁end ,", "▁the ▁end ,"),
    ],
)
def test_a_piece_that_ends_in_digit_and_comma_is_cut_again(text, hf, google):
    assert HF.tokenize(text) == hf.split() and GOOGLE.tokenize(text) == google.split()


def test_the_comma_rule_has_something_to_do():
    """The model would give these pieces whole."""
    for piece in ("▁2009,", "/03,", "9,"):
        assert HF._sp.piece_to_id(piece) in HF._comma_ids
        assert piece in HF._sp.encode("x" + piece.replace("▁", " "), out_type=str)


def test_quotes_and_special_tokens_differ_between_the_flavors():
    assert HF.tokenize("``a''") == ["▁", '"', "a", '"']
    assert '"' not in GOOGLE.tokenize("``a''")
    assert HF.mask_id in content(HF, "a [MASK] b") and GOOGLE.mask_id not in content(GOOGLE, "a [MASK] b")
    assert HF.mask_id not in content(HF, "a [mask] [ MASK ] b")
    assert content(HF, "<PAD>") == [HF.pad_id]  # as transformers 4, which lower-cases before it looks
    assert CASED.pad_id not in content(CASED, "<PAD>") and content(CASED, "<pad>") == [CASED.pad_id]


def test_an_unknown_stretch_is_never_a_special_token_by_its_name():
    tokenizer = sentencepiece_tokenizer(split_special=False, do_lower_case=False)
    assert tokenizer.tokenize("[MASK]") == ["▁", "[MASK]"] and content(tokenizer, "[MASK]") == [13, 1]


def test_user_defined_signs_stand_alone_with_their_mark_before_them():
    assert HF.tokenize("(the)") == [
        "▁",
        "(",
        "the" if "the" in HF.tokenize("(the)") else "t",
        *HF.tokenize("(the)")[3:],
    ]
    assert content(HF, '(a) "-.–£€')[:2] == [13, 5]
    assert {5, 6, 7, 8, 9, 10, 11, 12} <= set(content(HF, '(a) "-.–£€'))


@settings(max_examples=400, deadline=None)
@given(plain_text)
def test_ids_are_the_same_with_and_without_origins(text):
    for tokenizer in (HF, GOOGLE, CASED):
        encoding = tokenizer(text, padding=False)
        assert len(encoding.offsets[0]) == len(encoding.input_ids[0])  # raises if the second reading differs


@settings(max_examples=400, deadline=None)
@given(plain_text)
def test_the_slice_an_offset_cuts_is_the_source_of_the_piece(text):
    """Cleaning the slice gives the piece; it may give more where one character became several pieces."""
    for tokenizer in (HF, CASED):
        encoding = tokenizer(text, add_special_tokens=False)
        spans = encoding.offsets[0]
        for t, (piece, (start, end)) in enumerate(zip(encoding.tokens[0], spans, strict=True)):
            if encoding.input_ids[0][t] in tokenizer.special_tokens.values() and piece in tokenizer.special_tokens:
                assert text[start:end].lower() == piece.lower() or piece == "<unk>"
                continue
            bare = piece.replace("▁", "").replace("ς", "σ")
            again = tokenizer.clean(text[start:end])
            again = tokenizer._sp.normalize(again).replace("▁", "").replace("ς", "σ")
            shared = [s for n, s in enumerate(spans) if n != t and s[0] < end and start < s[1]]
            assert bare in again if shared else bare == again, (piece, text[start:end])
            assert bool(bare) == (start < end)


@settings(max_examples=300, deadline=None)
@given(plain_text)
def test_words_are_the_stretches_between_white_space(text):
    tokenizer = sentencepiece_tokenizer(split_special=False)
    encoding = tokenizer(text, add_special_tokens=False)
    words = text.split()
    for (start, end), word in zip(encoding.offsets[0], encoding.word_ids[0], strict=True):
        assert text[start:end] in words[word] and not any(c.isspace() for c in text[start:end])


def test_offsets_in_a_text_with_everything():
    text = "The ``Ünité'' (½) 2009, [MASK] x\u200by."
    encoding = HF(text, add_special_tokens=False)
    found = {piece: text[a:b] for piece, (a, b) in zip(encoding.tokens[0], encoding.offsets[0], strict=True)}
    assert found["▁the"] == "The" and found["⁄"] == "½" and found["[MASK]"] == "[MASK]" and found["."] == "."
    assert [text[a:b] for p, (a, b) in zip(encoding.tokens[0], encoding.offsets[0], strict=True) if p == '"'] == [
        "``",
        "''",
    ]
    assert encoding.word_ids[0][-1] == 5 and text.split()[5] == "x\u200by."
    lone = encoding.tokens[0].index("▁")
    assert encoding.offsets[0][lone] == (4, 4)  # a mark by itself: empty, at the next character


def test_the_mask_swallows_the_white_space_on_its_left():
    spaces = sentencepiece_tokenizer(remove_space=False)
    assert spaces.tokenize("a  [MASK] b") == [*spaces.tokenize("a"), "[MASK]", *spaces.tokenize("b")]
    assert spaces.decode(spaces.encode("a [MASK] b")) == "[CLS] a[MASK] b[SEP]"


def test_decoding_joins_pieces_at_their_marks():
    ids = HF.encode("The boat, (the) [MASK] <unk>")
    assert HF.decode(ids) == "[CLS] the boat, (the)[MASK]<unk>[SEP]"
    assert HF.decode(ids, skip_special_tokens=True) == "the boat, (the)"
    assert HF.decode([]) == ""


def test_accents_and_case_are_two_settings():
    assert CASED.clean("Éa") == "Éa"
    assert sentencepiece_tokenizer(keep_accents=True).clean("Éa") == "éa"
    assert sentencepiece_tokenizer(do_lower_case=False).clean("Éa") == "Ea"
    assert "case kept, accents kept" in CASED.describe()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "not a SentencePiece model"),
        (b"[PAD]\n[UNK]\n[CLS]\nthe\n" * 50, "not a SentencePiece model"),
        (b"\x80\x02}q\x00.", "not a SentencePiece model"),
        (TINY.read_bytes()[:3000], "cut off after"),
        (TINY.read_bytes()[:-1], "cut off after 500 pieces"),
    ],
)
def test_a_file_that_is_no_model_is_told_in_one_line(data, message):
    with pytest.raises(FileError, match=message) as caught:
        SentencePieceTokenizer("x/spiece.model", data=data)
    assert "x/spiece.model" in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_of_a_model_is_noticed():
    data = TINY.read_bytes()
    for length in [*range(0, 9000, 7), *range(9000, len(data), 4999)]:
        with pytest.raises(FileError):
            check_model(data[:length], "spiece.model")


def test_a_model_without_cls_is_told_the_recipe():
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("▁", -1.0, NORMAL), ("a", -2.0, NORMAL)]
    with pytest.raises(CheckpointError, match=r"\[CLS\], \[SEP\].*control symbols"):
        SentencePieceTokenizer("x.model", data=write_model(pieces, {"unk": 0}, b"", True))


def test_a_model_written_by_hand_is_the_model_that_was_read():
    """The golden model, taken apart and written again, cuts every text as before."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(TINY))
    old = SentencePieceTokenizer(TINY)
    normalizer = dict(fields(dict(fields(TINY.read_bytes()))[3]))
    kinds = [dict(fields(value)).get(3, NORMAL) for field, value in fields(TINY.read_bytes()) if field == 1]
    pieces = [(sp.id_to_piece(i), sp.get_score(i), kind) for i, kind in enumerate(kinds)]
    new = SentencePieceTokenizer("n.model", data=write_model(pieces, {"unk": 1, "pad": 0}, normalizer[2], True))
    for text in [*CORPUS.split("\n"), *(text for _, text in fuzz(3, 0.2))]:
        assert new.encode(text) == old.encode(text)
    assert new._sp.pad_id() == 0 and new._sp.unk_id() == 1 and new._sp.bos_id() == -1


def test_a_model_that_spells_bytes_has_ids_but_says_that_it_has_no_offsets():
    pieces = [("<pad>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), ("[CLS]", 0.0, CONTROL), ("[SEP]", 0.0, CONTROL)]
    pieces += [("▁", -1.0, NORMAL), ("a", -2.0, NORMAL)] + [(f"<0x{b:02X}>", -9.0, 6) for b in range(256)]
    data = write_model(pieces, {"unk": 1, "pad": 0}, b"", True)
    data += bytes_field(TRAINER, number_field(35, 1))  # byte_fallback: messages written one after the other are merged
    tokenizer = SentencePieceTokenizer("b.model", data=data)
    assert tokenizer("é", padding=False).input_ids[0] != []
    with pytest.raises(InputError, match="byte"):
        _ = tokenizer("aé", padding=False).offsets
