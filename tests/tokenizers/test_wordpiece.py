"""BERT's tokenizer: Google's published examples, the greedy rule against a plain reading of it, offsets, files."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import FileError
from minialbert.tokenizers import WordPieceTokenizer, wordpiece
from tests.tokenizers.conftest import wordpiece_tokenizer
from tests.tokenizers.texts import plain_text

PLAIN, CASED = wordpiece_tokenizer(), wordpiece_tokenizer(do_lower_case=False)
GOOGLE = "[UNK] [CLS] [SEP] want ##want ##ed wa un runn ##ing ,".replace(" ", "\n").encode()


def content(tokenizer, text: str) -> list[int]:
    return tokenizer(text, padding=False, add_special_tokens=False).input_ids[0]


def test_pieces_are_those_of_googles_own_test():
    tokenizer = WordPieceTokenizer("vocab.txt", data=GOOGLE)
    assert tokenizer.tokenize("UNwant\u00e9d,running") == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert content(tokenizer, "UNwant\u00e9d,running") == [7, 4, 5, 10, 8, 9]
    assert tokenizer.tokenize("unwantedX running") == ["[UNK]", "runn", "##ing"]
    assert tokenizer.tokenize("") == []


@given(st.text("ab1c", max_size=12))
def test_spelling_is_the_longest_piece_from_the_left(word):
    start, want = 0, []
    while start < len(word):
        options = [word[start:end] for end in range(len(word), start, -1)]
        options = [("##" if start else "") + option for option in options]
        known = [option for option in options if option in PLAIN._ids]
        if not known:
            want = ["[UNK]"]
            break
        want.append(known[0])
        start += len(known[0]) - (2 if start else 0)
    assert PLAIN.tokenize(word) == want


def test_a_word_longer_than_max_chars_is_unknown():
    for tokenizer, limit in (
        (PLAIN, 100),
        (wordpiece_tokenizer(flavor="google"), 200),
        (wordpiece_tokenizer(max_chars=7), 7),
    ):
        assert tokenizer.max_chars == limit
        assert tokenizer.tokenize("a" * limit) == ["a"] + ["##a"] * (limit - 1)
        assert tokenizer.tokenize("a" * (limit + 1)) == ["[UNK]"]
    assert WordPieceTokenizer("vocab_chinese.txt", data=GOOGLE).max_chars == 200


@settings(max_examples=400, deadline=None)
@given(plain_text)
def test_ids_are_the_same_with_and_without_origins(text):
    for tokenizer in (PLAIN, CASED):
        encoding = tokenizer(text, padding=False)
        assert len(encoding.offsets[0]) == len(encoding.input_ids[0])  # raises if the second reading differs


@settings(max_examples=400, deadline=None)
@given(plain_text)
def test_the_slice_an_offset_cuts_is_the_source_of_the_piece(text):
    """Cleaning the slice gives the piece; it may give more where one character became several pieces."""
    for tokenizer in (PLAIN, CASED):
        encoding = tokenizer(text, add_special_tokens=False)
        spans = encoding.offsets[0]
        for t, (piece, (start, end)) in enumerate(zip(encoding.tokens[0], spans, strict=True)):
            assert start < end
            if piece.startswith("["):
                continue
            again = "".join(tokenizer_words(tokenizer, text[start:end]))
            shared = [s for n, s in enumerate(spans) if n != t and s[0] < end and start < s[1]]
            bare = piece.removeprefix("##")
            assert bare in again if shared else bare == again, (piece, text[start:end])


def tokenizer_words(tokenizer, text: str) -> list[str]:
    chunks = wordpiece.chunks_of(text, tokenizer.do_lower_case, True)
    return [word for chunk in chunks for word in wordpiece.words_of_chunk(chunk, tokenizer.do_lower_case, True, True)]


@settings(max_examples=300, deadline=None)
@given(plain_text)
def test_the_unknown_token_covers_its_whole_word(text):
    encoding = PLAIN(text, add_special_tokens=False)
    for t, number in enumerate(encoding.input_ids[0]):
        if number == PLAIN.unk_id:
            word = encoding.word_ids[0][t]
            assert encoding.word_to_tokens(0, word) == range(t, t + 1)
            assert encoding.word_to_chars(0, word) == encoding.offsets[0][t]


def test_words_and_offsets_of_an_ordinary_sentence():
    text = "Hello, w\u00f6rld [MASK] 日本 cafe\u0301\u200b!"
    encoding = PLAIN(text, add_special_tokens=False)
    assert [text[a:b] for a, b in encoding.offsets[0]] == [
        "Hello",
        ",",
        "w\u00f6rld",
        "[MASK]",
        "日",
        "本",
        "cafe",
        "!",
    ]
    assert encoding.word_ids[0] == list(range(8))


def test_the_cache_is_bounded_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(wordpiece, "CACHED_CHUNKS", 5)
    tokenizer = wordpiece_tokenizer()
    texts = ["hello world", "a b c", "wanted unwanted", "hello, 1111", "x" * 60]
    first = [content(tokenizer, text) for text in texts * 3]
    assert first == [content(wordpiece_tokenizer(), text) for text in texts * 3]
    assert len(tokenizer._cache) <= 5 and not any(len(chunk) > wordpiece.LONGEST_CACHED for chunk in tokenizer._cache)


def test_accents_case_and_ideographs_are_settings():
    assert PLAIN._strip and not CASED._strip
    assert wordpiece_tokenizer(do_lower_case=False, strip_accents=True).tokenize("w\u00e1") == ["wa"]
    assert wordpiece_tokenizer(strip_accents=False).tokenize("w\u00e1") == ["[UNK]"]
    assert wordpiece_tokenizer(tokenize_chinese_chars=False).tokenize("日a") == ["日", "##a"]
    assert PLAIN.tokenize("日a") == ["日", "a"]


def test_the_sigma_at_the_end_of_a_word_differs_between_the_flavors():
    assert PLAIN.tokenize("Σ a") == ["σ", "a"]
    assert wordpiece_tokenizer(flavor="google").tokenize("aΣ") == ["[UNK]"]
    assert unicodedata.name("ς") == "GREEK SMALL LETTER FINAL SIGMA"


def test_decoding_glues_continuations_and_closing_signs():
    assert PLAIN.decode(PLAIN.encode("unwanted, hello world.")) == "[CLS] unwanted, hello world. [SEP]"
    assert PLAIN.decode(PLAIN.encode("unwanted, [MASK]"), skip_special_tokens=True) == "unwanted,"
    assert PLAIN.decode([]) == ""


def test_ids_are_line_numbers_and_the_later_of_two_equal_lines_is_used():
    tokenizer = WordPieceTokenizer("vocab.txt", data=b"[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n\r\nb\r\na\r\n")
    assert len(tokenizer) == 7 and content(tokenizer, "a b") == [6, 5]
    assert tokenizer.convert_ids_to_tokens([3, 4, 6]) == ["a", "", "a"]
    assert WordPieceTokenizer("vocab.txt", data=b"\xef\xbb\xbf" + GOOGLE).unk_id == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\n\n", "is empty"), (b"[UNK]\n\xff\xfe\n", "line 2 is not UTF-8"), (b"a\nb\n", r"no line \[UNK\]")],
)
def test_a_broken_vocabulary_is_told_in_one_line(data, message):
    with pytest.raises(FileError, match=message):
        WordPieceTokenizer("vocab.txt", data=data)
