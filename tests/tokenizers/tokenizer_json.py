"""tokenizer.json files as transformers writes them, for vocabularies that the tests make."""

import base64

import sentencepiece

from minialbert.protobuf import fields
from minialbert.tokenizers.normalize import ends_in_digit_comma

SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def token(number: int, content: str, special: bool = True, lstrip: bool = False) -> dict:
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": False, "special": special}
    return {"id": number, "content": content} | flags


def template(cls: tuple[str, int], sep: tuple[str, int]) -> dict:
    def special(name: str, kind: int) -> dict:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> dict:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls[0], 0), text("A", 0), special(sep[0], 0)]
    entries = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (cls, sep)}
    pair = [*single, text("B", 1), special(sep[0], 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": entries}


def unigram_json(model: bytes, official: bool) -> dict:
    """The file for a SentencePiece model. `official`: as the released ALBERT files (2020): only the special tokens are
    added tokens, and comma pieces have a score lowered by 100; else as transformers 5 writes it."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = []
    for i in range(sp.get_piece_size()):
        piece, score = sp.id_to_piece(i), sp.get_score(i)
        vocabulary.append([piece, score - 100 if official and ends_in_digit_comma(piece) else score])
    charsmap = base64.b64encode(dict(fields(dict(fields(model))[3]))[2]).decode()
    replace = [{"type": "Replace", "pattern": {"String": two}, "content": '"'} for two in ("``", "''")]
    plain = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    steps = [*replace, *plain, {"type": "Precompiled", "precompiled_charsmap": charsmap}]
    if official:
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    added = [token(i, name, lstrip=name == "[MASK]") for i, name in enumerate(SPECIAL)]
    if not official:
        added += [token(i, sp.id_to_piece(i), special=False) for i in range(5, 13)]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
        if official
        else metaspace,
        "post_processor": template(("[CLS]", 2), ("[SEP]", 3)),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocabulary, "byte_fallback": False},
    }


def wordpiece_json(lines: list[str], lowercase: bool) -> dict:
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(i, name) for i, name in enumerate(lines[:5])],
        "normalizer": normalizer | {"lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(("[CLS]", 2), ("[SEP]", 3)),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model | {"vocab": {line: i for i, line in enumerate(lines)}},
    }
