"""Reading and writing the files around a vocabulary: which vocabulary a directory holds, which settings.

Nothing here knows how a text is cut; tokenizer_json.py reads the one format that holds everything in one file.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialbert.errors import CheckpointError, FileError
from minialbert.whole import whole_file

SENTENCEPIECE_NAMES = ("spiece.model", "30k-clean.model")
WORDPIECE_NAMES = ("vocab.txt", "vocab_chinese.txt")
ROLES = ("pad", "unk", "cls", "sep", "mask")
LARGEST_LENGTH = 10**9  # Hugging Face writes 1e30 for "not known"


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises FileError when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise FileError(f"{path}: is empty; copy the vocabulary again")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileError for anything else, with the place where reading stopped."""
    data = read_bytes(path)
    try:
        found = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise FileError(f"{path}: is not whole JSON ({error}); was it cut off? Copy it again") from error
    except RecursionError as error:
        raise FileError(f"{path}: is not a settings file, it is nested too deeply") from error
    if not isinstance(found, dict):
        raise FileError(f"{path}: holds a JSON {type(found).__name__}, expected an object")
    return found


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all, and the directory it is in. Raises FileError."""
    with whole_file(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)


def json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def find_vocabulary(path: str | Path) -> tuple[str, Path, str]:
    """Which file to read, as (kind, path, why); kind is "sentencepiece", "wordpiece" or "tokenizer.json".

    A file decides by its ending, a directory by what it holds. Two vocabularies of different kinds are told apart by
    tokenizer_class or model_type; if these do not help, that is an error, as is a directory with neither. Raises
    FileError, CheckpointError.
    """
    path = Path(path)
    if path.is_file():
        kind = {".model": "sentencepiece", ".txt": "wordpiece", ".json": "tokenizer.json"}.get(path.suffix)
        if kind is None:
            raise FileError(
                f"{path}: is no vocabulary by its ending; expected .model (SentencePiece), .txt (WordPiece)"
            )
        return kind, path, "it was given"
    if not path.is_dir():
        raise FileError(f"{path}: there is no such file or directory")
    piece, word = sentencepiece_file(path), first_of(path, WORDPIECE_NAMES)
    if piece and word:
        return between(path, piece, word)
    if piece:
        return "sentencepiece", piece, "the only kind of vocabulary in the directory"
    if word:
        return "wordpiece", word, "the only kind of vocabulary in the directory"
    if (path / "tokenizer.json").is_file():
        return "tokenizer.json", path / "tokenizer.json", "no spiece.model or vocab.txt beside it"
    raise FileError(
        f"{path}: no vocabulary. Looked for {', '.join(SENTENCEPIECE_NAMES)} or one *.model (SentencePiece, English "
        f"ALBERT), {', '.join(WORDPIECE_NAMES)} (WordPiece, Chinese ALBERT and BERT), tokenizer.json (either)"
    )


def first_of(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)


def sentencepiece_file(directory: Path) -> Path | None:
    found = first_of(directory, SENTENCEPIECE_NAMES)
    others = sorted(directory.glob("*.model"))
    if found or not others:
        return found
    if len(others) > 1:
        names = ", ".join(other.name for other in others)
        raise CheckpointError(f"{directory}: several SentencePiece models ({names}); give the path of one")
    return others[0]


def between(directory: Path, piece: Path, word: Path) -> tuple[str, Path, str]:
    """Both kinds are there: what the settings say decides."""
    places = {"tokenizer_config.json": "tokenizer_class", "tokenizer.json": "model", "config.json": "model_type"}
    for name, key in places.items():
        said = read_json(directory / name).get(key) if (directory / name).is_file() else ""
        said = str((said.get("type") if isinstance(said, dict) else said) or "")
        if said.lower().startswith(("albert", "unigram")):
            return "sentencepiece", piece, f"{name} says {key} {said}; {word.name} is not used"
        if said.lower().startswith(("bert", "wordpiece")):
            return "wordpiece", word, f"{name} says {key} {said}; {piece.name} is not used"
    raise CheckpointError(
        f"{directory}: both {piece.name} (SentencePiece) and {word.name} (WordPiece), and no tokenizer_class or "
        f"model_type says which is meant; give the path of one"
    )


@dataclass
class Settings:
    """What the files beside a vocabulary say; what they do not say is left out."""

    values: dict[str, Any] = field(default_factory=dict)  # name of a setting: value
    special: dict[str, str] = field(default_factory=dict)  # role of a special token: its string
    added: dict[str, tuple[int, bool]] = field(default_factory=dict)  # added token: id, is it special?

    def over(self, other: "Settings") -> "Settings":
        """Both together; where they differ, this one has the say."""
        return Settings(other.values | self.values, other.special | self.special, other.added | self.added)


def read_settings(directory: Path) -> Settings:
    """Reads tokenizer_config.json, special_tokens_map.json, added_tokens.json and, for the longest text, config.json.

    Tokens may be strings or objects with "content". Raises FileError, CheckpointError.
    """
    parts = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json", "added_tokens.json", "config.json"):
        parts[name] = read_json(directory / name) if (directory / name).is_file() else {}
    config, out = parts["tokenizer_config.json"], Settings()
    for part in (parts["special_tokens_map.json"], config):  # the second is the newer file: it has the say
        for role in ROLES:
            token = part.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                out.special[role] = token
    if config.get("do_basic_tokenize") is False:
        raise CheckpointError(f"{directory}/tokenizer_config.json: do_basic_tokenize false is not supported")
    out.values = {name: value for name, value in config.items() if value is not None}
    out.values.pop("model_max_length", None)
    for length in (config.get("model_max_length"), parts["config.json"].get("max_position_embeddings")):
        if isinstance(length, int | float) and 0 < length < LARGEST_LENGTH:
            out.values["model_max_length"] = int(length)
            break
    try:
        out.added = {token: (int(number), False) for token, number in parts["added_tokens.json"].items()}
        for number, entry in (config.get("added_tokens_decoder") or {}).items():
            out.added[entry["content"]] = int(number), bool(entry.get("special"))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        message = (
            f"{directory}: the added tokens in tokenizer_config.json or added_tokens.json are not readable ({error})"
        )
        raise CheckpointError(message) from error
    return out
