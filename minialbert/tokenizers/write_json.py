"""tokenizer.json, the one file that Hugging Face's newer tokenizers work from, written for both kinds of vocabulary.

tokenizer_json.py reads such files. Without one transformers 5 converts a bare spiece.model by itself, and then cuts
signs and numbers differently from the program that the model was trained with; the file written here gives our ids.
sentencepiece.py and wordpiece.py call this, base.py saves it.
Source: files written by transformers 5.23, and its answers compared with ours (tests/tokenizers/test_write_json.py).
"""

import base64
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import chain
from typing import Any

from minialbert.tokenizers.model_file import LOWERED, Rules
from minialbert.tokenizers.normalize import ends_in_digit_comma, is_dropped

MARK = "▁"  # U+2581, SentencePiece's sign for a space
COMPOSED = "ﬁ² e\u0301 \u1112\u1161\u11ab"  # what NFKC changes: fi2 é 한
LOWERCASE = {"type": "Lowercase"}  # character by character: no final sigma


def whole_json(parts: dict[str, dict], entries: dict[int, dict], cls: int, sep: int) -> dict:
    """The file. `parts`: the four that depend on the kind; `entries`: tokens kept whole, by id; ids of [CLS], [SEP]."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number} | entry for number, entry in sorted(entries.items())],
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": template((entries[cls]["content"], cls), (entries[sep]["content"], sep)),
        "decoder": parts["decoder"],
        "model": parts["model"],
    }


def template(cls: tuple[str, int], sep: tuple[str, int]) -> dict:
    """[CLS] A [SEP] with token types 0; [CLS] A [SEP] B [SEP] with 1 after the first [SEP]. Given: token and id."""

    def special(token: tuple[str, int], kind: int) -> dict:
        return {"SpecialToken": {"id": token[0], "type_id": kind}}

    def text(name: str, kind: int) -> dict:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls, 0), text("A", 0), special(sep, 0)]
    pair = [*single, text("B", 1), special(sep, 1)]
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (cls, sep)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def sequence(kind: str, steps: list[dict]) -> dict:
    """Steps one after the other; `kind` is "normalizers" or "pretokenizers"."""
    return {"type": "Sequence", kind: steps}


def replace(pattern: str, by: str) -> dict:
    """Whatever matches a regular expression becomes a text."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}


def split(pattern: str, behavior: str) -> dict:
    """The text is cut where a regular expression matches; what matched is "Removed" or "MergedWithPrevious"."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


@cache
def all_that(are: Callable[[str], Any]) -> str:
    """Every character for which it is true, by Python's tables, in order; ideographs and private use not looked at."""
    places = chain(range(0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE1000))
    return "".join([c for c in map(chr, places) if are(c)])


def any_of(characters: Iterable[str]) -> str:
    """The pattern of one of these characters, given in order; "" for none."""
    ranges: list[list[int]] = []
    for code in map(ord, characters):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    inside = "".join(rf"\x{{{a:x}}}" + (rf"-\x{{{b:x}}}" if b > a else "") for a, b in ranges)
    return inside and f"[{inside}]"


control = partial(is_dropped, hf=False)  # control and format characters, as Google drops them in BERT's texts


# ---- ALBERT: vocabulary and rules of a SentencePiece model, settings of our tokenizer ----------------------------


def unigram_parts(
    vocabulary: list[tuple[str, float]],
    unk: int,
    unreachable: list[str],
    rules: Rules,
    normalize: Callable[[str], str],
    settings: dict[str, Any],
) -> dict[str, dict]:
    """The four parts for pieces and scores in the order of ids.

    The comma rule, which cuts "▁2009," again after the best cut of the text was found, cannot be said here. Pieces
    that it would cut get a score so low that the best cut never uses them. Nearly always that is the same; not when
    the text is cut another way altogether without them ("1,681" as "1,6 8 1" instead of "1 , 68 1").

    `unreachable`: pieces that no text gives, such as "<pad>". The model here finds any piece, so a text that becomes
    one by cleaning ("＜pad＞") is cut after its first character. `normalize`: the model's own normalizer.
    """
    lowered = [[piece, score - LOWERED * ends_in_digit_comma(piece)] for piece, score in vocabulary]
    by_word = not any(MARK in piece[1:] for piece, _ in vocabulary)
    scheme = "always" if rules.prefix else "never"
    words = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": by_word}
    marked = by_word and rules.prefix and rules.trims  # each word gets a mark of its own; no offset holds the space
    steps = [split(" ", "Removed"), words] if marked else [words]
    apart = "|".join(f"{re.escape(piece[0])}(?={re.escape(piece[1:])})" for piece in unreachable if len(piece) > 1)
    steps += [split(apart, "MergedWithPrevious")] if apart else []
    normalizers = albert_normalizers(rules, normalize, settings)
    if rules.prefix:  # a mark is put in front unless there is one already; SentencePiece puts one in any case
        normalizers += [replace(f"(?<![^ ]){MARK}" if marked else rf"\A[ {MARK}]", MARK * 2)]
    return {
        "normalizer": sequence("normalizers", normalizers),
        "pre_tokenizer": sequence("pretokenizers", steps),
        "decoder": words,
        "model": {"type": "Unigram", "unk_id": unk, "vocab": lowered, "byte_fallback": rules.byte_fallback},
    }


def albert_normalizers(rules: Rules, normalize: Callable[[str], str], settings: dict[str, Any]) -> list[dict]:
    """`clean` of normalize.py, then what SentencePiece's own normalizer does, step by step.

    The model's table of characters is read in another way here, a cluster of characters at a time, and would lose
    marks, leave hangul in parts, and move offsets where it deletes. So what it does is done before, as far as known.
    """
    lower, hf = settings["do_lower_case"], settings["flavor"] == "hf"
    steps: list[dict] = [LOWERCASE] if lower and hf else []
    if settings["remove_space"]:
        steps += [replace(any_of(all_that(str.isspace)) + "+", " "), replace(r"\A +| +\z", "")]
    if hf:
        steps += [replace("``", '"'), replace("''", '"')]
    if not settings["keep_accents"]:  # not the step StripAccents: it takes vowel signs of Hindi and Thai too
        steps += [{"type": "NFKD"}, replace(any_of(all_that(unicodedata.combining)), "")]
    steps += [LOWERCASE] if lower else []
    if rules.charsmap:
        steps += [{"type": "NFKC"}] if normalize(COMPOSED) == normalize(unicodedata.normalize("NFKC", COMPOSED)) else []
        nothing = any_of(c for c in all_that(control) if normalize(f"a{c}b") == normalize("ab"))
        steps += [replace(nothing, "")] if nothing else []
        steps += [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules.charsmap).decode()}]
    if rules.trims:  # not the step Strip: it takes U+0085 too
        steps += [replace(" {2,}", " "), replace(rf"\A +|[ {MARK}]+\z", "")]
    return steps


# ---- BERT --------------------------------------------------------------------------------------------------------


def wordpiece_parts(pieces: list[str], unk: str, settings: dict[str, Any]) -> dict[str, dict]:
    """The four parts; BERT's rules exist ready-made.

    Only that Google keeps private-use characters must be written out. A vocabulary may hold a token twice: the later
    line is the one that is used, so the earlier one gets a name that no text can give.
    """
    google = settings["flavor"] == "google"
    normalizer: dict[str, Any] = {
        "type": "BertNormalizer",
        "clean_text": not google,
        "handle_chinese_chars": settings["tokenize_chinese_chars"],
        "strip_accents": settings["strip_accents"],
        "lowercase": settings["do_lower_case"],
    }
    if google:
        normalizer = sequence("normalizers", [replace(any_of(all_that(control)), ""), normalizer])
    last = {piece: number for number, piece in enumerate(pieces)}
    vocabulary = {p if last[p] == n else f"{p} (line {n + 1}, unused)": n for n, p in enumerate(pieces)}
    model = {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##"}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model | {"max_input_chars_per_word": settings["max_chars"], "vocab": vocabulary},
    }
