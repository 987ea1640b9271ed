"""Cleaning: the rules one by one, and the fast form against the form that knows where characters came from."""

import re
import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.tokenizers import normalize
from minialbert.tokenizers.normalize import (
    chars_of,
    chunks_of,
    clean,
    clean_aligned,
    decompose_aligned,
    text_of,
    whole,
    words_aligned,
    words_of_chunk,
)
from tests.tokenizers.texts import any_text

flags = st.booleans()


def words_fast(text: str, lower: bool, strip: bool, cjk: bool, hf: bool) -> list[str]:
    return [word for chunk in chunks_of(text, lower, hf) for word in words_of_chunk(chunk, strip, cjk, hf)]


@settings(max_examples=400, deadline=None)
@given(any_text, flags, flags, flags, flags)
def test_fast_cleaning_equals_aligned_cleaning(text, lower, accents, space, hf):
    assert clean(text, lower, accents, space, hf) == text_of(clean_aligned(text, lower, accents, space, hf))


@settings(max_examples=400, deadline=None)
@given(any_text, flags, flags, flags, flags)
def test_fast_words_equal_aligned_words(text, lower, strip, cjk, hf):
    aligned = [text_of(word) for word in words_aligned(text, lower, strip, cjk, hf)]
    assert words_fast(text, lower, strip, cjk, hf) == aligned
    assert all(words_of_chunk(word, strip, cjk, hf) == [word] for word in aligned), "ChunkCache takes words as chunks"


@given(any_text, flags, flags, flags, flags)
def test_origins_are_in_the_text_and_never_go_backwards(text, lower, accents, space, hf):
    chars = clean_aligned(text, lower, accents, space, hf)
    chars_of_words = [c for word in words_aligned(text, lower, not accents, space, hf) for c in word]
    for line in (chars, chars_of_words):
        assert all(0 <= c.start < c.end <= len(text) for c in line)
        assert all(a.start <= b.start and a.end <= b.end for a, b in pairwise(line))


@given(any_text)
def test_decomposing_with_origins_is_decomposing(text):
    for form in ("NFD", "NFKD"):
        assert text_of(decompose_aligned(chars_of(text), form, lambda c: False)) == unicodedata.normalize(form, text)


@given(any_text)
def test_a_lone_surrogate_becomes_one_replacement_character(text):
    fixed = whole(text)
    fixed.encode("utf-8")
    assert len(fixed) == len(text)
    assert all(a == b or (unicodedata.category(a) == "Cs" and b == "\ufffd") for a, b in zip(text, fixed, strict=True))


@pytest.mark.parametrize(
    ("text", "hf", "google"),
    [
        ("  a \t\u00a0b\u3000\x1cc\n", "a b c", "a b c"),
        ("``x'' '''", '"x" "\'', "``x'' '''"),
        ("Éclair naïve ﬁ", "eclair naive fi", "eclair naive fi"),
        ("ΑΣ ΑΣΑ", "ασ ασα", "ας ασα"),  # the sigma at the end of a word
        ("\u03f9", "ς", "σ"),  # lunate sigma: lower-cased before or after it is decomposed
        ("a\u200bb", "a\u200bb", "a\u200bb"),  # left to SentencePiece
        ("", "", ""),
        (" \n", "", ""),
    ],
)
def test_cleaning_follows_the_two_references(text, hf, google):
    assert clean(text, hf=True) == hf
    assert clean(text, hf=False) == google


def test_cleaning_has_three_independent_switches():
    assert clean(" É  X", lower=False) == "E X"
    assert clean(" É  X", keep_accents=True) == "é x"
    assert clean(" É  X", remove_space=False) == " e  x"


def test_origins_of_replaced_and_decomposed_characters():
    spans = [(c.text, c.start, c.end) for c in clean_aligned("``é½  x")]
    assert spans == [('"', 0, 2), ("e", 2, 3), ("1", 3, 4), ("⁄", 3, 4), ("2", 3, 4), (" ", 4, 6), ("x", 6, 7)]


@pytest.mark.parametrize(
    ("text", "lower", "words"),
    [
        ("ah博推zz", True, "ah 博 推 zz"),
        (" \tHeLLo!how  \n Are yoU?  ", True, "hello ! how are you ?"),
        (" \tHeLLo!how  \n Are yoU?  ", False, "HeLLo ! how Are yoU ?"),
        ("H\u00e9llo", True, "hello"),
        ("H\u00e9llo", False, "H\u00e9llo"),
    ],
)
def test_words_are_those_of_googles_own_test(text, lower, words):
    assert words_fast(text, lower, lower, True, False) == words.split()


def test_white_space_control_and_punctuation_are_those_of_googles_own_test():
    assert all(words_fast(f"a{c}b", True, True, True, False) == ["a", "b"] for c in " \t\r\n\u00a0")
    assert words_fast("a\u0005b", True, True, True, False) == ["ab"]
    assert words_fast("a\U0001f4a9b", True, True, True, False) == ["a\U0001f4a9b"]
    assert all(normalize.is_punctuation(c) for c in "-$`.")
    assert not any(normalize.is_punctuation(c) for c in "A ")


def test_private_use_characters_go_in_one_flavor_only():
    assert words_fast("a\ue000b", True, True, True, True) == ["ab"]
    assert words_fast("a\ue000b", True, True, True, False) == ["a\ue000b"]


def test_ideographs_stand_alone_and_kana_and_hangul_do_not():
    assert words_fast("日本かな한국", False, False, True, True) == ["日", "本", "かな한국"]
    assert words_fast("日本かな", False, False, False, True) == ["日本かな"]


def test_the_static_character_classes_agree_with_unicode():
    """The fast form names a few classes as ranges; here every character is looked at."""
    every = [chr(c) for c in range(sys.maxunicode + 1)]
    controls = {c for c in every if unicodedata.category(c) == "Cc"} - set("\t\n\r") | {"\ufffd"}
    assert {c for c in every if normalize.DELETED.match(c)} == controls
    assert {c for c in every if re.match(r"\s", c)} == {c for c in every if c.isspace()}
    single = re.compile(f"[{normalize.ASCII_PUNCTUATION}]")
    assert {c for c in every if single.match(c)} == {c for c in every if c.isascii() and normalize.is_punctuation(c)}
    # Decomposing never makes an ideograph of something else, so cutting before or after is the same.
    odd = [c for c in every if normalize.IDEOGRAPH.search(unicodedata.normalize("NFD", c))]
    assert all(normalize.IDEOGRAPH.match(c) for c in odd)
