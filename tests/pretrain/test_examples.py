"""Examples and their report: Google's recorded statistics, our differences from them, and the same bytes for everyone.

The recorded ones are tests/golden/pretraining-data-google: Google's program on tests/golden/tokenizer/corpus.txt.
"""

import functools
import json
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from minialbert.errors import CheckpointError, InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain import examples as module
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.examples import Batches, Examples, Recipe, masker_for
from minialbert.pretrain.masking import unmask
from minialbert.pretrain.report import check, describe, epoch_of, statistics
from minialbert.tokenizers import load_tokenizer
from tests.conftest import GOLDEN, tiny_config

PACK = GOLDEN / "pretraining-data-google"
RECORDED = json.loads((PACK / "statistics.json").read_text())["results"]
TOKENIZER = load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model", flavor="google")
GOOGLE = Recipe(max_length=64, google_compat=True)
STRICT = Recipe(max_length=64, max_predictions=20)
SETTINGS = {  # name in the recorded statistics: our recipe
    "main": GOOGLE,
    "favor_shorter_ngram_false": Recipe(max_length=64, google_compat=True, favor_longer=True),
    "no_whole_word_mask": Recipe(max_length=64, google_compat=True, whole_words=False),
    "unigram_only": Recipe(max_length=64, google_compat=True, ngram=1),
    "random_next_sentence_true": Recipe(max_length=64, google_compat=True, order="nsp"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    text = GOLDEN / "tokenizer" / "corpus.txt"
    return prepare_corpus([text], TOKENIZER, tmp_path_factory.mktemp("corpus") / "c", layout="sentences")


class Figure(NamedTuple):
    mean: float
    deviation: float  # over seeds
    seeds: int

    def equals(self, other: "Figure") -> bool:
        """Within 4.5 standard errors of the difference of two means (four seeds do not say much of a deviation)."""
        deviation = max(self.deviation, other.deviation)
        room = 4.5 * deviation * (1 / self.seeds + 1 / other.seeds) ** 0.5 + 1e-3 * abs(other.mean)
        return abs(self.mean - other.mean) <= room


def over_seeds(corpus, recipe, seeds: int) -> dict[str, Figure]:
    """Each figure over seeds, ten epochs each, as Google's program made ten copies."""
    rows = [dict(flat(statistics(Examples(corpus, TOKENIZER, recipe, seed), range(10)))) for seed in range(seeds)]
    columns = {key: np.array([row.get(key, 0.0) for row in rows]) for key in rows[0]}
    return {key: Figure(float(x.mean()), float(x.std(ddof=1)), seeds) for key, x in columns.items()}


def flat(tree: dict, above: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def theirs(recorded: dict) -> dict[str, Figure]:
    """The recorded figures under our names."""
    over, count, found = recorded["over_seeds"], len(recorded["seeds"]), {}
    other = {
        "full_length_share": over["sequence_length_share"]["equal_64"],
        "token_boundary_share": over["token_boundary_share"]["1"],
        "sentences_per_example": over["sentences_per_chunk"],
    }
    for key, value in flat(over | other):
        name, _, last = key.rpartition(".")
        if last == "mean":
            row = functools.reduce(dict.__getitem__, name.split("."), over | other)
            name = name.removesuffix(".mean").replace("in_order", "in order")
            found[name] = Figure(value, row["sd_over_seeds"], count)
    for why in ("covered", "too_long"):
        row, draws = over[f"rejected_as_{why}"], over["draws"]["mean"]
        found[f"rejected_as_{why}_share"] = Figure(row["mean"] / draws, row["sd_over_seeds"] / draws, count)
    return found


COMPARED = (
    "instances", "sequence_length_tokens", "full_length_share", "segment_a_tokens", "segment_b_tokens",
    "sentences_per_example", "pairs_truncated_share", "case_share.in order", "case_share.random", "case_share.swapped",
    "label_1_share", "swapped_share_given_two_or_more_sentences", "masked_share_of_all_tokens",
    "predictions_per_instance", "corruption_share.mask", "corruption_share.same_as_label",
    "corruption_share.other_piece", "random_pieces_that_are_special_share", "ngram_drawn_share.1",
    "ngram_drawn_share.2", "ngram_drawn_share.3", "ngram_accepted_share_words.1", "ngram_accepted_share_words.2",
    "ngram_accepted_share_words.3", "pieces_per_accepted_ngram", "rejected_as_covered_share",
    "rejected_as_too_long_share", "accepted_ngrams_spanning_the_middle_sep_share", "token_boundary_share",
    "instances_whose_first_piece_is_a_continuation_share",
)  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_google_compat_has_googles_statistics(corpus, name):
    recorded = theirs(RECORDED[name])
    ours = over_seeds(corpus, SETTINGS[name], seeds=8 if name == "main" else 4)
    compared = [key for key in COMPARED if key in recorded and key in ours]
    assert len(compared) >= 25
    if name == "random_next_sentence_true":
        compared.remove("sentences_per_example")  # theirs counts the sentences that went back, too
    wrong = {key: (ours[key], recorded[key]) for key in compared if not ours[key].equals(recorded[key])}
    assert not wrong


def test_strict_differs_where_it_says_and_nowhere_else(corpus):
    """Every pair from one document, a label that is a fair coin, no special piece put in, no run over [SEP]."""
    ours, recorded = over_seeds(corpus, STRICT, seeds=6), theirs(RECORDED["main"])
    assert "case_share.random" not in ours
    assert ours["case_share.single"].mean == ours["no_label_share"].mean == pytest.approx(1 / 112, rel=0.05)
    assert ours["label_1_share"].mean == pytest.approx(0.5, abs=0.03) and recorded["label_1_share"].mean > 0.55
    special = "random_pieces_that_are_special_share"
    assert ours[special].mean == 0 < recorded[special].mean
    assert ours["accepted_ngrams_spanning_the_middle_sep_share"].mean == 0
    for key in (
        "masked_share_of_all_tokens", "corruption_share.mask", "corruption_share.same_as_label",
        "corruption_share.other_piece", "ngram_drawn_share.1", "ngram_drawn_share.2", "ngram_drawn_share.3",
        "swapped_share_given_two_or_more_sentences",
    ):  # fmt: skip
        assert ours[key].equals(recorded[key]), (key, ours[key], recorded[key])


def test_recorded_examples_follow_the_rules_of_our_masker():
    masker = masker_for(TOKENIZER, GOOGLE)
    for line in (PACK / "examples.jsonl").read_text().splitlines():
        row = json.loads(line)
        count = int(sum(row["masked_lm_weights"]))
        positions, labels = (np.array(row[key][:count]) for key in ("masked_lm_positions", "masked_lm_ids"))
        ids = unmask(np.array(row["input_ids"]), positions, labels)
        ids = ids[: len(row["tokens"])]
        assert count == min(20, max(1, round(0.15 * len(ids)))) and masker.maskable[labels].all()
        boundary = masker.starts[ids] | ~masker.maskable[ids]
        assert boundary.tolist() == [bool(b) for b in row["token_boundary"][: len(ids)]]


# ---- what examples are ----


@pytest.mark.parametrize("recipe", [STRICT, GOOGLE, Recipe(32, "nsp"), Recipe(32, "none"), Recipe(16, per_span=True)])
def test_unmasked_examples_are_the_text_of_the_corpus(corpus, recipe):
    examples, seen = Examples(corpus, TOKENIZER, recipe, seed=3), set()
    for example in epoch_of(examples, 0):
        masked, turn = example.masked, example.turn
        ids = unmask(masked.ids, masked.positions, masked.labels).tolist()
        planned = example.planned
        assert ids[0] == TOKENIZER.cls_id and ids[turn - 1] == ids[-1] == TOKENIZER.sep_id
        assert len(ids) <= recipe.max_length and 0 < len(masked.positions) <= recipe.slots
        segments = [ids[1 : turn - 1], ids[turn:-1]] if len(ids) > turn else [ids[1:-1]]
        for segment, (start, stop) in zip(segments, (planned.a, planned.b), strict=False):
            whole = corpus.ids(start, stop).tolist()
            assert any(whole[i : i + len(segment)] == segment for i in range(len(whole)))
        seen.update(range(*planned.a))
        seen.update(range(*planned.b))
        if example.kind in ("in order", "swapped"):
            earlier, later = (planned.b, planned.a) if example.label == 1 else (planned.a, planned.b)
            assert earlier[1] == later[0], "the label tells which segment is first in the text"
    assert seen == set(range(corpus.sentences)), "no sentence is left out"


def test_batches_are_what_the_model_takes(corpus):
    examples = Examples(corpus, TOKENIZER, STRICT)
    batch = next(iter(Batches(examples, 8)))
    shapes = {name: tuple(x.shape) for name, x in batch.inputs.items()}
    assert shapes == {
        "input_ids": (8, 64), "attention_mask": (8, 64), "token_type_ids": (8, 64), "masked_positions": (8, 20),
        "labels": (8, 20), "sentence_order_label": (8,),
    }  # fmt: skip
    assert batch.position == (0, 8) and {x.dtype for x in batch.inputs.values()} == {torch.int64}
    for i, (epoch, number, row) in enumerate(islice(examples.stream(), 8)):
        example = examples.example(epoch, number, row)
        size, count = len(example.masked.ids), len(example.masked.positions)
        x = {name: tensor[i] for name, tensor in batch.inputs.items()}
        assert x["input_ids"].tolist() == [*example.masked.ids, *[TOKENIZER.pad_id] * (64 - size)]
        assert x["attention_mask"].tolist() == [1] * size + [0] * (64 - size)
        assert x["token_type_ids"].tolist() == [0] * example.turn + [1] * (size - example.turn) + [0] * (64 - size)
        assert x["labels"].tolist() == [*example.masked.labels, *[-100] * (20 - count)]
        assert x["masked_positions"].tolist() == [*example.masked.positions, *[0] * (20 - count)]
    torch.manual_seed(0)
    model = AlbertForPreTraining(tiny_config(vocab_size=500, max_position_embeddings=64))
    out = model(**batch.inputs)
    out.loss.backward()
    assert out.mlm_loss.item() == pytest.approx(np.log(500), abs=0.1) and out.prediction_logits.shape == (8, 20, 500)
    assert out.sop_loss.item() == pytest.approx(np.log(2), abs=0.1)


# ---- the same bytes for everyone ----


def bytes_of(batches, count):
    return [(b.position, *(x.numpy().tobytes() for x in b.inputs.values())) for b in islice(batches, count)]


@pytest.fixture
def small_pools(monkeypatch):
    """Several blocks and pools in our small corpus."""
    monkeypatch.setattr(module, "BLOCK_TOKENS", 500)
    monkeypatch.setattr(module, "POOL_BLOCKS", 3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_bytes_for_any_number_of_worker_processes(corpus, small_pools, workers):
    batches = Batches(Examples(corpus, TOKENIZER, STRICT, seed=5), 16)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    assert bytes_of(loader, 20) == bytes_of(batches, 20), "20 batches of 16 reach into the third epoch"


def test_the_same_bytes_for_any_number_of_ranks_and_any_batch_size(corpus, small_pools):
    examples = Examples(corpus, TOKENIZER, STRICT, seed=5)
    whole = [batch.inputs for batch in islice(Batches(examples, 16), 10)]
    for world in (2, 4):
        parts = [islice(Batches(examples, 16, rank=rank, world=world), 10) for rank in range(world)]
        for want, *shares in zip(whole, *parts, strict=True):
            assert all(torch.equal(x, torch.cat([s.inputs[name] for s in shares])) for name, x in want.items())
    ids = torch.cat([inputs["input_ids"] for inputs in whole])
    assert torch.equal(ids, torch.cat([b.inputs["input_ids"] for b in islice(Batches(examples, 5), 32)]))


def test_a_run_goes_on_from_any_position(corpus, small_pools):
    examples = Examples(corpus, TOKENIZER, STRICT, seed=5)
    whole = bytes_of(Batches(examples, 16), 20)
    for done in (1, 6, 7, 8, 15):
        position = whole[done - 1][0]
        assert bytes_of(Batches(examples, 16, position), 20 - done) == whole[done:]
    with pytest.raises(InputError, match="no example 1000 in epoch 0"):
        next(iter(Batches(examples, 16, (0, 1000))))


def test_each_epoch_has_other_masks_in_another_order_and_each_seed_too(corpus, small_pools):
    def first(seed, epoch):
        examples = Examples(corpus, TOKENIZER, Recipe(64, short=0), seed)
        return [example.masked.ids.tobytes() for example in epoch_of(examples, epoch)]

    found = [first(0, 0), first(0, 1), first(1, 0), first(1, 1)]
    assert first(0, 0) == found[0]
    for i in range(4):
        assert not any(set(found[i]) & set(other) for other in found[:i])


def test_the_masks_of_an_example_depend_on_seed_epoch_and_number(corpus):
    row = next(iter(Examples(corpus, TOKENIZER, Recipe(64, short=0)).pools(0)))[0]
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    made = [Examples(corpus, TOKENIZER, STRICT, seed).example(epoch, number, row) for seed, epoch, number in places]
    assert len({example.masked.ids.tobytes() for example in made}) == 4


def test_an_epoch_is_shuffled(corpus):
    numbers = [example.planned.a[0] for example in epoch_of(Examples(corpus, TOKENIZER, STRICT), 0)]
    assert abs(np.corrcoef(numbers, range(len(numbers)))[0, 1]) < 0.3


# ---- refusals, and what a person reads ----


def test_what_cannot_be_is_refused_by_name(corpus):
    for wrong in ({"order": "sentence"}, {"max_length": 7}, {"short": 1.1}, {"probability": -1}, {"ngram": 0},
                  {"max_predictions": 0}):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(wrong))):
            Recipe(**wrong)
    with pytest.raises(InputError, match="seed=-1"):
        Examples(corpus, TOKENIZER, seed=-1)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        Examples(corpus, load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model"))
    with pytest.raises(InputError, match="batch_size=10 must be a multiple of world=4"):
        Batches(Examples(corpus, TOKENIZER, STRICT), 10, world=4)


def test_slots_hold_fifteen_percent_unless_google_compat():
    assert [Recipe(n).slots for n in (64, 128, 512)] == [10, 19, 77]
    assert Recipe(512, google_compat=True).slots == 20, "4 % of 512, as the recommended flags have it"


def test_check_shows_the_text_the_guesses_and_the_label(corpus):
    examples = Examples(corpus, TOKENIZER, STRICT, seed=1)
    text = check(examples, 12)
    for number, example in enumerate(epoch_of(examples, 0, 12)):
        part = text.split("\n\n")[number]
        word = {"in order": "IN ORDER", "swapped": "SWAPPED", "single": "no order label"}[example.kind]
        assert part.startswith(f"example {number}: ") and word in part.split("\n")[0]
        assert part.count("  <-  ") == len(example.masked.positions)
        whole = unmask(example.masked.ids, example.masked.positions, example.masked.labels)
        assert f"  A     {TOKENIZER.decode(whole[1 : example.turn - 1])}\n" in part
    assert "B is from another document" in check(Examples(corpus, TOKENIZER, GOOGLE), 60)


def test_describe_prints_rate_runs_and_labels(corpus):
    text = describe(statistics(Examples(corpus, TOKENIZER, STRICT), limit=50))
    assert text.startswith("50 examples, ") and "masked 15." in text and "words in a run 1: " in text
    assert "label 1 for" in text and "swapped: " in text
