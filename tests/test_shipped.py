"""The model that ships: load() without an argument gives it, it knows some English, and others read it."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import minialbert
from minialbert.cli import main
from minialbert.convert.sources import SHIPPED, shipped
from minialbert.tools.ask import fill_mask, load_with_head, order

EVERYDAY = (  # written before any model had seen them; the word is one that anybody would say
    ("I drink a cup of [MASK] every morning.", "coffee tea"),
    ("She closed the door and locked [MASK].", "it"),
    ("The children went to [MASK] on the bus.", "school"),
    ("He put the book back on the [MASK].", "shelf table desk"),
    ("My mother and my [MASK] live in the same house.", "father brother sister"),
    ("The sun rises in the [MASK].", "east morning"),
    ("We had bread and cheese for [MASK].", "lunch dinner breakfast supper"),
    ("It was so cold that the water turned to [MASK].", "ice"),
    ("The dog ran after the [MASK].", "cat ball rabbit man"),
    ("The train arrived ten [MASK] late.", "minutes hours"),
    ("There are seven days in a [MASK].", "week"),
    ("Please open the [MASK], it is hot in here.", "window door"),
    ("The king and the [MASK] lived in a castle.", "queen prince"),
    ("The doctor told the [MASK] to stay in bed.", "patient man woman boy"),
    ("He was born in London in the [MASK] 1850.", "year"),
    ("One of the most important [MASK] of the war was food.", "problems causes parts issues things"),
    ("They lived on the other side of the [MASK].", "river street road country world city house"),
    ("She looked at him and [MASK] nothing.", "said saw"),
    ("I do not know what to [MASK].", "do say think"),
    ("The United [MASK] of America is a large country.", "states"),
)


@pytest.fixture(scope="module")
def loaded():
    return load_with_head(minialbert.AlbertForPreTraining, None)


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_load_gives_it_and_so_does_its_name():
    model, tokenizer = minialbert.load()
    named, _ = minialbert.load(SHIPPED)
    assert tokenizer.source.parent == shipped() and not model.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), named.parameters(), strict=True))
    cfg = model.config
    sizes = (cfg.vocab_size, cfg.embedding_size, cfg.hidden_size, cfg.num_hidden_layers, cfg.max_position_embeddings)
    assert sizes == (8192, 128, 256, 6, 512) and len(tokenizer) == 8192
    assert cfg.sharing_plan() == [(0, 0)] * 6


def test_it_is_small_and_nothing_lies_beside_it():
    files = {file.name: file.stat().st_size for file in shipped().iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "spiece.model", "tokenizer.json", "tokenizer_config.json"}
    assert sum(files.values()) < 12e6


def test_the_first_commands_work_without_a_network(capsys, no_network):
    assert main(["embed", "The bank of the river.", "The bank lent her money."]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and len(rows[0]["vector"]) == 256
    assert main(["fill-mask", EVERYDAY[0][0]]) == 0 and main(["order", "He opened the door.", "He went in."]) == 0
    assert main(["tokenize", "It costs 92,000 francs."]) == 0 and main(["inspect", str(shipped())]) == 0


def test_it_knows_everyday_words(loaded):
    model, tokenizer = loaded
    told = []
    for text, expected in EVERYDAY:
        words = [guess.piece.strip("▁") for guess in fill_mask(model, tokenizer, text)[0]]
        told.append(bool(set(words) & set(expected.split())))
        print("right" if told[-1] else "wrong", text, *words)
    assert sum(told) >= 6  # as its card says; 10 is what a training of a billion words should reach


def test_words_of_a_kind_have_vectors_of_a_kind():
    embed = minialbert.Embedder(*minialbert.load())
    groups = ["monday tuesday friday", "red blue green", "king queen prince", "eat drink cook"]
    words = [word for group in groups for word in group.split()]
    vectors = embed(words, "embeddings", normalize=True)
    near = vectors @ vectors.T - 2 * np.eye(len(words))
    assert all(near[i].argmax() // 3 == i // 3 for i in range(len(words)))


def test_transformers_reads_it_and_computes_the_same(loaded):
    ours, tokenizer = loaded
    theirs = transformers.AlbertForPreTraining.from_pretrained(shipped()).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(shipped())
    texts = [text for text, _ in EVERYDAY]
    batch = tokenizer(texts)
    assert their_tokenizer(texts, padding=True)["input_ids"] == batch.input_ids.tolist()
    with torch.no_grad():
        mine = ours(**batch)
        other = theirs(**{name: torch.as_tensor(x) for name, x in batch.items()})
    assert (mine.prediction_logits - other.prediction_logits)[batch.attention_mask == 1].abs().max() < 1e-4
    assert (mine.sop_logits - other.sop_logits).abs().max() < 1e-4


def test_an_install_without_its_weights_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("minialbert.convert.sources.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(minialbert.MiniAlbertError, match="the model that ships is not there; install minialbert again"):
        shipped()


def test_a_directory_of_its_name_is_meant_before_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path(SHIPPED).mkdir()
    with pytest.raises(minialbert.MiniAlbertError, match=f"{SHIPPED}: "):
        minialbert.load(SHIPPED)


def test_order_is_a_probability(loaded):
    assert 0 < order(*loaded, "He opened the door.", "Then he went in.") < 1
