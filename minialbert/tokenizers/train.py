"""`train_tokenizer`: a vocabulary of one's own with ALBERT's recipe. `minialbert train-tokenizer` is this.

SentencePiece's unigram model starts with all frequent substrings and drops, round by round, those that the likelihood
of the texts misses least, until `size` pieces are left. The library does that; here is what it must be told, what it
would silently do to some texts, and a check of what came out. normalize.py cleans the texts, sentencepiece.py is the
tokenizer that uses the result.
Source: Kudo 2018 (unigram); the flags in the README of Google's ALBERT; the library's behaviour, as measured.
"""

import atexit
import hashlib
import io
import os
import random
import re
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from minialbert.errors import CheckpointError, InputError
from minialbert.protobuf import fields
from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer
from minialbert.tokenizers.model_file import CONTROL, NORMAL, PIECES, UNKNOWN, USER_DEFINED
from minialbert.tokenizers.normalize import clean
from minialbert.tokenizers.write_json import MARK
from minialbert.whole import check_free, whole_directory

SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
SIGNS = ("(", ")", '"', "-", ".", "–", "£", "€")  # ids 5 to 12: always pieces by themselves
KINDS = {NORMAL: "", UNKNOWN: "unknown", CONTROL: "control", USER_DEFINED: "user-defined"}
RESERVED = "\u2585"  # the library's own sign for an unknown character; it would drop a text that has one
LONGEST = 1 << 30  # bytes of a text, the library's upper limit; its default of 4,192 would drop longer texts
MEASURED = 10_000  # texts that the report is made from, at most
HEARTBEAT = 15.0  # seconds between two signs of life


@dataclass(frozen=True)
class Options:
    """What determines the result, beside the texts."""

    size: int
    lower_case: bool
    keep_accents: bool
    user_defined: tuple[str, ...]
    character_coverage: float
    flavor: str
    held_out: float
    sample: int
    seed: int
    threads: int
    sentencepiece: str = sentencepiece.__version__

    def clean(self, text: str) -> str:
        """As the tokenizer will clean it."""
        return clean(text, self.lower_case, self.keep_accents, hf=self.flavor == "hf")

    def check(self) -> None:
        """Raises InputError."""
        ranges: tuple[tuple[str, float, float], ...] = (
            ("size", self.fixed + 1, 10_000_000), ("character_coverage", 0.98, 1), ("held_out", 0, 0.5),
            ("sample", 1, 1 << 40), ("threads", 1, 1024),
        )  # fmt: skip
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)} must be from {low:,} to {high:,}")
        if self.flavor not in ("hf", "google"):
            raise InputError(f'flavor={self.flavor!r} must be "hf" or "google"')
        for n, sign in enumerate(self.user_defined):
            if not sign or not sign.isprintable() or any(c.isspace() or c == MARK for c in sign):
                raise InputError(f"user-defined sign {sign!r} must be visible characters without white space")
            if sign in SPECIAL or sign in self.user_defined[:n]:
                raise InputError(f"user-defined sign {sign!r} is in the vocabulary already; give it once")
            if self.clean(sign) != sign:
                raise InputError(
                    f"user-defined sign {sign!r} becomes {self.clean(sign)!r} when texts are cleaned, so no text has "
                    "it; give it as it is then, or keep case and accents"
                )

    @property
    def fixed(self) -> int:
        """How many ids are given out before anything is learnt."""
        return len(SPECIAL) + len(self.user_defined)


@dataclass(frozen=True)
class Report:
    """What was learnt, from what, and how well it fits texts that it has not seen."""

    directory: Path
    digest: str  # SHA-256 of spiece.model
    first: list[tuple[int, str, str]]  # id, piece, kind: the fixed ids and the most likely pieces
    texts: int  # that were read, blank ones left out
    trained_on: int
    signs: dict[str, int]  # user-defined sign: how often it is in the training texts
    measured_on: int  # texts that the next four are about
    held_out: bool  # are these texts that nothing was learnt from?
    unknown: float  # share of the tokens
    unknown_characters: dict[str, int]  # the most frequent ten: how often
    tokens_per_word: float  # a word is what stands between white space
    bytes_per_token: float  # UTF-8 bytes of the text as it came
    options: Options
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"directory": str(self.directory)}


# ---- which texts ----


class Draw:
    """At most `most` of the texts that are added, each with the same chance (algorithm R of Vitter 1985)."""

    def __init__(self, most: int, seed: int):
        self.most, self.seen = most, 0
        self.texts: list[str] = []
        self._random = random.Random(seed)

    def add(self, text: str) -> None:
        self.seen += 1
        if len(self.texts) < self.most:
            self.texts.append(text)
        elif (place := self._random.randrange(self.seen)) < self.most:
            self.texts[place] = text


def divide(texts: Iterable[str], options: Options) -> tuple[Draw, Draw]:
    """The texts to learn from, and those held out. Raises InputError."""
    learn, held = Draw(options.sample, options.seed), Draw(MEASURED, options.seed)
    key, limit = str(options.seed).encode(), int(options.held_out * 2**64)
    if isinstance(texts, str):
        raise InputError("texts is one string, expected many: a list, or a generator")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise InputError(f"text {number} is a {type(text).__name__}, expected a string")
        if text.isspace() or not text:
            continue
        if limit:  # by what it says, so that a copy of it is not learnt from
            drawn = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
            (held if int.from_bytes(drawn) < limit else learn).add(text)
        else:
            learn.add(text)
    if not learn.texts:
        raise InputError(f"no text to learn from: {held.seen} held out, all others blank; give more, or held_out=0")
    if not any(c.isprintable() and c != " " for text in learn.texts for c in options.clean(text)):
        raise InputError("no text to learn from: nothing is left of the texts after cleaning")
    return learn, held


# ---- learning ----


def sentences(texts: Iterable[str], options: Options, signs: Counter) -> Iterator[str]:
    """The texts as the library gets them; counts the user-defined signs."""
    for text in texts:
        if cleaned := options.clean(text).replace(RESERVED, " "):
            signs.update({sign: cleaned.count(sign) for sign in options.user_defined if sign in cleaned})
            yield cleaned


def learn(lines: Iterator[str], options: Options, say: Callable[[str], None]) -> bytes:
    """The model file. Raises InputError."""
    out, failed, done = io.BytesIO(), [], threading.Event()

    def work() -> None:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines, model_writer=out, model_type="unigram", vocab_size=options.size,
                pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece=SPECIAL[0], unk_piece=SPECIAL[1],
                control_symbols=list(SPECIAL[2:]),
                user_defined_symbols=list(options.user_defined),  # in one string, '"' would swallow the signs after it
                character_coverage=options.character_coverage, max_sentence_length=LONGEST,
                num_threads=options.threads, minloglevel=2,
            )  # fmt: skip
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    begun = time.monotonic()
    try:  # the library does not hear Ctrl-C: the one who waits does
        threading.Thread(target=work, daemon=True).start()
        while not done.wait(HEARTBEAT):
            say(f"training for {time.monotonic() - begun:.0f} s")
    except BaseException:
        atexit.register(leave, done)
        raise
    if failed and isinstance(failed[0], RuntimeError):
        raise InputError(explain(str(failed[0]), options)) from failed[0]
    if failed:
        raise failed[0]
    return out.getvalue()


def leave(done: threading.Event) -> None:
    """Ends the program where the library is still at work: its threads would turn an ordinary end into a crash."""
    if not done.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def explain(message: str, options: Options) -> str:
    """The library's message in words that say what to do."""
    if found := re.search(r"set it to a value <= (\d+)", message):
        return f"size={options.size}: these texts give at most {found[1]} pieces; take that size, or more texts"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"size={options.size}: the characters of these texts alone need {found[1]} pieces; take a larger size, or "
            f"a lower character_coverage than {options.character_coverage}"
        )
    return f"the sentencepiece library could not learn from these texts: {' '.join(message.split())}"


# ---- what came out ----


def pieces_of(data: bytes) -> list[tuple[str, int]]:
    """Text and kind of every piece in a model file."""
    parts = [dict(fields(bytes(part))) for field, part in fields(data) if field == PIECES]
    return [(bytes(part[1]).decode(), int(part.get(3, NORMAL))) for part in parts]


def check_layout(data: bytes, options: Options, where: str | Path) -> None:
    """Is every fixed id what and where it should be, and no sign part of a piece? Raises CheckpointError."""
    pieces = pieces_of(data)
    wanted = [(name, UNKNOWN if name == "<unk>" else CONTROL) for name in SPECIAL]
    wanted += [(sign, USER_DEFINED) for sign in options.user_defined]
    for number, ((name, kind), (piece, found)) in enumerate(zip(wanted, pieces, strict=False)):
        if (name, kind) != (piece, found):
            raise CheckpointError(
                f"{where}: id {number} is {piece!r} ({KINDS.get(found, 'other') or 'learnt'}), expected {name!r} "
                f"({KINDS[kind]}): not ALBERT's layout"
            )
    if len(pieces) != options.size:
        raise CheckpointError(f"{where}: {len(pieces)} pieces, expected {options.size}")
    for number, (piece, kind) in enumerate(pieces):
        inside = [sign for sign in options.user_defined if sign in piece]
        if kind == NORMAL and inside:
            raise CheckpointError(f"{where}: id {number}, {piece!r}, has the user-defined sign {inside[0]!r} in it")


def measure(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """The figures of a Report that are about texts."""
    tokens = unknown = words = size = 0
    characters: Counter = Counter()
    for text in texts:
        ids = tokenizer.encode(text)[1:-1]
        tokens, words, size = tokens + len(ids), words + len(text.split()), size + len(text.encode("utf-8", "replace"))
        if tokenizer.unk_id in ids:
            shown = tokenizer(text, add_special_tokens=False)
            lost = [piece for piece, n in zip(shown.tokens[0], ids, strict=True) if n == tokenizer.unk_id]
            unknown += len(lost)
            characters.update("".join(lost))
    return {
        "measured_on": len(texts),
        "unknown": unknown / max(tokens, 1),
        "unknown_characters": dict(characters.most_common(10)),
        "tokens_per_word": tokens / max(words, 1),
        "bytes_per_token": size / max(tokens, 1),
    }


# ---- the whole ----


def train_tokenizer(
    texts: Iterable[str],
    directory: str | Path,
    *,
    size: int = 30_000,
    lower_case: bool = True,
    keep_accents: bool = False,
    user_defined: Iterable[str] = SIGNS,
    character_coverage: float = 0.99995,
    flavor: str = "hf",
    held_out: float = 0.01,
    sample: int = 10_000_000,
    seed: int = 0,
    threads: int = 16,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Learns a SentencePiece vocabulary and saves it as a directory that `load_tokenizer` and transformers read.

    `texts`: one by one, each a sentence, a paragraph or a document. They are cleaned as the tokenizer will clean them.
    Ids: <pad> 0, <unk> 1, [CLS] 2, [SEP] 3, [MASK] 4, then `user_defined`, then pieces from the most likely on.
    `character_coverage`: the rarest characters, beyond this share of the text, stay unknown. `flavor`: the rules of
    cleaning, as in load_tokenizer; "google" is the recipe to the letter.

    `held_out`: the share of the texts that is kept for the report. Which ones depends on `seed` and the text alone, so
    copies stay together. At most `sample` of the others are learnt from, a fair draw, and only these are in memory:
    a generator may give any number. The library needs about 20 bytes for each byte that it learns from.
    The same texts in the same order with the same arguments give the same bytes, with one version of the library.
    `threads` is one of these arguments (sums are rounded in another order), so it does not follow the machine.

    `say` is called with lines of progress. The directory must be new or empty; at the end it is there whole, or not at
    all. Raises InputError (nothing to learn from; a size that these texts cannot give; arguments), FileError, and
    CheckpointError if the result is not what was asked for.
    """
    directory, begun = Path(directory), time.monotonic()
    options = Options(size, lower_case, keep_accents, tuple(user_defined), character_coverage, flavor, held_out,
                      sample, seed, threads)  # fmt: skip
    options.check()
    check_free(directory)
    chosen, held = divide(texts, options)
    say(f"{chosen.seen + held.seen:,} texts, {held.seen:,} of them held out; training on {len(chosen.texts):,}")
    signs: Counter = Counter(dict.fromkeys(options.user_defined, 0))
    data = learn(sentences(chosen.texts, options, signs), options, say)
    check_layout(data, options, directory)
    with whole_directory(directory) as folder:
        tokenizer: Tokenizer = SentencePieceTokenizer(
            directory / "spiece.model", data=data, do_lower_case=lower_case, keep_accents=keep_accents, flavor=flavor
        )
        with warnings.catch_warnings(action="ignore"):  # it would name the temporary directory
            tokenizer.save_pretrained(folder)
        tokenizer = load_tokenizer(folder)  # what is measured is what is on the disk
        figures = measure(tokenizer, held.texts or chosen.texts[:MEASURED])
    if lost := tokenizer.differences():
        warnings.warn(f"{directory}: in transformers, other ids for {'; '.join(lost)}", stacklevel=2)
    first = [(n, piece, KINDS[kind]) for n, (piece, kind) in enumerate(pieces_of(data)[: options.fixed + 8])]
    return Report(
        directory=directory, digest=hashlib.sha256(data).hexdigest(), first=first, texts=chosen.seen + held.seen,
        trained_on=len(chosen.texts), signs=dict(signs), held_out=bool(held.texts), options=options,
        seconds=time.monotonic() - begun, **figures,
    )  # fmt: skip
