"""The toy world keeps its three rules, and a model smaller than the experiment's learns both losses of it.

The experiment itself, `python -m minialbert.pretrain.toy`, is too long for here: two optimizers, four seeds each.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minialbert.errors import CheckpointError, InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain import toy
from minialbert.pretrain.documents import read_documents
from minialbert.pretrain.toy import CONFIG, NAMES, SENTENCES, THINGS, TIMES, VOCABULARY, stories, write_world

SEEDS = st.integers(0, 2**32)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


# ---- the world ----


@given(SEEDS)
def test_a_story_has_one_name_and_times_without_a_gap_and_each_verb_has_its_thing(seed):
    for story in stories(20, seed):
        times, names, verbs, articles, things = zip(*(sentence.split() for sentence in story), strict=True)
        first = TIMES.index(times[0])
        assert times == tuple(TIMES[(first + i) % len(TIMES)] for i in range(SENTENCES))
        assert len(set(names)) == 1 and names[0] in NAMES
        assert things == tuple(THINGS[verb] for verb in verbs) and set(articles) == {"the"}


@given(SEEDS, st.integers(0, 30), st.integers(0, 30))
def test_a_longer_list_begins_with_the_shorter_one(seed, count, more):
    assert stories(count + more, seed)[:count] == stories(count, seed)


def test_every_word_is_used_about_as_often_as_its_kind_says():
    told = stories(4000)
    counts = Counter(word for story in told for sentence in story for word in sentence.split())
    assert set(counts) == set(VOCABULARY) - set(toy.SPECIAL)
    for words in (NAMES, THINGS, THINGS.values()):
        expected = len(told) * SENTENCES / len(words)
        assert all(0.8 < counts[word] / expected < 1.2 for word in words)
    starts = Counter(story[0].split()[0] for story in told)
    assert set(starts) == set(TIMES[: toy.STARTS])
    assert all(0.8 < n * len(starts) / len(told) < 1.2 for n in starts.values())


def test_there_are_43_words_each_one_piece_and_61_357_parameters(world):
    assert len(VOCABULARY) == len(set(VOCABULARY)) == len(world.tokenizer) == 43
    assert world.corpus.unknown == world.held_out.unknown == 0
    assert world.corpus.tokens == 5 * world.corpus.sentences == 5 * SENTENCES * world.corpus.documents
    assert CONFIG.count_parameters()["pretraining"] == 61_357
    assert sum(w.numel() for w in AlbertForPreTraining(CONFIG).parameters()) == 61_357


def test_no_story_held_out_is_in_the_text_to_learn_from(world):
    directory = world.corpus.directory.parent
    texts = [list(read_documents(directory / f"{name}.txt", "sentences")) for name in ("stories", "held-out")]
    known, unseen = ({tuple(story) for story in text} for text in texts)
    assert len(texts[0]) == world.corpus.documents == 4000 and len(texts[1]) == world.held_out.documents == 1000
    assert not known & unseen and texts[0] == stories(4000)


@given(seed=SEEDS)
def test_a_story_that_would_be_in_both_texts_is_left_out_of_the_held_out_ones(seed):
    known, unseen = toy.split(200, 50, seed)
    assert len(known) == 200 and len(unseen) == 50
    assert not set(map(tuple, known)) & set(map(tuple, unseen))


def test_a_world_written_twice_is_the_same_and_another_one_is_refused(tmp_path):
    first = write_world(tmp_path, training=30, held_out=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert write_world(tmp_path, training=30, held_out=10).corpus.digest() == first.corpus.digest()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with pytest.raises(CheckpointError, match="use a new directory"):
        write_world(tmp_path, training=31, held_out=10)


@pytest.mark.parametrize("count, seed", [(-1, 0), (1, -1)])
def test_numbers_below_zero_are_refused(count, seed):
    with pytest.raises(InputError, match="expected neither to be negative"):
        stories(count, seed)


@given(SEEDS, st.integers(2, 11), st.integers(1, 12))
def test_stories_can_be_shorter_and_begin_in_few_months(seed, sentences, starts):
    for story in stories(5, seed, sentences, starts):
        assert len(story) == sentences and TIMES.index(story[0].split()[0]) < starts


@pytest.mark.parametrize("optimizer, peak", [("adamw", 3e-3), ("lamb", 1e-2)])
def test_a_small_model_learns_both_losses_of_a_smaller_world(tmp_path, optimizer, peak):
    world = write_world(tmp_path, sentences=5, starts=8)
    config = replace(CONFIG, num_hidden_layers=2)
    run = toy.train(tmp_path, 0, optimizer, 500, config, world, peak=peak)
    print(optimizer, run.held_out, run.left)
    assert run.held_out["sop_accuracy"] > 0.9 and run.held_out["mlm_accuracy"] > 0.6
    assert run.left is not None and run.curve[0]["sop_loss"] > 0.6
