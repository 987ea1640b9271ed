"""Text to ids and back; no torch in this folder.

normalize.py cleans text, sentencepiece.py is ALBERT's tokenizer, wordpiece.py BERT's (and Chinese ALBERT's), base.py
what both share, encoding.py what a batch becomes. files.py, tokenizer_json.py and model_file.py read what is on disk;
write_json.py writes what transformers reads.
"""

from pathlib import Path
from typing import Any

from minialbert.errors import CheckpointError
from minialbert.tokenizers.base import Tokenizer
from minialbert.tokenizers.encoding import Encoding
from minialbert.tokenizers.files import Settings, find_vocabulary, read_bytes, read_settings
from minialbert.tokenizers.sentencepiece import SentencePieceTokenizer
from minialbert.tokenizers.tokenizer_json import read_tokenizer_json
from minialbert.tokenizers.wordpiece import WordPieceTokenizer, is_cased, read_vocabulary

__all__ = ["Encoding", "SentencePieceTokenizer", "Tokenizer", "WordPieceTokenizer", "load_tokenizer"]


def load_tokenizer(
    path: str | Path, flavor: str | None = None, do_lower_case: bool | None = None, **overrides: Any
) -> Tokenizer:
    """The tokenizer in a directory, or of one .model, vocab.txt or tokenizer.json file.

    Which kind is decided by the files (`describe()` tells it). Settings come from tokenizer_config.json beside the
    vocabulary, from tokenizer.json, or are the usual ones, in this order; a vocab.txt full of capitals is not
    lower-cased. Arguments win over all, None counts as not given: flavor ("hf" or "google"), do_lower_case, and by name
    keep_accents, remove_space, strip_accents, tokenize_chinese_chars, max_chars, split_special, allowed_special,
    model_max_length.
    Raises FileError, CheckpointError (files that contradict each other), InputError (no such setting).
    """
    kind, source, why = find_vocabulary(path)
    data, said = None, Settings()
    if kind == "tokenizer.json":
        kind, data, said = read_tokenizer_json(source)
    said = read_settings(source.parent).over(said)
    cls = SentencePieceTokenizer if kind == "sentencepiece" else WordPieceTokenizer
    settings = {name: value for name, value in said.values.items() if name in cls.SETTINGS}
    overrides |= {"flavor": flavor, "do_lower_case": do_lower_case}
    settings.update({name: value for name, value in overrides.items() if value is not None})
    if cls is WordPieceTokenizer and "do_lower_case" not in settings:
        data = data or read_bytes(source)
        if is_cased(read_vocabulary(data, str(source))):  # Google's releases of BERT say it in their names alone
            settings["do_lower_case"] = False
            why += ", with capitals in it"
    tokenizer = cls(source, data=data, special=said.special, why=why, **settings)
    put_added(tokenizer, said.added)
    return tokenizer


def put_added(tokenizer: Tokenizer, added: dict[str, tuple[int, bool]]) -> None:
    """Adds the tokens that the files list, at the ids that the files give them. Raises CheckpointError."""
    where = tokenizer.source.parent
    for token, (number, special) in sorted(added.items(), key=lambda item: item[1][0]):
        if number < tokenizer.vocab_size:
            found = tokenizer.convert_ids_to_tokens(number)
            if found != token:
                raise CheckpointError(
                    f"{where}: id {number} is {token!r} in the settings, {found!r} in {tokenizer.source.name}; "
                    "these files do not belong together"
                )
            if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.user_defined(number):
                continue  # Hugging Face lists user-defined pieces here; SentencePiece itself keeps them whole
        elif number != len(tokenizer) or tokenizer.has(token):
            raise CheckpointError(f"{where}: added token {token!r} has id {number}, expected {len(tokenizer)}")
        tokenizer.add_tokens([token], special=special)
