"""Is this the official model it seems to be: its configuration, its vocabulary, and all that was published about it.

identify.py says which model it can be, facts.py what is known of that one, factcheck.py runs a fact; here is the whole
and its report, a line a fact. It tells a damaged or mixed-up copy, a wrong vocabulary, and a port that computes
something else, from the real thing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minialbert.config import PRESETS
from minialbert.convert import as_directory, tokenizer_of
from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer
from minialbert.tools.inspect import file_digest
from minialbert.tools.verify.factcheck import Check, Subject, checked, holds_weights, run
from minialbert.tools.verify.facts import DIGESTS, ENGLISH, FACTS, Fact
from minialbert.tools.verify.identify import kind_of_vocabulary, nearest_model, official_name

NOT = "not applicable"
VOCABULARIES = (".model", ".txt", ".json")
UNKNOWN_LIMIT = 0.05
SENTENCES = {
    "English": (
        "The ship sailed at dawn, and nobody on the quay waved.",
        "She paid twelve euros for a second-hand book about rivers.",
        "Where did the old man leave his umbrella? It will rain again.",
    ),
    "Chinese": ("今天天气很好,我们去公园走走。", "他买了一本关于中国历史的书。", "你知道火车几点到北京吗?"),
}


@dataclass(frozen=True)
class Report:
    """What was found out. `passed` is False when one check failed."""

    path: str
    names: tuple[str, ...]  # what it is taken for: one model, several that nothing tells apart, or none
    candidates: tuple[str, ...]  # in words, all that it could be, the likeliest first
    tokenizer: str
    files: dict[str, dict[str, Any]]  # name: bytes, sha256, published
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return not any(check.status == "FAIL" for check in self.checks)

    def lines(self, everything: bool = True) -> list[str]:
        """The report for people, a line a check; those that do not apply only if everything is asked for."""
        out = [self.path, *(f"  {'or' if i else 'looks like'} {text}" for i, text in enumerate(self.candidates))]
        if len(self.candidates) > 1:
            out.append("  these have the same shapes: only the configuration, and the facts below, tell them apart")
        out += [f"tokenizer: {self.tokenizer}", "files"]
        for name, row in self.files.items():
            published = row["published"] or "none published that is known here"
            out.append(f"  {name}  {row['bytes']:,} bytes  sha256 {row['sha256']} ({published})")
        shown = [check for check in self.checks if everything or check.status != NOT or not check.source]
        out += map(str, sorted(shown, key=lambda check: check.status == "FAIL"))  # what failed last, where the eye is
        counts = [(s, sum(check.status == s for check in self.checks)) for s in ("pass", "FAIL", NOT)]
        end = "" if self.passed else "; weights that are damaged, random or trained further fail, and should"
        if self.passed and self.checks and self.checks[-1].name == "numbers":
            end = "; the weights themselves are unproven"
        return [*out, ", ".join(f"{status}: {count}" for status, count in counts) + end]

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "passed": self.passed}


def verify(path: str | Path, name: str | None = None, facts: Iterable[Fact] = FACTS) -> Report:
    """Hold a checkpoint, or a vocabulary alone, against what was published about the official model that it is.

    path: whatever minialbert.load takes, a directory with less (only a vocabulary, only a configuration), or a
    vocabulary file. name: the model it is meant to be, where its configuration does not say: a preset's, or one of
    VARIANTS in facts.py. Weights that were trained further fail, and should.
    Raises what loading raises (FileError, CheckpointError, ConfigError), and NameUnknown.
    """
    path, given = Path(path), official_name(name) if name else None
    with _opened(path) as directory:
        subject = Subject(path, directory, given)
        files = _digests(subject)
        checks = [*_check_identity(subject), *_check_vocabulary(subject), *_check_digests(files)]
        ran = [(fact, run(fact, subject)) for fact in facts]
        checks += [check for _, check in ran]
        checks += _check_proven(subject, ran)
    names, candidates = tuple(subject.names), tuple(map(str, subject.candidates))
    if names and (subject.config is None or (given and not given[1])):  # there is nothing to compare
        candidates = (f"{' or '.join(names)}, by the {'name given' if given else 'vocabulary'}",)
    said = tokenizer_of(path).describe() if subject.tokenizer else subject.no_tokenizer  # by its name in the source
    return Report(str(path), names, candidates or ("none of the official models",), said, files, tuple(checks))


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Hugging Face's directory of a checkpoint; where there are no weights, the path itself."""
    if (path.is_file() and path.suffix in VOCABULARIES) or (path.is_dir() and not holds_weights(path)):
        yield path
    else:
        with as_directory(path) as directory:
            yield directory


# ---- which model ----


def _check_identity(subject: Subject) -> Iterator[Check]:
    """Is it an official model at all, and configured as one was published?"""
    name = "official model"
    if subject.config is None:
        known = f"by its vocabulary one of {', '.join(subject.names)}" if subject.names else "no official vocabulary"
        yield Check(name, "not applicable", f"no configuration here; {known}")
    elif not subject.candidates:
        near = subject.contradicted or nearest_model(subject.config)
        yield Check(name, "FAIL", f"its sizes are of {'another' if subject.given else 'none'}; nearest {near}")
    elif wrong := subject.candidates[0].unexplained:
        yield Check(name, "FAIL", f"{subject.candidates[0].name}, but {'; '.join(map(str, wrong))}")
    elif subject.given and not subject.given[1]:
        yield Check(name, "not applicable", f"{subject.names[0]} as given; its configuration was not published here")
    else:
        yield Check(name, "pass", " or ".join(subject.names))


# ---- its vocabulary ----


def _check_vocabulary(subject: Subject) -> Iterator[Check]:
    """Is it the vocabulary of the model: kind, size, special tokens, what it cannot spell, settings?"""
    tokenizer = subject.tokenizer
    if tokenizer is None:
        yield Check("vocabulary", "not applicable", subject.no_tokenizer)
        return
    official = next((name for name in subject.kin if name in PRESETS), "")
    if official:
        kind = kind_of_vocabulary(official)
        yield checked("kind of vocabulary", tokenizer.kind == kind, f"{tokenizer.kind}; {official} has {kind}")
    elif subject.config is None:
        said = f"{tokenizer.kind}, {tokenizer.vocab_size:,} entries; no official model has such a one"
        yield Check("kind of vocabulary", "FAIL", said)
    if subject.config is not None:
        have, rows = len(tokenizer), subject.config.vocab_size
        yield checked("size of the vocabulary", have == rows, f"{have:,} entries, the word table has {rows:,} rows")
    yield from _check_special(tokenizer)
    yield _check_unknown(tokenizer, official)
    if official in ENGLISH and isinstance(tokenizer, SentencePieceTokenizer):
        settings = tokenizer.do_lower_case, tokenizer.keep_accents, tokenizer.remove_space
        said = "do_lower_case {}, keep_accents {}, remove_space {}; the releases True, False, True".format(*settings)
        yield checked("settings of the tokenizer", settings == (True, False, True), said)


def _check_special(tokenizer: Tokenizer) -> Iterator[Check]:
    """The special tokens where they belong, and [MASK] found in a text."""
    usual = list(type(tokenizer).SPECIAL.values())
    first = tokenizer.convert_ids_to_tokens(range(min(len(usual), len(tokenizer))))
    if tokenizer.kind == "sentencepiece":
        said = f"{' '.join(first)}; expected {' '.join(usual)}"
        yield checked("ids 0 to 4", first == usual, said)
    else:
        missing = [token for token in usual if not tokenizer.has(token)]
        said = f"0 is {first[0]}, expected {usual[0]}; missing: {' '.join(missing) or 'none'}"
        yield checked("special tokens", first[0] == usual[0] and not missing, said)
    mask = usual[-1]
    number = tokenizer.convert_tokens_to_ids(mask)
    once = tokenizer.has(mask) and tokenizer.encode(f"a {mask} b").count(number) == 1
    yield checked(f"{mask} in a text", once, f"id {number}" if once else "not one id, so words cannot be asked for")


def _check_unknown(tokenizer: Tokenizer, official: str) -> Check:
    """How much of plain text has no piece; of the language of the model, or the better one where that is not known."""
    languages = list(SENTENCES)
    if official:
        languages = ["Chinese" if official.endswith(("-zh", "-chinese")) else "English"]
    rate, language = min((_unknown_rate(tokenizer, SENTENCES[language]), language) for language in languages)
    said = f"{rate:.0%} of the tokens of {len(SENTENCES[language])} {language} sentences"
    return checked(
        "unknown tokens", rate <= UNKNOWN_LIMIT, f"{said}; above {UNKNOWN_LIMIT:.0%} it is another language's"
    )


def _unknown_rate(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    ids = [number for text in texts for number in tokenizer.encode(text)[1:-1]]
    return ids.count(tokenizer.unk_id) / max(1, len(ids))


# ---- its weights ----


def _check_proven(subject: Subject, ran: Iterable[tuple[Fact, Check]]) -> Iterator[Check]:
    """Whether anything published was found true of the numbers in the weights themselves, and not of their shapes."""
    if subject.has_weights and not any(fact.about == "weights" and check.status != NOT for fact, check in ran):
        name = " or ".join(subject.names) or "this model"
        yield Check("numbers", NOT, f"nothing is published about the weights of {name}; they are unproven")


# ---- its files ----


def _digests(subject: Subject) -> dict[str, dict[str, Any]]:
    """Size and digest of every file as it came, and the published digest, "" when none is known."""
    published = {name: digest for model in subject.names for name, digest in DIGESTS.get(model, {}).items()}
    return {
        name: {"bytes": path.stat().st_size, "sha256": file_digest(path), "published": published.get(path.name, "")}
        for name, path in subject.files().items()
    }


def _check_digests(files: dict[str, dict[str, Any]]) -> Iterator[Check]:
    for name, row in files.items():
        if row["published"]:
            said = f"expected {row['published']}, found {row['sha256']}"
            yield checked(f"digest of {name}", row["sha256"] == row["published"], said)
