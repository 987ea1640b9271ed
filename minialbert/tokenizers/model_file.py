"""The inside of a SentencePiece model file: enough of it to check one and to write one.

Written are models for vocabularies that came as tokenizer.json (tokenizer_json.py). Field numbers are those of the
library's public sentencepiece_model.proto; the tests read back what is written here through the library.
"""

from dataclasses import dataclass
from pathlib import Path

from minialbert.errors import FileError
from minialbert.protobuf import bytes_field, fields, float_field, number_field

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of a piece
PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the file
VOCAB_SIZE = 4  # field of TRAINER
LOWERED = 100.0  # in a tokenizer.json, scores of pieces like "2009," are lower by this, in place of the comma rule


@dataclass(frozen=True)
class Rules:
    """What a model file says besides its pieces."""

    unigram: bool  # else another way to cut words (BPE, say)
    suffix: bool  # the mark of a space ends a word instead of beginning it
    byte_fallback: bool
    charsmap: bytes  # the table of the model's own normalizer, b"" if it has none
    prefix: bool  # a space put before the text
    trims: bool  # white space that is not needed is dropped


def check_model(data: bytes, source: str | Path) -> None:
    """Raises FileError unless the bytes are one whole SentencePiece model.

    The library itself accepts a file that was cut off between two pieces, and numbers what is left.
    """
    counts = {PIECES: 0, TRAINER: 0, NORMALIZER: 0}
    trouble = "it holds no pieces"
    try:
        for field, _ in fields(data):
            counts[field] = counts.get(field, 0) + 1
    except ValueError as error:
        trouble = str(error)
    else:
        if counts[PIECES] and counts[TRAINER] and counts[NORMALIZER]:  # in this order: the end is there
            return
    if counts[PIECES] > 3:
        raise FileError(f"{source}: is cut off after {counts[PIECES]} pieces; copy it again")
    raise FileError(f"{source}: is not a SentencePiece model ({trouble})")


def read_rules(data: bytes) -> Rules:
    """The rules in a whole model file (`check_model`); what it does not say has the library's default."""
    parts = dict(fields(data))
    trainer, normalizer = (dict(fields(bytes(parts[part]))) for part in (TRAINER, NORMALIZER))
    return Rules(
        unigram=trainer.get(3, 1) == 1,
        suffix=bool(trainer.get(24, 0)),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=bytes(normalizer.get(2, b"")),
        prefix=bool(normalizer.get(3, 1)),
        trims=bool(normalizer.get(4, 1)),
    )


def write_model(
    pieces: list[tuple[str, float, int]], ids: dict[str, int], charsmap: bytes, dummy_prefix: bool
) -> bytes:
    """A unigram model file. `pieces`: (text, score, type) in the order of ids; `ids`: "unk" and "pad" where present."""
    out = bytearray()
    for text, score, kind in pieces:
        body = bytes_field(1, text.encode()) + float_field(2, score)
        out += bytes_field(PIECES, body + (number_field(3, kind) if kind != NORMAL else b""))
    trainer = number_field(3, 1) + number_field(VOCAB_SIZE, len(pieces))  # model type 1: unigram
    for field, name in ((40, "unk"), (41, "bos"), (42, "eos"), (43, "pad")):
        trainer += number_field(field, ids.get(name, -1))
    for field, name in ((45, "unk"), (48, "pad")):
        if name in ids:
            trainer += bytes_field(field, pieces[ids[name]][0].encode())
    normalizer = bytes_field(1, b"nmt_nfkc" if charsmap else b"identity") + bytes_field(2, charsmap)
    normalizer += number_field(3, int(dummy_prefix))
    return bytes(out + bytes_field(TRAINER, trainer) + bytes_field(NORMALIZER, normalizer))
