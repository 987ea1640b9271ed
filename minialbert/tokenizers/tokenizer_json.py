"""tokenizer.json, the one file that Hugging Face's newer tokenizers write, read into the two vocabularies we know.

A WordPiece model becomes the bytes of a vocab.txt, a Unigram model those of a spiece.model (model_file.py writes it).
The other way round: write_json.py. Source: files written by transformers 5.23.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from minialbert.errors import FileError
from minialbert.tokenizers.files import Settings, read_json
from minialbert.tokenizers.model_file import CONTROL, LOWERED, NORMAL, UNKNOWN, USER_DEFINED, write_model
from minialbert.tokenizers.normalize import ends_in_digit_comma


def read_tokenizer_json(path: Path) -> tuple[str, bytes, Settings]:
    """(kind, bytes of the vocabulary file, what it says about settings). Raises FileError."""
    whole = read_json(path)
    model = whole.get("model")
    name = model.get("type") if isinstance(model, dict) else None
    try:
        if name == "WordPiece":
            return "wordpiece", *read_wordpiece(whole)
        if name == "Unigram":
            return "sentencepiece", *read_unigram(whole)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, binascii.Error) as error:
        raise FileError(f"{path}: the {name} model in it is not complete ({type(error).__name__}: {error})") from error
    raise FileError(
        f"{path}: holds a {name} model, expected Unigram (English ALBERT) or WordPiece (BERT, Chinese ALBERT)"
    )


def steps(part: Any) -> list[dict]:
    """The normalizer or pre-tokenizer as a flat list of its steps."""
    if not isinstance(part, dict):
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return [step for one in inner for step in steps(one)] if inner else [part]


def added_tokens(whole: dict) -> dict[str, tuple[int, bool]]:
    entries = whole.get("added_tokens") or []
    return {entry["content"]: (int(entry["id"]), bool(entry.get("special"))) for entry in entries}


def read_wordpiece(whole: dict) -> tuple[bytes, Settings]:
    model = whole["model"]
    by_id = {number: token for token, number in model["vocab"].items()}
    lines = [by_id[i] for i in range(len(by_id))]
    values = {"max_chars": model.get("max_input_chars_per_word", 100)}
    for step in steps(whole.get("normalizer")):
        if step.get("type") == "BertNormalizer":
            values["do_lower_case"] = step.get("lowercase", True)
            values["strip_accents"] = step.get("strip_accents")
            values["tokenize_chinese_chars"] = step.get("handle_chinese_chars", True)
    said = Settings(values, {"unk": model.get("unk_token", "[UNK]")}, added_tokens(whole))
    return "".join(line + "\n" for line in lines).encode(), said


def read_unigram(whole: dict) -> tuple[bytes, Settings]:
    """The pieces keep text, order and score; their types, which the file does not hold, are worked out.

    A special added token is a control piece. A piece is user-defined if it has score 0: the trainer gives 0 to what
    it was told to keep, and a negative score to the rest.
    """
    model, added = whole["model"], added_tokens(whole)
    vocabulary = [(str(piece), float(score)) for piece, score in model["vocab"]]
    unk = int(model["unk_id"])
    usual = min((score for piece, score in vocabulary if not ends_in_digit_comma(piece)), default=0.0)
    pieces = []
    for i, (piece, score) in enumerate(vocabulary):
        entry = added.get(piece)
        if i == unk:
            kind = UNKNOWN
        elif entry and entry[1]:
            kind = CONTROL
        elif score == 0.0:
            kind = USER_DEFINED
        else:
            kind = NORMAL
            if ends_in_digit_comma(piece) and score < usual - LOWERED / 2:
                score += LOWERED
        pieces.append((piece, score, kind))
    charsmap, lower, keep_accents = b"", False, True
    for step in steps(whole.get("normalizer")):
        charsmap = base64.b64decode(step["precompiled_charsmap"]) if step.get("type") == "Precompiled" else charsmap
        lower = lower or step.get("type") == "Lowercase"
        keep_accents = keep_accents and step.get("type") not in ("StripAccents", "NFKD")
    prefix = True
    for step in steps(whole.get("pre_tokenizer")):
        prefix = prefix and step.get("prepend_scheme") != "never" and step.get("add_prefix_space") is not False
    names = [piece for piece, _ in vocabulary]
    ids = {"unk": unk} | ({"pad": names.index("<pad>")} if "<pad>" in names else {})
    said = Settings({"do_lower_case": lower, "keep_accents": keep_accents}, {"unk": names[unk]}, added)
    return write_model(pieces, ids, charsmap, prefix), said
