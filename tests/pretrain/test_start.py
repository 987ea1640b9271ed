"""The head start: neighbours counted as by hand, rows that know like words, heads that look where they should."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.hooks import Recorder
from minialbert.pretrain import start
from minialbert.pretrain.loop import Run
from minialbert.pretrain.plan import Plan, Stage
from minialbert.pretrain.start import (
    frequencies,
    head_start,
    log_ratios,
    neighbours,
    position_code,
    turned,
    word_table,
)  # fmt: skip
from tests.conftest import tiny_config
from tests.pretrain.test_loop import TOKENIZER, corpus  # noqa: F401  # a fixture

V = 500


class Ids:
    """As much of a corpus as is counted: ids in shards."""

    def __init__(self, *shards):
        self.shards = [[np.array(ids, dtype=np.uint16), None, None] for ids in shards]
        self.tokens = sum(map(len, shards))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), max_size=40), min_size=1, max_size=3), st.integers(1, 5))
def test_neighbours_are_those_within_the_window_of_each_shard_to_both_sides(shards, window):
    expected = Counter()
    for ids in shards:
        for i, word in enumerate(ids):
            for j in range(max(0, i - window), min(len(ids), i + window + 1)):
                if j != i:
                    expected[word, ids[j]] += 1
    found = neighbours(Ids(*shards), 7, torch.arange(7), window)
    assert {(w, c): int(n) for (w, c), n in np.ndenumerate(found.numpy()) if n} == dict(expected)
    assert torch.equal(found, found.T)
    some = torch.tensor([5, 2])
    assert torch.equal(neighbours(Ids(*shards), 7, some, window), found[:, some])


def test_a_corpus_cut_into_chunks_loses_no_neighbour_and_counts_none_twice(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 9, 100).tolist()
    whole = neighbours(Ids(ids), 9, torch.arange(9))
    monkeypatch.setattr(start, "CHUNK", 17)
    assert torch.equal(neighbours(Ids(ids), 9, torch.arange(9)), whole)
    assert frequencies(Ids(ids), 9).tolist() == np.bincount(ids, minlength=9).tolist()


def test_a_log_ratio_is_0_for_what_chance_explains_and_never_negative():
    rank_one = torch.outer(torch.tensor([1.0, 5.0, 20.0]), torch.tensor([7.0, 7.0, 7.0]))
    assert log_ratios(rank_one).abs().max() < 1e-6
    counts = torch.tensor([[90.0, 10.0], [10.0, 90.0], [0.0, 0.0]])
    found = log_ratios(counts)
    assert found[0, 0] == pytest.approx(math.log(90 / 50)) and found[0, 1] == 0 and (found[2] == 0).all()


def test_words_found_in_like_places_get_like_rows():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 20_000)  # 4 kinds of 5 words each, after every word the mark of its kind, 20 to 23
    ids = np.stack([kinds * 5 + rng.integers(0, 5, len(kinds)), kinds + 20], axis=1).reshape(-1)
    table = word_table(Ids(ids), 25, 4, window=1)
    near = table[:20] @ table[:20].T
    same = torch.arange(20)[:, None] // 5 == torch.arange(20) // 5
    assert near[same].min() > 0.8 and near[~same].max() < 0.5
    assert torch.equal(table[24], torch.zeros(4))  # a word never found
    assert torch.equal(table, word_table(Ids(ids), 25, 4, window=1))  # the same bits again


# ---- heads that look at the neighbours ----

CONFIG = tiny_config(
    vocab_size=V,
    embedding_size=64,
    hidden_size=96,
    num_attention_heads=3,
    intermediate_size=64,
    max_position_embeddings=64,
)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(-5, 5))
def test_the_code_of_a_position_turns_into_that_of_another(K, distance):
    code, turns = position_code(50, K)
    torch.testing.assert_close(
        code[10:40] @ turned(turns, distance).T, code[10 + distance : 40 + distance], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("K", "most"), [(24, 0.4), (16, 0.6), (8, 0.75)])
def test_no_two_positions_are_taken_for_each_other(K, most):
    code, _ = position_code(512, K)
    near = code @ code.T / K
    assert (near.diagonal() - 1).abs().max() < 1e-4
    assert (near - near.diagonal().diag()).abs().max() < most


@pytest.mark.parametrize(
    "changes",
    [{}, {"parameter_sharing": "none"}, {"embedding_size": 96, "project_embeddings": False}],
    ids=["shared", "apart", "without projection"],
)
def test_two_heads_look_at_the_piece_before_and_the_piece_after_in_every_layer(corpus, changes):  # noqa: F811
    model = AlbertForPreTraining(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        uneven = model.albert.encoder.attentions[0].query.weight[64:].clone()
    head_start(model, corpus)
    ids = torch.tensor(np.random.default_rng(0).choice(np.flatnonzero(frequencies(corpus, V).numpy()), (4, 40)))
    tape = Recorder("attention.probs")
    with torch.no_grad():
        model(ids, tap=tape)
    for layer in range(1, 7):
        probs = tape["attention.probs", layer]  # [B, A, T, T]
        for head, distance in enumerate((-1, 1)):
            assert probs[:, head].diagonal(distance, 1, 2).mean() > 0.6, (layer, head)
        assert probs[:, 2].diagonal(1, 1, 2).mean() < 0.1
    assert torch.equal(uneven, model.albert.encoder.attentions[0].query.weight[64:])  # the other heads are as they were


def test_rows_have_one_length_and_the_bias_knows_how_frequent_a_word_is(corpus):  # noqa: F811
    model = AlbertForPreTraining(CONFIG)
    before = model.albert.embeddings.word.weight.detach().clone()
    head_start(model, corpus)
    embeddings, bias = model.albert.embeddings, model.mlm.bias.detach()
    table = embeddings.word.weight.detach()
    counts = frequencies(corpus, V)
    found = counts > 0
    assert found.sum() > 400 and torch.equal(table[~found], before[~found])
    length = start.SCALE * CONFIG.initializer_range * math.sqrt(CONFIG.embedding_size)
    torch.testing.assert_close(table[found].norm(dim=1), torch.full((int(found.sum()),), length))
    torch.testing.assert_close(embeddings.position.weight.detach().norm(dim=1), torch.full((64,), length))
    assert (table[found] @ embeddings.position.weight.detach().T == 0).all()  # columns of their own
    share = (counts + 1) / (corpus.tokens + V)
    torch.testing.assert_close(bias.double().softmax(0), share, rtol=1e-4, atol=1e-9)


def test_a_run_with_a_head_start_begins_at_the_loss_of_frequencies_and_stays_ahead(corpus, tmp_path):  # noqa: F811
    losses = {}
    for how in ("random", "head start"):
        torch.manual_seed(0)
        model = AlbertForPreTraining(replace(CONFIG, num_hidden_layers=2, hidden_dropout_prob=0.0))
        if how == "head start":
            head_start(model, corpus)
        run = Run(
            tmp_path / how,
            model,
            corpus,
            TOKENIZER,
            Plan((Stage(48, 60, 32),), optimizer="adamw", peak=3e-3, warmup=20),
        )
        losses[how] = [run.update(batch)["mlm_loss"] for batch in run.batches()]
    share = (frequencies(corpus, V) + 1) / (corpus.tokens + V)
    entropy = float(-(share * share.log()).sum())
    assert losses["random"][0] == pytest.approx(math.log(V), abs=0.15)
    assert losses["head start"][0] == pytest.approx(entropy, abs=0.4) and entropy < math.log(V) - 0.5
    assert np.mean(losses["head start"][:15]) < np.mean(losses["random"][:15]) - 0.3
    assert np.mean(losses["head start"][-10:]) < np.mean(losses["random"][-10:])


@pytest.mark.parametrize("sizes", [{"hidden_size": 48}, {"embedding_size": 7}, {"num_attention_heads": 48}])
def test_what_has_no_room_for_a_head_start_is_refused(corpus, sizes):  # noqa: F811
    with pytest.raises(InputError, match=r"a head start needs embedding_size=.* not less than embedding_size"):
        head_start(AlbertForPreTraining(replace(CONFIG, **sizes)), corpus)


def test_a_table_wider_than_the_vocabulary_is_refused():
    with pytest.raises(InputError, match="a table of 7 words from counts cannot have 8 columns"):
        word_table(Ids([1, 2]), 7, 8)
