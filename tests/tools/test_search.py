"""Search: against brute force, from texts and from shards, with ties, blank lines, and a pair model on top."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.embed import Embedder
from minialbert.embed.shards import ShardWriter
from minialbert.errors import InputError, NameUnknown
from minialbert.finetune.classify import ClassifyTask, MultilabelTask, RegressTask
from minialbert.finetune.data import Example
from minialbert.finetune.predict import predictions_of
from minialbert.finetune.tag import TagTask
from minialbert.finetune.tasks import started
from minialbert.tools import search as module
from minialbert.tools.search import (
    Hit,
    Part,
    closest,
    embedder_like,
    judge_of,
    opened_shards,
    options_of,
    parts_of_shards,
    parts_of_texts,
    rerank,
    search,
)

PEOPLE, PLACES = ("king", "queen", "knight", "child", "farmer", "horse"), ("castle", "river", "town", "field")
TEXTS = [f"The {who} walked to the {where}." for who in PEOPLE for where in PLACES] + ["", "Snow fell.", "  ", "Night."]
QUERIES = ["Where did the king go?", "It was cold and white."]


@pytest.fixture(scope="module")
def embed():
    return Embedder(*minialbert.load())


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 5)


def written(directory, embed, texts, layer=None, pooling="mean", part_size=7, **more):
    record = embed.provenance(layer, pooling, long="cut", max_length=embed.limit(None), **more)
    with ShardWriter(directory, record, embed.row_shape(layer)[-1], part_size) as out:
        out.write(embed(texts, layer, pooling), texts)
    return directory


def numbers(found):
    return [[hit.number for hit in hits] for hits in found]


# ---- the nearest ----


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 70), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_in_whatever_parts_the_corpus_comes_the_nearest_are_those_of_brute_force(seed, N, top, size):
    draw = np.random.default_rng(seed)
    corpus, queries = draw.standard_normal((N, 6), np.float32), draw.standard_normal((3, 6), np.float32)
    parts = [Part(start + 1, None, corpus[start : start + size]) for start in range(0, N, size)]
    x, y = (np.float64(z) / np.linalg.norm(np.float64(z), axis=1, keepdims=True) for z in (queries, corpus))
    for hits, row in zip(closest(queries, parts, top), x @ y.T, strict=True):
        assert len(hits) == min(top, N)
        assert [hit.cosine for hit in hits] == pytest.approx(np.sort(row)[::-1][:top].tolist(), abs=1e-5)
        assert [hit.cosine for hit in hits] == pytest.approx([row[hit.number - 1] for hit in hits], abs=1e-5)
        assert len({hit.number for hit in hits}) == len(hits)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_of_equals_the_first_in_the_corpus_comes_first_across_parts(size):
    corpus = np.array([[1, 1], [2, 0], [3, 3], [1, 1 + 1e-7], [1, 0], [-1, 0], [0, 0]], np.float32)
    parts = [Part(start + 1, None, corpus[start : start + size]) for start in range(0, 7, size)]
    (found,) = closest(np.array([[1, 1]], np.float32), parts, 7)
    assert [hit.number for hit in found] == [1, 3, 4, 2, 5, 7, 6] and found[5].cosine == 0
    ((best,),) = closest(np.array([[1, 1]], np.float32), [Part(1, None, np.array([[1, 1.001], [1, 1]], np.float32))], 1)
    assert best.number == 1 and best.cosine < 1  # equal to five decimals


@pytest.mark.parametrize("options", [{}, {"layer": 3, "pooling": "cls"}, {"max_length": 8}])
def test_texts_are_found_as_embedder_has_them(options, embed):
    with pytest.warns(UserWarning, match="cut to 8 tokens") if options.get("max_length") else nullcontext():
        found = search(embed, QUERIES, parts_of_texts(embed, TEXTS, size=5, **options), top=6, **options)
        x, y = (embed(texts, normalize=True, **options) for texts in (QUERIES, TEXTS))
    for hits, row in zip(found, x @ y.T, strict=True):
        row[[24, 26]] = -2  # blank texts are not found
        assert [hit.number - 1 for hit in hits] == np.argsort(-row.round(5), kind="stable")[:6].tolist()
        assert [hit.text for hit in hits] == [TEXTS[hit.number - 1] for hit in hits]
        assert [hit.cosine for hit in hits] == pytest.approx([row[hit.number - 1] for hit in hits], abs=1e-5)


def test_a_text_finds_itself_first_and_its_copies_in_order(embed):
    corpus = [TEXTS[5], *TEXTS, TEXTS[5]]
    (found,) = search(embed, [TEXTS[5]], parts_of_texts(embed, corpus, size=9), top=4)
    assert [hit.number for hit in found[:3]] == [1, 7, 30] and found[2].cosine == pytest.approx(1, abs=1e-5)
    assert found[3].cosine < 0.999


def test_all_texts_that_are_not_blank_are_found_and_never_more(embed):
    (found,) = search(embed, ["king"], parts_of_texts(embed, TEXTS), top=1000)
    assert sorted(hit.number for hit in found) == [*range(1, 25), 26, 28]


def test_the_corpus_is_read_a_part_at_a_time(embed):
    read = []
    parts = parts_of_texts(embed, (read.append(i) or f"text {i}" for i in range(10**9)), size=4)
    assert [next(parts).first for _ in range(3)] == [1, 5, 9] and len(read) == 12


# ---- shards ----


@pytest.mark.parametrize("layer, pooling", [(None, "mean"), ("mean(2,3)", "max"), ("cat(1,6)", "cls")])
def test_shards_give_what_the_file_gives(layer, pooling, embed, tmp_path, small_parts):
    reader = opened_shards(written(tmp_path / "v", embed, TEXTS, layer, pooling))
    like = embedder_like(reader, *minialbert.load())
    options = {"layer": layer, "pooling": pooling}
    want = search(embed, QUERIES, parts_of_texts(embed, TEXTS, **options), **options)
    found = search(like, QUERIES, parts_of_shards(reader, TEXTS), **options_of(reader))
    assert numbers(found) == numbers(want)
    for hits, others in zip(found, want, strict=True):
        assert [hit.text for hit in hits] == [hit.text for hit in others]
        assert [hit.cosine for hit in hits] == pytest.approx([hit.cosine for hit in others], abs=1e-5)
    bare = search(like, QUERIES, parts_of_shards(reader), top=3, **options_of(reader))
    assert all(hit.text is None for hits in bare for hit in hits)


def test_shards_in_bfloat16_are_searched_in_bfloat16(tmp_path):
    half = Embedder(*minialbert.load(), dtype=torch.bfloat16)
    reader = opened_shards(written(tmp_path / "v", half, TEXTS))
    like = embedder_like(reader, *minialbert.load())
    assert like.model.dtype == torch.bfloat16
    (found,) = search(like, [TEXTS[3]], parts_of_shards(reader), **options_of(reader))
    assert found[0].number == 4


def test_shards_of_another_model_or_tokenizer_are_refused(embed, tmp_path, minilm):
    reader = opened_shards(written(tmp_path / "v", embed, TEXTS))
    with pytest.raises(InputError, match="another model"):
        embedder_like(reader, *minialbert.load(minilm))
    model, _ = minialbert.load()
    model.embeddings.word.weight.data[5, 5] += 1e-3
    with pytest.raises(InputError, match=r"another model \(digest .{12}, this one .{12}\); name theirs with --model"):
        embedder_like(reader, model, embed.tokenizer)
    reader.provenance["tokenizer"] = "0" * 64
    with pytest.raises(InputError, match="another tokenizer"):
        embedder_like(reader, *minialbert.load())


@pytest.mark.parametrize("texts, words", [
    ([*TEXTS[:-1], "Day."], "part-00003.*other texts than numbers 22 to 28"),
    (TEXTS[:-1], "part-00003.*other texts"), ([*TEXTS, "more"], "of 28 texts, this input has more"),
    ([], "part-00000.*other texts than numbers 1 to 7"),
])  # fmt: skip
def test_texts_that_the_shards_are_not_of_are_refused(texts, words, embed, tmp_path, small_parts):
    reader = opened_shards(written(tmp_path / "v", embed, TEXTS))
    with pytest.raises(InputError, match=words):
        list(parts_of_shards(reader, texts))


def test_shards_that_no_query_can_be_compared_with_are_refused(embed, tmp_path):
    with pytest.raises(InputError, match="changed by center, standardize"):
        opened_shards(written(tmp_path / "post", embed, TEXTS, post=["center", "standardize"]))
    record = embed.provenance("all", "mean")
    with ShardWriter(tmp_path / "all", record, 256) as out:
        out.write(embed(TEXTS, "all"), TEXTS)
    with ShardWriter(tmp_path / "tokens", record, 256, ragged=True) as out:
        (block,) = embed.stream(TEXTS, pooling="tokens")
        out.write(block.vectors, TEXTS, block.items)
    for name in ("all", "tokens"):
        with pytest.raises(InputError, match="several vectors a text"):
            opened_shards(tmp_path / name)


# ---- a pair model on top ----


@pytest.mark.parametrize("task", [ClassifyTask(["no", "yes"]), MultilabelTask(["no", "yes"]), RegressTask()])
def test_a_pair_model_orders_by_what_it_says_of_the_query_and_each_text(task, embed):
    torch.manual_seed(0)
    model = started(task, None, {"num_hidden_layers": 1}, [Example("a", "b", 1.0, 1)])
    (hits,) = search(embed, QUERIES[:1], parts_of_texts(embed, TEXTS), top=9)
    label = "yes" if task.labels else None
    found = rerank(model, embed.tokenizer, task, QUERIES[0], hits, label)
    assert sorted(hit.number for hit in found) == sorted(hit.number for hit in hits)
    judged = [hit.judged for hit in found]
    assert judged == sorted(judged, reverse=True) and judged[0] > judged[-1]
    for hit in found:
        (said,) = predictions_of(model, embed.tokenizer, task, [Example(QUERIES[0], hit.text, None, 1)])
        assert hit.judged == pytest.approx(said["probabilities"]["yes"] if label else said["score"], abs=1e-5)
        assert hit._replace(judged=None) in hits
    assert rerank(model, embed.tokenizer, task, QUERIES[0], [], label) == []


def test_of_equally_probable_texts_the_nearer_comes_first(embed):
    task = RegressTask()
    model = started(task, None, {"num_hidden_layers": 1}, [Example("a", "b", 1.0, 1)])
    torch.nn.init.zeros_(model.classifier.weight)
    (hits,) = search(embed, QUERIES[:1], parts_of_texts(embed, TEXTS), top=9)
    assert numbers([rerank(model, embed.tokenizer, task, "a", hits)]) == numbers([hits])


@pytest.mark.parametrize("task, label, kind, words", [
    (ClassifyTask(["no", "yes"]), None, InputError, "no, yes"),
    (ClassifyTask(["no", "yes"]), "yess", NameUnknown, "Nearest: yes"),
    (RegressTask(), "yes", InputError, "has no labels"),
    (ClassifyTask(["no", "yes"], paired=False), "yes", InputError, "tuned on single texts cannot judge pairs"),
    (RegressTask(paired=False), None, InputError, "tuned on single texts cannot judge pairs"),
    (TagTask(["O", "B-X"]), None, InputError, "task tag cannot judge pairs; expected one of classification"),
])  # fmt: skip
def test_what_cannot_order_says_so(task, label, kind, words):
    with pytest.raises(kind, match=words):
        judge_of(task, label)


def test_a_model_of_pairs_and_one_that_does_not_say_can_order():
    for paired in (True, None):
        assert judge_of(ClassifyTask(["no", "yes"], paired=paired), "yes")({"probabilities": {"yes": 0.25}}) == 0.25


def test_what_cannot_be_searched_is_one_line(embed):
    with pytest.raises(InputError, match="query ' ' is blank"):
        search(embed, ["a", " "], [])
    with pytest.raises(InputError, match="top=0"):
        search(embed, ["a"], [], top=0)
    with pytest.raises(InputError, match="give those they were made from"):
        rerank(None, embed.tokenizer, RegressTask(), "a", [Hit(1, 0.5)])
