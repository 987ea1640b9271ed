"""Both kinds of tokenizer, small."""

import pytest

from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer
from tests.tokenizers.texts import BERT, comma_model


def sentencepiece_tokenizer(**settings) -> SentencePieceTokenizer:
    return SentencePieceTokenizer("comma/spiece.model", data=comma_model(), **settings)


def wordpiece_tokenizer(**settings) -> WordPieceTokenizer:
    return WordPieceTokenizer("bert/vocab.txt", data="\n".join(BERT).encode(), **settings)


@pytest.fixture(params=["sentencepiece", "wordpiece"], scope="session")
def tokenizer(request) -> Tokenizer:
    return sentencepiece_tokenizer() if request.param == "sentencepiece" else wordpiece_tokenizer()
