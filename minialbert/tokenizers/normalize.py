"""Lower-casing, accents, quotation marks, white space: what happens to a text before it is cut into pieces.

Every rule is here twice. The fast form works on strings and runs over a corpus. The aligned form works on a list of
`Char`, which remember where they stood in the original text, and runs only when somebody asks for offsets. A test
holds the two equal. `clean` and `clean_aligned` are ALBERT's rules (sentencepiece.py), the rest BERT's (wordpiece.py).
Standard library only. Source: the rules of Google's and Hugging Face's tokenizers, as measured; the Unicode standard.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple


class Char(NamedTuple):
    """One character of a cleaned text and the code points start:end of the original text that it came from."""

    text: str
    start: int
    end: int


def chars_of(text: str) -> list[Char]:
    """The text before any cleaning: each character stands for itself."""
    return [Char(c, i, i + 1) for i, c in enumerate(text)]


def text_of(chars: Iterable[Char]) -> str:
    return "".join([c.text for c in chars])


SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: no UTF-8 exists for it, so no library takes it


def whole(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD; the length does not change."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


# ---- ALBERT: one string in, one string out ----------------------------------------------------------------------


def clean(text: str, lower: bool = True, keep_accents: bool = False, remove_space: bool = True, hf: bool = True) -> str:
    """The text as SentencePiece should see it: spaces, quotation marks, accents, case, in this order.

    `hf` adds the two things that Hugging Face does and Google does not: doubled backticks and apostrophes become a
    double quote, and characters are lower-cased one by one before everything else (so a capital sigma at the end of
    a word becomes the ordinary small one).

    >>> clean("  ``Éclair''  am\\u00a0Abend ")
    '"eclair" am abend'
    """
    if text.isascii():  # no accents, and lower-casing once is enough
        text = space_and_quotes(text, remove_space, hf)
        return text.lower() if lower else text
    text = SURROGATE.sub("\ufffd", text)
    if lower and hf:
        text = lower_each(text)
    text = space_and_quotes(text, remove_space, hf)
    if not keep_accents:
        text = drop_accents(text)
    return text.lower() if lower else text


def space_and_quotes(text: str, remove_space: bool, hf: bool) -> str:
    """White space collapsed to single blanks, none at the ends; doubled backticks and apostrophes made one quote."""
    if remove_space:  # the test spares most texts the work: single blanks are all the white space they have
        text = text.strip() if text.isprintable() and "  " not in text else " ".join(text.split())
    if hf and ("``" in text or "''" in text):
        text = text.replace("``", '"').replace("''", '"')
    return text


def lower_each(text: str) -> str:
    """Lower case, each character by itself: str.lower() looks at the neighbours for one letter only, the sigma."""
    return text.replace("Σ", "σ").lower()


def drop_accents(text: str) -> str:
    """Compatibility decomposition, then every character with a combining class goes (é becomes e, ﬁ becomes fi)."""
    text = unicodedata.normalize("NFKD", text)
    for accent in set(text):  # few kinds of characters, many characters
        if unicodedata.combining(accent):
            text = text.replace(accent, "")
    return text


def clean_aligned(
    text: str, lower: bool = True, keep_accents: bool = False, remove_space: bool = True, hf: bool = True
) -> list[Char]:
    """What `clean` gives, character by character with its origin.

    A space stands for its whole run of white space, a replaced quotation mark for both characters, the parts of a
    decomposed character share that character; an accent that is dropped belongs to nothing.
    """
    chars = chars_of(whole(text))
    if lower and hf:
        chars = lower_aligned(chars, each=True)
    if remove_space:
        chars = collapse_aligned(chars)
    if hf:
        chars = replace_pair_aligned(replace_pair_aligned(chars, "``"), "''")
    if not keep_accents:
        chars = decompose_aligned(chars, "NFKD", unicodedata.combining)
    return lower_aligned(chars, each=False) if lower else chars


def lower_aligned(chars: list[Char], each: bool) -> list[Char]:
    """Lower case; İ becomes two characters that share one origin."""
    lowered = lower_each(text_of(chars)) if each else text_of(chars).lower()
    out, at = [], 0
    for c in chars:
        width = len(c.text.lower())  # only the sigma looks at its neighbours, and its width is 1 either way
        out += [Char(low, c.start, c.end) for low in lowered[at : at + width]]
        at += width
    return out


def collapse_aligned(chars: list[Char]) -> list[Char]:
    """Each run of white space becomes one space, none is left at the ends: " ".join(text.split())."""
    out: list[Char] = []
    space: Char | None = None
    for c in chars:
        if c.text.isspace():
            space = Char(" ", space.start if space else c.start, c.end)
            continue
        if space and out:
            out.append(space)
        space = None
        out.append(c)
    return out


def replace_pair_aligned(chars: list[Char], pair: str) -> list[Char]:
    """text.replace(pair, '"') for a pair of equal characters."""
    out: list[Char] = []
    i = 0
    while i < len(chars):
        if i + 1 < len(chars) and chars[i].text + chars[i + 1].text == pair:
            out.append(Char('"', chars[i].start, chars[i + 1].end))
            i += 1
        else:
            out.append(chars[i])
        i += 1
    return out


def decompose_aligned(chars: list[Char], form: Literal["NFD", "NFKD"], drop: Callable[[str], Any]) -> list[Char]:
    """unicodedata.normalize(form, text) without the characters that `drop` names, with origins.

    A whole text is decomposed character by character; then the marks after a letter are put in the order of their
    combining classes. Marks that were moved share the origin of the run, so that origins never go backwards.
    """
    out: list[Char] = []
    run: list[Char] = []  # marks since the last character of class 0
    for c in chars:
        for part in unicodedata.normalize(form, c.text):
            if unicodedata.combining(part):
                run += [] if drop(part) else [Char(part, c.start, c.end)]
                continue
            out += in_order(run)
            run = []
            out += [] if drop(part) else [Char(part, c.start, c.end)]
    return out + in_order(run)


def in_order(run: list[Char]) -> list[Char]:
    """Marks after one letter in canonical order."""
    by_class = sorted(run, key=lambda c: unicodedata.combining(c.text))
    if by_class == run:
        return run
    return [Char(c.text, run[0].start, run[-1].end) for c in by_class]


def ends_in_digit_comma(piece: str) -> bool:
    """Is this a piece like "2009,", which ALBERT's comma rule cuts again (section 1.4)?"""
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


# ---- BERT: a text is cut into words, each word is cleaned --------------------------------------------------------

CJK = (  # ideographs; not kana, not hangul
    "\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
IDEOGRAPH = re.compile(f"[{CJK}]")
DELETED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")  # category Cc but tab, LF, CR; and U+FFFD
ASCII_PUNCTUATION = r"!-/:-@\[-`{-~"
# A first cut inside a chunk without white space, good for any script: an ideograph or ASCII sign by itself, or a run
# of anything else. Runs may still hold signs and invisible characters beyond ASCII.
RUNS = re.compile(rf"[{ASCII_PUNCTUATION}{CJK}]|[^{ASCII_PUNCTUATION}{CJK}]+")
RUNS_NO_CJK = re.compile(rf"[{ASCII_PUNCTUATION}]|[^{ASCII_PUNCTUATION}]+")


def is_punctuation(c: str) -> bool:
    """ASCII signs that are neither letter, digit nor space, and Unicode's categories P*."""
    if c.isascii():
        return c.isprintable() and not c.isalnum() and c != " "
    return unicodedata.category(c)[0] == "P"


def is_dropped(c: str, hf: bool = True) -> bool:
    """Control and format characters, U+FFFD; Hugging Face drops private-use characters too."""
    if c in "\t\n\r":
        return False
    return c == "\ufffd" or unicodedata.category(c) in (("Cc", "Cf", "Co") if hf else ("Cc", "Cf"))


def chunks_of(text: str, lower: bool = True, hf: bool = True) -> list[str]:
    """The text cut at white space, lower-cased, control characters dropped. The first half of BERT's rules.

    The second half, `words_of_chunk`, looks at one chunk only, so that its answer can be kept for the next time.
    """
    if not (text.isascii() and text.isprintable()):
        text = DELETED.sub("", SURROGATE.sub("\ufffd", text))
    if lower:
        text = lower_each(text) if hf else text.lower()
    return text.split()


def words_of_chunk(chunk: str, strip_accents: bool = True, cjk: bool = True, hf: bool = True) -> list[str]:
    """The words in a chunk of `chunks_of`: signs and ideographs by themselves, accents dropped."""
    if chunk.isalnum() and chunk.isascii():  # most are
        return [chunk]
    runs = (RUNS if cjk else RUNS_NO_CJK).findall(chunk)
    return runs if chunk.isascii() else [word for run in runs for word in words_of_run(run, strip_accents, hf)]


def words_of_run(run: str, strip_accents: bool, hf: bool) -> list[str]:
    """The words in a stretch of other characters than ASCII signs and ideographs."""
    run = "".join([c for c in run if not is_dropped(c, hf)])
    if strip_accents:
        run = "".join([c for c in unicodedata.normalize("NFD", run) if unicodedata.category(c) != "Mn"])
    return "".join([f" {c} " if is_punctuation(c) else c for c in run]).split()


def words_aligned(
    text: str, lower: bool = True, strip_accents: bool = True, cjk: bool = True, hf: bool = True
) -> list[list[Char]]:
    """BERT's basic tokenizer as the source tells it, step by step, with origins: a list of words, each a list of Char.

    The words are those of `chunks_of` and `words_of_chunk`.
    """
    chars = [c for c in chars_of(whole(text)) if not is_dropped(c.text, hf)]
    if cjk:
        chars = around(chars, lambda c: bool(IDEOGRAPH.match(c)))
    words = []
    for token in split_aligned(chars):
        if lower:
            token = lower_aligned(token, each=hf)
        if strip_accents:
            token = decompose_aligned(token, "NFD", lambda c: unicodedata.category(c) == "Mn")
        words += split_aligned(around(token, is_punctuation))
    return words


def around(chars: list[Char], alone: Callable[[str], bool]) -> list[Char]:
    """Spaces put before and after each character that stands alone."""
    out = []
    for c in chars:
        out += [Char(" ", c.start, c.start), c, Char(" ", c.end, c.end)] if alone(c.text) else [c]
    return out


def split_aligned(chars: list[Char]) -> list[list[Char]]:
    """text.split() with origins."""
    words: list[list[Char]] = [[]]
    for c in chars:
        if not c.text.isspace():
            words[-1].append(c)
        elif words[-1]:
            words.append([])
    return words if words[-1] else words[:-1]
