"""tokenizer.json files in the style of the released ALBERT ones and of transformers 5: not as we write them."""

import base64

import sentencepiece

from minialbert.protobuf import fields
from minialbert.tokenizers.normalize import ends_in_digit_comma
from minialbert.tokenizers.write_json import template

SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def token(number: int, content: str, special: bool = True, lstrip: bool = False) -> dict:
    flags = {"single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": False, "special": special}
    return {"id": number, "content": content} | flags


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
