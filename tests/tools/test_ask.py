"""The heads of pre-training, asked: against transformers, and where there is nothing to ask."""

import json
from pathlib import Path

import pytest
import torch

from minialbert import AlbertForMaskedLM, AlbertForPreTraining
from minialbert.cli import main
from minialbert.errors import CheckpointError, InputError
from minialbert.tools.ask import fill_mask, load_with_head, order
from tests.conftest import theirs_of, tiny_bert, tiny_config

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(26))]
TEXT = "word1 [MASK] word3 [MASK]"
IDS = [[2, 6, 4, 8, 4, 3]]


def saved(directory: Path, config, head: str):
    theirs = theirs_of(config, head)
    theirs.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    return theirs


@pytest.mark.parametrize("config", [tiny_config(), tiny_bert()], ids=["albert", "bert"])
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForPreTraining"])
def test_the_words_for_a_mask_are_those_of_transformers(config, head, tmp_path):
    theirs = saved(tmp_path, config, head)
    model, tokenizer = load_with_head(AlbertForMaskedLM, tmp_path)
    found = fill_mask(model, tokenizer, TEXT, top=31)
    with torch.no_grad():
        out = theirs(torch.tensor(IDS))
    logits = out.logits if head == "ForMaskedLM" else out.prediction_logits
    want = logits[0, [2, 4]].softmax(-1)
    for row, chances in zip(found, want, strict=True):
        assert [guess.probability for guess in row] == sorted((guess.probability for guess in row), reverse=True)
        assert sum(guess.probability for guess in row) == pytest.approx(1, abs=1e-5)
        for guess in row:
            assert guess.piece == WORDS[guess.id]
            assert guess.probability == pytest.approx(float(chances[guess.id]), abs=1e-6)


@pytest.mark.parametrize("config", [tiny_config(), tiny_bert()], ids=["albert", "bert"])
def test_the_order_of_two_segments_is_that_of_transformers(config, tmp_path):
    theirs = saved(tmp_path, config, "ForPreTraining")
    model, tokenizer = load_with_head(AlbertForPreTraining, tmp_path)
    ids, types = torch.tensor([[2, 6, 7, 3, 8, 3]]), torch.tensor([[0, 0, 0, 0, 1, 1]])
    with torch.no_grad():
        out = theirs(ids, token_type_ids=types)
    logits = out.sop_logits if config.model_type == "albert" else out.seq_relationship_logits
    assert order(model, tokenizer, "word1 word2", "word3") == pytest.approx(float(logits.softmax(-1)[0, 0]), abs=1e-6)


def test_a_head_that_is_not_there_is_not_asked(tmp_path):
    saved(tmp_path, tiny_config(), "Model")
    with pytest.raises(CheckpointError, match="has no head for masked words"):
        load_with_head(AlbertForMaskedLM, tmp_path)
    saved(tmp_path / "words", tiny_config(), "ForMaskedLM")
    with pytest.raises(CheckpointError, match="has no head for"):
        load_with_head(AlbertForPreTraining, tmp_path / "words")


def test_what_cannot_be_asked_is_one_line(tmp_path):
    saved(tmp_path, tiny_config(), "ForMaskedLM")
    model, tokenizer = load_with_head(AlbertForMaskedLM, tmp_path)
    for text, top, words in [("word1 word2", 5, r"no \[MASK\] in it"), (TEXT, 0, "top=0"), (TEXT, 32, "top=32"),
                             ("word1 " * 40 + "[MASK]", 5, "positions")]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            fill_mask(model, tokenizer, text, top)


def test_the_commands_print_words_and_probabilities(tmp_path, capsys):
    saved(tmp_path, tiny_config(), "ForPreTraining")
    assert main(["fill-mask", TEXT, "--model", str(tmp_path), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == TEXT and len(lines) == 5 and lines[1].startswith("  [MASK] 1  0.") and "[MASK] 2" in lines[4]
    assert main(["fill-mask", TEXT, "--model", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [len(row) for row in told["masks"]] == [5, 5] and set(told["masks"][0][0]) == {"piece", "id", "probability"}
    assert main(["order", "word1", "word2", "--model", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["in_order"] < 1 and told["in_order"] != told["swapped"]
    assert main(["order", "word1", "word2", "--model", str(tmp_path)]) == 0
    assert "the other way round" in capsys.readouterr().out
    assert main(["fill-mask", "word1", "--model", str(tmp_path)]) == 1
