"""Runs one published fact on one checkpoint: pass, FAIL with what was expected and found, or why it does not apply.

`Subject` is the checkpoint, as far as it is there; below it stands a function for each kind of fact (facts.py). Which
facts are run, and what else is looked at, is in verify.py.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minialbert.config import AlbertConfig
from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from minialbert.heads import (
    AlbertForMaskedLM,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
)
from minialbert.model import AlbertModel
from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer, load_tokenizer
from minialbert.tokenizers.files import find_vocabulary
from minialbert.tools.verify.facts import (
    ENGLISH,
    Answer,
    Count,
    Fact,
    Guess,
    Ids,
    Loss,
    Numbers,
    Pieces,
    Size,
    Width,
    WordPieces,
)
from minialbert.tools.verify.identify import SHAPES, Candidate, compare, identify

WEIGHTS = ("*.safetensors", "*.bin", "*.index", "*.index.json", "*.h5", "*.msgpack")
ARCHIVES = ("*.tar.gz", "*.tgz", "*.tar", "*.zip")
CONFIGURATIONS = ("config.json", "albert_config.json", "bert_config.json")


class NotApplicable(Exception):
    """Why a fact cannot be run here."""


@dataclass(frozen=True)
class Check:
    """One line of the report; status is "pass", "FAIL" or "not applicable"."""

    name: str
    status: str
    said: str
    source: str = ""

    def __str__(self) -> str:
        source = f" [{self.source}]" if self.source else ""
        return f"{self.status:<14}  {self.name}: {self.said}{source}"


def checked(name: str, passed: bool, said: str, source: str = "") -> Check:
    return Check(name, "pass" if passed else "FAIL", said, source)


def holds_weights(path: Path) -> bool:
    """Whether there is anything in a directory, or in the folders of a release in it, that looks like weights."""
    inside = (path.glob(place + ending) for ending in WEIGHTS for place in ("", "*/", "*/*/"))
    return any(next(found, None) for found in (*inside, *map(path.glob, ARCHIVES)))


def _is_google(path: Path) -> bool:
    """Whether a source that was converted for this looks like a release of Google's."""
    if path.is_dir():
        inside = [path.glob(place + name) for place in ("", "*/", "*/*/") for name in CONFIGURATIONS[1:]]
        return any(next(found, None) for found in (*inside, *map(path.glob, ARCHIVES)))
    tensorflow = path.suffix == ".index" or path.suffix.startswith(".data-") or Path(f"{path}.index").is_file()
    return tensorflow or any(path.match(ending) for ending in ARCHIVES)


class Subject:
    """What is verified: its parts, as far as they are there, and what it is taken for.

    path: as it came; directory: the same as a Hugging Face directory; given: its name and the preset behind, if known.
    """

    def __init__(self, path: Path, directory: Path, given: tuple[str, str] | None):
        self.path, self.directory, self.given = path, directory, given
        self.google = directory != path and _is_google(path)
        self.config = self._read_config()
        self.tokenizer, self.no_tokenizer = self._read_tokenizer()
        if self.config is None and self.tokenizer is None:
            raise FileError(f"{path}: no weights, no configuration and no vocabulary: nothing to verify")
        self.contradicted: Candidate | None = None  # the given model, whose sizes are others
        self.models: dict[type, Any] = {}
        self.tokenizers: dict[str, SentencePieceTokenizer] = {}
        self.has_weights = directory.is_dir() and holds_weights(directory)
        if self.has_weights:
            self.model(AlbertModel)  # raises at once when the file is damaged or of another shape

        self.candidates = self._identify()
        likeliest = [c.name for c in self.candidates if c.rank == self.candidates[0].rank]
        self.names = likeliest  # models whose numbers it should give
        self.kin = [*likeliest, given[1]] if given and likeliest else likeliest  # those whose sizes and words it has

    def _identify(self) -> list[Candidate]:
        if self.given is None:
            return identify(self.config, self.tokenizer, self.google)
        name, base = self.given
        if not base or self.config is None:
            return [Candidate(name)]
        differences = compare(self.config, base, self.tokenizer, self.google).differences
        if any(difference.field in SHAPES for difference in differences):
            self.contradicted = Candidate(name, differences)
            return []
        return [Candidate(name, differences)]

    def _read_config(self) -> AlbertConfig | None:
        found = [self.directory / name for name in CONFIGURATIONS if (self.directory / name).is_file()]
        if not found:
            return None
        self.google |= found[0].name != "config.json"
        return AlbertConfig.from_json(found[0])

    def _read_tokenizer(self) -> tuple[Tokenizer | None, str]:
        """The tokenizer, or why there is none; raises when there is one that cannot be used."""
        try:
            find_vocabulary(self.directory)
        except CheckpointError:
            raise
        except FileError:
            return None, "no vocabulary here"
        return load_tokenizer(self.directory), ""

    def files(self) -> dict[str, Path]:
        """Every file as it came, not as it was converted, by its name below the directory."""
        if self.path.is_dir():
            every = [p for pattern in ("*", "*/*") for p in self.path.glob(pattern)]
            inside = {str(p.relative_to(self.path)): p for p in every if p.is_file()}
            return {name: p for name, p in sorted(inside.items()) if "/." not in f"/{name}"}
        if self.path.is_file():
            return {self.path.name: self.path}
        beside = (f"{self.path.name}.*", *CONFIGURATIONS, "*.model", "*.vocab", "vocab*.txt")  # of a TensorFlow prefix
        return {p.name: p for pattern in beside for p in sorted(self.path.parent.glob(pattern))}

    def model(self, cls: type) -> Any:
        """The checkpoint as a class of model, every part from the file."""
        if not self.has_weights:
            raise NotApplicable("no weights here")
        if cls not in self.models:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                self.models[cls] = cls.from_pretrained(self.directory)  # type: ignore[attr-defined]
            if any("new here" in str(warning.message) for warning in said):
                self.models[cls] = None
        if self.models[cls] is None:
            raise NotApplicable(f"the file has no head for {cls.__name__}")
        return self.models[cls]

    def words(self) -> Tokenizer:
        if self.tokenizer is None:
            raise NotApplicable(self.no_tokenizer)
        return self.tokenizer

    def pieces(self, **settings: Any) -> SentencePieceTokenizer:
        """The vocabulary with the settings of the releases, but for those given."""
        words, key = self.words(), repr(sorted(settings.items()))
        if not isinstance(words, SentencePieceTokenizer):
            raise NotApplicable("the vocabulary is not SentencePiece")
        if key not in self.tokenizers:
            self.tokenizers[key] = SentencePieceTokenizer(words.source, data=words.data, **settings)
        return self.tokenizers[key]


def run(fact: Fact, subject: Subject) -> Check:
    """One fact, one line; an error of the checkpoint's making is a failure with its message."""
    try:
        _refuse_others(fact, subject)
        with torch.no_grad():
            passed, said = RUN[type(fact)](fact, subject)
    except NotApplicable as why:
        return Check(fact.name, "not applicable", str(why), fact.source)
    except MiniAlbertError as error:  # of a vocabulary or a table that is too small, for example
        passed, said = False, str(error)
    return checked(fact.name, passed, said, fact.source)


def _refuse_others(fact: Fact, subject: Subject) -> None:
    """Raises NotApplicable for a fact about another model than this."""
    own = {"weights": subject.names, "file": subject.names, "sizes": subject.kin, "vocabulary": subject.kin}
    if fact.about != "rules" and not set(fact.of) & set(own[fact.about]):
        made_for = "English ALBERT" if fact.of == ENGLISH else ", ".join(fact.of)
        raise NotApplicable(f"made for {made_for}, this is {' or '.join(subject.names) or 'no official model'}")


def _run_numbers(fact: Numbers, subject: Subject) -> tuple[bool, str]:
    compute: dict[str, Callable[..., Tensor | None]] = {
        "hidden": lambda **x: subject.model(AlbertModel)(**x).last_hidden_state,
        "mlm": lambda **x: subject.model(AlbertForMaskedLM)(**x).logits,
        "choice": lambda **x: _choice(subject.model(AlbertModel)(**x).pooler_output),
        "classes": lambda **x: subject.model(AlbertForSequenceClassification)(**x).logits,
        "tags": lambda **x: subject.model(AlbertForTokenClassification)(**x).logits,
        "start": lambda **x: subject.model(AlbertForQuestionAnswering)(**x).start_logits,
        "end": lambda **x: subject.model(AlbertForQuestionAnswering)(**x).end_logits,
    }
    mask = None if fact.mask is None else torch.tensor([fact.mask])
    found = compute[fact.output](input_ids=torch.tensor([fact.ids]), attention_mask=mask)
    if found is None:
        raise NotApplicable("the file has no pooler")
    if fact.shape is not None and tuple(found.shape) != fact.shape:
        return False, f"expected shape {list(fact.shape)}, found {list(found.shape)}"
    return _close(found[fact.part], fact.expected, fact.tolerance)


def _choice(pooled: Tensor | None) -> Tensor | None:
    """The multiple-choice head with every weight 0.001 and no bias, for one choice: [1, 1]."""
    return None if pooled is None else pooled.sum(-1, keepdim=True) * 1e-3


def _close(found: Tensor, expected: Any, tolerance: float) -> tuple[bool, str]:
    """Are all numbers near enough, and what to say of them."""
    want = torch.tensor(expected, dtype=torch.float64)
    if found.shape != want.shape:
        return False, f"expected {list(want.shape)} numbers, found {list(found.shape)}"
    away = (found.double() - want).abs()
    if bool((away <= tolerance).all()):  # never true of NaN
        return True, f"within {float(away.max()):.1e}, tolerance {tolerance:g}"
    worst = int(away.argmax())  # the first NaN, if there is one
    return False, (
        f"expected {float(want.flatten()[worst]):.6g}, found {float(found.flatten()[worst]):.6g} "
        f"(the worst of {want.numel()}), tolerance {tolerance:g}"
    )


def _run_guess(fact: Guess, subject: Subject) -> tuple[bool, str]:
    tokenizer, model = subject.words(), subject.model(AlbertForMaskedLM)
    padding = "longest" if fact.pad_to is None else "max_length"
    batch = tokenizer(list(fact.texts), padding=padding, max_length=fact.pad_to)
    ids = torch.as_tensor(batch.input_ids)
    logits = model(ids, torch.as_tensor(batch.attention_mask) if fact.mask else None).logits  # [B, T, V]
    for (row, place), words in fact.words.items():
        at = ids[row].tolist().index(tokenizer.mask_id) if tokenizer.mask_id in ids[row] else None
        if at is None or place not in (None, at):
            return False, f"expected [MASK] at position {place}, found it at {at}"
        chances, best = logits[row, at].softmax(-1).topk(len(words))
        found = tuple(tokenizer.decode([number]) for number in best.tolist())
        if found != words:
            return False, f"expected {' '.join(words)}, found {' '.join(found)}"
    said = "; ".join(" ".join(words) for words in fact.words.values())
    if fact.chances:
        passed, how = _close(chances, fact.chances, fact.tolerance)
        return passed, f"{said}; {how}"
    if fact.first_logit is not None:
        passed, how = _close(logits[0, 0, 0], fact.first_logit, fact.tolerance)
        return passed, f"{said}; first logit {how}"
    return True, said


def _run_loss(fact: Loss, subject: Subject) -> tuple[bool, str]:
    tokenizer, model = subject.words(), subject.model(AlbertForMaskedLM)
    ids, truth = (torch.tensor([tokenizer.encode(text)]) for text in (fact.text, fact.truth))
    if ids.shape != truth.shape:
        return False, f"expected one token for [MASK], found texts of {ids.shape[1]} and {truth.shape[1]} tokens"
    return _close(model(ids, labels=truth.where(ids == tokenizer.mask_id, -100)).loss, fact.loss, fact.tolerance)


def _run_answer(fact: Answer, subject: Subject) -> tuple[bool, str]:
    tokenizer, model = subject.words(), subject.model(AlbertForQuestionAnswering)
    batch = tokenizer([(fact.question, fact.text)])
    inputs = {k: torch.as_tensor(getattr(batch, k)) for k in ("input_ids", "attention_mask", "token_type_ids")}
    out = model(**inputs, start_positions=[fact.target[0]], end_positions=[fact.target[1]])
    first, last = int(out.start_logits.argmax()), int(out.end_logits.argmax())
    found = tokenizer.decode(batch.input_ids[0][first : last + 1].tolist())
    if found != fact.answer:
        return False, f"expected {fact.answer!r}, found {found!r}"
    passed, how = _close(out.loss, fact.loss, fact.tolerance)
    return passed, f"{found!r}; loss {how}"


def _run_ids(fact: Ids, subject: Subject) -> tuple[bool, str]:
    tokenizer = subject.pieces(**fact.settings)
    text = fact.text if fact.pair is None else (fact.text, fact.pair)
    batch = tokenizer([text], padding=False, add_special_tokens=fact.special)
    for what, want, found in (
        ("id", fact.ids, batch.input_ids[0]),
        ("type", fact.types, batch.token_type_ids[0]),
        ("piece", fact.pieces, batch.tokens[0]),
    ):
        if want and list(want) != list(found):
            return False, _first_difference(what, want, list(found))
    return True, f"{len(fact.ids)} ids"


def _first_difference(what: str, want: Iterable[Any], found: list[Any]) -> str:
    want = list(want)
    at = next((i for i, (a, b) in enumerate(zip(want, found, strict=False)) if a != b), min(len(want), len(found)))
    theirs, ours = (" ".join(map(str, row[at : at + 4])) or "the end" for row in (want, found))
    return f"first difference at {what} {at}: expected {theirs}, found {ours}"


def _run_width(fact: Width, subject: Subject) -> tuple[bool, str]:
    found = max(len(subject.pieces().encode(text)) for text in fact.texts)
    return found == fact.width, f"expected {fact.width} tokens, found {found}"


def _run_pieces(fact: Pieces, subject: Subject) -> tuple[bool, str]:
    tokenizer = subject.pieces()
    if tokenizer.vocab_size != fact.size:
        return False, f"expected {fact.size:,} pieces, found {tokenizer.vocab_size:,}"
    for number, piece in fact.pieces.items():
        if (found := tokenizer.convert_ids_to_tokens(number)) != piece:
            return False, f"expected id {number} to be {piece!r}, found {found!r}"
    return True, f"{fact.size:,} pieces, {len(fact.pieces)} looked at"


def _run_word_pieces(fact: WordPieces, subject: Subject) -> tuple[bool, str]:
    vocabulary = fact.vocabulary or ("[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(fact.pieces))
    tokenizer = WordPieceTokenizer(fact.name, data="\n".join(vocabulary).encode(), do_lower_case=fact.lower)
    for what, want, found in (
        ("piece", fact.pieces, tokenizer.tokenize(fact.text)),
        ("id", fact.ids, tokenizer.encode(fact.text)[1:-1]),
    ):
        if want and list(want) != found:
            return False, _first_difference(what, want, found)
    return True, f"{' '.join(fact.pieces)}, by the rules of this package; the vocabulary is the test's own"


def _run_count(fact: Count, subject: Subject) -> tuple[bool, str]:
    if subject.config is None:
        raise NotApplicable("no configuration here")
    found = subject.config.count_parameters()[fact.whole]
    return abs(found - fact.parameters) <= fact.tolerance, f"expected {fact.parameters:,}, found {found:,}"


def _run_size(fact: Size, subject: Subject) -> tuple[bool, str]:
    path = next((path for path in subject.files().values() if path.name == fact.file), None)
    if path is None:
        raise NotApplicable(f"no {fact.file} here")
    found = path.stat().st_size
    near = f" or up to {fact.tolerance:,} away" if fact.tolerance else ""
    said = f"expected {fact.bytes:,} bytes{near}, found {found:,}"
    if abs(found - fact.bytes) > fact.tolerance and fact.again:
        raise NotApplicable(f"{said}: written anew, or another revision; its content decides")
    return abs(found - fact.bytes) <= fact.tolerance, said


RUN: dict[type, Callable[[Any, Subject], tuple[bool, str]]] = {
    Numbers: _run_numbers, Guess: _run_guess, Loss: _run_loss, Answer: _run_answer,
    Ids: _run_ids, Width: _run_width, Pieces: _run_pieces, WordPieces: _run_word_pieces,
    Count: _run_count, Size: _run_size,
}  # fmt: skip
