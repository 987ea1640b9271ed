"""One format into another: what is read, what is written, and the check at the end. `minialbert convert` is this.

One tensor is in memory at a time, until the check runs both models, one after the other.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minialbert.heads as heads
from minialbert.config import AlbertConfig
from minialbert.convert.filling import empty, fill, find_gaps, missing, parameters_of
from minialbert.convert.reading import Contents, LoadReport, check_vocabulary, contents_of, same_numbers
from minialbert.convert.sources import Source, opened
from minialbert.convert.tf_checkpoint import is_bundle
from minialbert.convert.writing import write_hf, write_tensorflow
from minialbert.errors import CheckpointError, FileError, InputError, NameUnknown, nearest
from minialbert.heads import AlbertForPreTraining, AlbertForQuestionAnswering, AlbertForSequenceClassification
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer, load_tokenizer
from minialbert.tokenizers.files import find_vocabulary, write_whole
from minialbert.whole import check_free, whole_directory

HEADS_OF = {  # the class without its family, and the heads that a file of it has; the first that fits is taken
    "ForPreTraining": ("mlm", "sop"), "ForMaskedLM": ("mlm",), "ForQuestionAnswering": ("qa",),
    "ForSequenceClassification": ("classifier", "pooler"), "ForTokenClassification": ("classifier",),
    "ForMultipleChoice": ("classifier", "pooler"), "Model": (),
}  # fmt: skip
CLASSES = {name: AlbertModel if name == "Model" else getattr(heads, f"Albert{name}") for name in HEADS_OF}
TOLERANCE = 1e-5  # in float32; the same numbers in the same order give 0
TARGETS = ("hf", "google")
TEXTS = ("Paris is the capital of France.", "1,000 [MASK] (of 2,000) cost 3.50 £; caf\u00e9, \u4eca\u5929")


@dataclass
class Conversion:
    """What was converted to what, and what became of every tensor."""

    source: str  # what the source was, in words
    target: Path
    cls: type  # as which class Hugging Face will load it
    config: AlbertConfig
    report: LoadReport
    vocabulary: str = ""  # in words; why there is none, if so
    written: dict[str, str] = field(default_factory=dict)  # name in the target: ours
    notes: list[str] = field(default_factory=list)  # what a person should know of it
    difference: float = 0.0  # largest between the outputs of the two models


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str = "hf",
    config: str | Path | AlbertConfig | None = None,
    vocabulary: str | Path | None = None,
    architecture: str | None = None,
    any_vocabulary: bool = False,
    check: bool = True,
    **changes: Any,
) -> Conversion:
    """Read any format that `load` reads; write Hugging Face's directory, or Google's checkpoint (to="google").

    Every tensor that has a place in the family is written, in the precision it came in (a checkpoint of Google's:
    float32 at least), and the vocabulary if there is one. At the end what was written is read again: every tensor must
    have the same numbers, every text the same ids, and both models the same outputs.

    architecture is the class for Hugging Face, as "ForMaskedLM"; by default the one that the file has the head of.
    config and changes as in load_model, vocabulary and any_vocabulary as in load; check=False leaves the check out.
    Raises FileError when dst is there and not empty; CheckpointError, which has the report, for anything missing or
    wrong: then nothing is written.
    """
    dst = Path(dst)
    if to not in TARGETS:
        raise InputError(f"to={to!r} must be one of {', '.join(TARGETS)}")
    if architecture is not None and architecture not in CLASSES:
        raise NameUnknown(f"no class {architecture!r}. Nearest: {nearest(architecture, CLASSES) or ', '.join(CLASSES)}")
    check_free(dst)
    with opened(src) as source:
        contents = contents_of(source, config, changes)
        done = Conversion(source.kind, dst, _class_of(contents, architecture), contents.config, contents.report)
        done.notes += _notes(source, contents, architecture)
        try:
            wanted = _wanted(contents, done.cls)
            contents.check(wanted)
            tokenizer = _vocabulary(source, done, vocabulary, any_vocabulary)
            with whole_directory(dst) as folder:
                listing = {ours: _entry(contents, ours) for ours in contents.places}

                def read(ours: str) -> Tensor:
                    return contents.read(ours, wanted)

                if to == "hf":
                    done.written = write_hf(folder, contents.config, done.cls, listing, read)
                    if tokenizer:
                        tokenizer.save_pretrained(folder)
                else:
                    done.written = write_tensorflow(folder, contents.config, listing, read)
                    if tokenizer:
                        _write_vocabulary(tokenizer, folder, contents.config)
                if check:
                    _check(source, folder, contents, done, wanted, tokenizer, to)
        except CheckpointError as error:
            error.report = contents.report
            raise
    return done


@contextmanager
def as_directory(ref: str | Path) -> Iterator[Path]:
    """Hugging Face's directory of whatever a reference means: itself, or one made of it for the time of use."""
    with opened(ref) as source:
        if source.is_native:
            yield source.directory
            return
    with tempfile.TemporaryDirectory(prefix="minialbert-") as folder:
        convert(ref, Path(folder, "model"), check=False)  # whoever asks is about to compare it
        yield Path(folder, "model")


def _class_of(contents: Contents, asked: str | None) -> type:
    """The class that a file has the head of: as it says itself, or by its tensors."""
    if asked is not None:
        return CLASSES[asked]
    said = contents.saved.extra.get("architectures")
    said = str(said[0]) if isinstance(said, list) and said else ""
    said = said.removeprefix("Albert").removeprefix("Bert")
    if said in CLASSES and all(contents.has(head) for head in HEADS_OF[said]):
        return CLASSES[said]
    return next(CLASSES[name] for name, has in HEADS_OF.items() if all(contents.has(head) for head in has))


def _notes(source: Source, contents: Contents, asked: str | None) -> list[str]:
    """What a person should know of a source before trusting what becomes of it."""
    notes = []
    if contents.has("classifier") and contents.config.num_labels == 1 and asked is None and source.is_google:
        notes.append("its classifier has one row, a regression; one that chooses (RACE) is --class ForMultipleChoice")
    if not source.is_google and is_bundle(source.directory):
        notes.append(f"{source.directory} has a TensorFlow checkpoint too, which was left alone")
    return notes


def _wanted(contents: Contents, cls: type) -> dict[str, Tensor]:
    """Every parameter that the file has and should have, without memory; raises CheckpointError for what is missing."""
    own = parameters_of(empty(cls, contents))
    find_gaps(contents, own)
    if contents.report.new:  # a head that is asked for; loading would begin one anew
        contents.report.missing, contents.report.new = contents.report.new, []
        raise missing(contents, len(own))
    more: dict[str, Tensor] = {}  # heads on top of those of cls, and a pooler beside a head without one
    for each in (AlbertForSequenceClassification, AlbertForQuestionAnswering, AlbertForPreTraining):
        more |= parameters_of(empty(each, contents))
    return more | own


def _entry(contents: Contents, ours: str) -> tuple[str, list[int]]:
    first = contents.places[ours][0]
    return contents.weights.listing[first][0], contents.weights.shape(first)


def _vocabulary(source: Source, done: Conversion, given: str | Path | None, any_size: bool) -> Tokenizer | None:
    """The tokenizer, if there is a vocabulary; one that is damaged or does not belong here is refused."""
    if given is None:
        try:
            find_vocabulary(source.directory)
        except CheckpointError:
            raise
        except FileError as error:
            done.vocabulary = source.shown(str(error))
            return None
    tokenizer = source.tokenizer(given, done.config)
    check_vocabulary(done.config, tokenizer, tokenizer.source, any_size)
    done.vocabulary = tokenizer.describe()
    return tokenizer


def _write_vocabulary(tokenizer: Tokenizer, folder: Path, config: AlbertConfig) -> None:
    """As Google's releases have it: one file, and no settings."""
    name = "30k-clean.model" if tokenizer.kind == "sentencepiece" else "vocab.txt"
    if config.model_type == "albert" and tokenizer.kind == "wordpiece":
        name = "vocab_chinese.txt"
    if len(tokenizer) > tokenizer.vocab_size:
        raise CheckpointError(
            f"{tokenizer.source}: {len(tokenizer) - tokenizer.vocab_size} added tokens, and Google's releases have no "
            "place for any; such a vocabulary cannot be written for it"
        )
    write_whole(folder / name, tokenizer.data)


def _check(
    source: Source, folder: Path, contents: Contents, done: Conversion, wanted: Mapping, tokenizer: Tokenizer | None,
    to: str,
) -> None:  # fmt: skip
    """What was written, read again: the same numbers, ids, configuration and outputs. Raises CheckpointError."""
    with opened(folder) as target:
        again = contents_of(target, None, {})
        odd = []
        for ours in contents.places:
            x = contents.read(ours, wanted)
            odd += [] if torch.stack(x.aminmax()).isfinite().all() else [ours]  # without a tensor of its size
            if ours in again.places and same_numbers(x, again.read(ours, wanted)):
                continue
            if ours in again.places or not ours.startswith("embeddings.projection."):  # an identity need not be there
                raise CheckpointError(f"{done.target}: {ours} came back with other numbers; is the disk sound?")
        if odd:
            done.notes.append(f"not all numbers are finite in {', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}")
        if tokenizer and _ids(load_tokenizer(folder)) != _ids(tokenizer):
            if to == "hf":
                raise CheckpointError(f"{done.target}: the vocabulary came back with other ids; a mistake of ours")
            settings = tokenizer.describe().partition("; ")[2]  # arguments of Google's programs, in none of its files
            done.notes.append(f"not kept, to be given when it is loaded: {settings}")
        _check_config(done, contents.config, again.config, to)
        del x  # from here on one model at a time
        before = _outputs(fill(done.cls, source, "auto", contents.config, {})[0])
        after = _outputs(fill(done.cls, target, "auto", None, {})[0])
        pairs = zip(before, after, strict=True)
        done.difference = max(0.0 if same_numbers(x, y) else (x - y).abs().max().item() for x, y in pairs)
        if not done.difference <= TOLERANCE:
            raise CheckpointError(
                f"{done.target}: outputs differ by {done.difference:.1e} from those of the source, allowed is "
                f"{TOLERANCE:g}; this is a mistake of ours"
            )


def _check_config(done: Conversion, before: AlbertConfig, after: AlbertConfig, to: str) -> None:
    """The configuration must have come back; of what Google's files have no place for, a note is made."""
    was, now = ({k: v for k, v in c.to_json().items() if k not in c.extra} for c in (before, after))
    different = [key for key in was if was[key] != now.get(key) and key not in ("label2id", "project_embeddings")]
    if to == "google" and before.to_google_json() == after.to_google_json():
        if different:
            done.notes.append(f"not kept, for Google's files have no place for it: {', '.join(different)}")
    elif different:
        key = different[0]
        raise CheckpointError(f"{done.target}: {key} was {was[key]!r} and came back as {now.get(key)!r}; our mistake")


def _ids(tokenizer: Tokenizer) -> list[list[int]]:
    return tokenizer(list(TEXTS)).input_ids.tolist()


def _outputs(model: Any) -> list[Tensor]:
    """What a model says to a fixed batch with padding and both types, in float32, every block visited once."""
    config, model = model.config, model.float()
    generator = torch.Generator().manual_seed(0)
    T = min(16, config.max_position_embeddings)
    ids = torch.randint(0, config.vocab_size, (2, T), generator=generator)  # [B, T]
    types = torch.randint(0, config.type_vocab_size, (2, T), generator=generator)  # [B, T]
    mask = (torch.arange(T) < torch.tensor([[T], [max(1, T - 5)]])).long()  # [B, T]
    batch = [ids, mask, types]
    if isinstance(model, heads.AlbertForMultipleChoice):
        batch = [x[:, None] for x in batch]  # [B, 1, T]
    plan = config.sharing_plan()
    depth = len(plan) if len(set(plan)) > config.inner_group_num else config.inner_group_num
    with torch.inference_mode():
        return [x for x in model(*batch, depth=depth) if x is not None]
