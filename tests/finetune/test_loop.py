"""The fine-tuning loop: one step is torch's AdamW, a killed run ends in the same bits, and what is frozen stays."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minialbert import AlbertForSequenceClassification
from minialbert.errors import CheckpointError, InputError
from minialbert.finetune.classify import ClassifyTask
from minialbert.finetune.data import Example
from minialbert.finetune.freeze import freeze, learn_only
from minialbert.finetune.loop import Diverged, Plan, Tuning, batches_of
from minialbert.finetune.lora import Lora, with_lora
from minialbert.finetune.predict import commonest
from minialbert.finetune.seeds import AllFailed, Seed, advice_on, finetune, outcome_of
from minialbert.heads import encoder_of
from minialbert.tokenizers import load_tokenizer
from minialbert.training import Stopped, read_log
from tests.conftest import GOLDEN, tiny_config

TOKENIZER = load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model")
WORDS = ["the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by", "that"]
TASK = ClassifyTask(["no", "yes"], 24)
SIZES = {"vocab_size": 500, "num_hidden_layers": 3, "max_position_embeddings": 32, "initializer_range": 0.1}
CONFIG = tiny_config(**SIZES, classifier_dropout_prob=0.0, **TASK.changes())
DROPS = replace(CONFIG, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
PLAN = Plan(epochs=3, batch=8, peak=3e-3, log_every=1)


def examples(count: int, seed: int = 0) -> list[Example]:
    """A text is "yes" when the word "the" stands before "of"."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for line in range(count):
        middle = [WORDS[int(i)] for i in torch.randint(2, len(WORDS), (4,), generator=generator)]
        first = bool(torch.randint(2, (), generator=generator))
        text = " ".join(["the", *middle, "of"] if first else ["of", *middle, "the"])
        found.append(Example(text, None, "yes" if first else "no", line + 1))
    return found


TRAIN, DEV = examples(40), examples(20, seed=1)


def new(config=CONFIG, seed: int = 0) -> AlbertForSequenceClassification:
    torch.manual_seed(seed)
    return AlbertForSequenceClassification(config)


def tuning(directory, model=None, plan=PLAN, train=TRAIN, dev=DEV, task=TASK, name="") -> Tuning:
    model = new() if model is None else model
    dev = (dev, task.features(TOKENIZER, dev))
    return Tuning(directory, model, TOKENIZER, task, plan, task.features(TOKENIZER, train), dev, name)


def numbers(model) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- one step ----


def test_a_step_is_the_loss_its_clipped_gradient_and_torch_adamw(tmp_path):
    plan = replace(PLAN, clip=0.1, peak=0.01, warmup=0.0)
    run = tuning(tmp_path, new().double(), plan)
    by_hand = new().double().train()
    batch = run.batch()
    decayed = [w for name, w in by_hand.named_parameters() if not name.endswith("bias") and "norm" not in name]
    rest = [w for name, w in by_hand.named_parameters() if name.endswith("bias") or "norm" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    loss = by_hand(**batch).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
    optimizer.step()
    run.model.train()
    row = run.update(batch)
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-12) and row["gradient_norm"] == pytest.approx(norm.item())
    for (name, a), b in zip(run.model.named_parameters(), by_hand.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-12, name


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_rows_that_go_through_a_few_at_a_time_give_the_same_step(tmp_path, weights):
    task, found = ClassifyTask(["no", "yes"], 24, weights), []
    for tokens in (4096, 30, 1):
        run = tuning(tmp_path / str(tokens), new().double(), replace(PLAN, micro_tokens=tokens), task=task)
        rows = [run.update(run.batch()) for _ in range(3)]
        found.append((rows, numbers(run.model)))
    for rows, weights_then in found[1:]:
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in found[0][0]], abs=1e-12)
        assert all((x - found[0][1][name]).abs().max() < 1e-12 for name, x in weights_then.items())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=400), st.integers(1, 40), st.integers(0, 9))
def test_batches_have_every_row_once_and_only_one_is_short(lengths, size, seed):
    batches = batches_of(lengths, size, [seed, 0])
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size) and sum(len(batch) < size for batch in batches) <= 1
    again = batches_of(lengths, size, [seed, 0])
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_rows_of_like_length_share_a_batch_and_each_epoch_has_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(5, 100, 2000)
    padded = {size: sum(len(b) * lengths[b].max() for b in batches_of(lengths, 32, [0, size])) for size in (0, 1)}
    assert (
        max(padded.values())
        < 1.1 * lengths.sum()
        < 0.65 * sum(32 * max(lengths[at : at + 32]) for at in range(0, 2000, 32))
    )
    first, second = (np.concatenate(batches_of(lengths, 32, [0, epoch])) for epoch in (0, 1))
    assert (first != second).mean() > 0.9


def test_the_rate_goes_up_and_down_to_nothing():
    rates = [Plan(peak=1.0, warmup=0.2).rate(step, 10) for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0])


# ---- broken off ----


@pytest.mark.parametrize("how", ["whole", "frozen", "lora", "bfloat16"])
def test_a_run_broken_off_anywhere_ends_in_the_same_bits(tmp_path, how):
    def model():
        made = new(DROPS)
        if how == "frozen":
            freeze(made, "embeddings", "ffn")
        if how == "lora":
            torch.manual_seed(7)
            return with_lora(made, Lora(DROPS, rank=2, per_visit=True))
        return made

    plan = replace(PLAN, visits=1 if how == "frozen" else 0, dtype="bfloat16" if how == "bfloat16" else "float32")
    whole = tuning(tmp_path / "whole", model(), plan)
    whole.train()
    wanted = numbers(whole.model)
    for number, stops in enumerate([(5,), (1, 5, 7, 14), (10, 12)]):
        for stop in (*stops, None):
            run = tuning(tmp_path / str(number), model(), replace(plan, save_every=2 if number == 1 else 500))
            run.train(stop)
        assert run.step == 15 and same(numbers(run.model), wanted) and run.history == whole.history
        assert read_log(tmp_path / str(number)) == read_log(tmp_path / "whole")


def test_a_run_that_is_asked_to_stop_ends_tidily_and_goes_on(tmp_path, monkeypatch):
    import signal

    whole = tuning(tmp_path / "whole")
    whole.train()
    run, update = tuning(tmp_path / "run"), Tuning.update

    def stopped_at_seven(self, batch):
        row = update(self, batch)
        if self.step == 7:
            signal.raise_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell runs in the background
        return row

    monkeypatch.setattr(Tuning, "update", stopped_at_seven)
    with pytest.raises(Stopped, match="step-00000007 is saved, and the same command goes on from there"):
        run.train()
    monkeypatch.setattr(Tuning, "update", update)
    again = tuning(tmp_path / "run")
    assert again.step == 7
    again.train()
    assert same(numbers(again.model), numbers(whole.model))


def test_inside_a_long_epoch_it_saves_too_and_the_best_epoch_stays(tmp_path):
    run = tuning(tmp_path, plan=replace(PLAN, save_every=2))
    assert run.train(1) is None and run.train(3) is None, "no epoch has ended, so none is the best"
    assert tuning(tmp_path).step == 2
    assert run.train(9).name == "step-00000005"
    assert tuning(tmp_path).step == 8 and len(tuning(tmp_path).history) == 1


@pytest.mark.parametrize("change, told", [
    ({"plan": replace(PLAN, epochs=4)}, "made with epochs 3, this run has 4; .* --model .*/model --output NEW"),
    ({"plan": replace(PLAN, peak=1e-3)}, "made with peak 0.003, this run has 0.001"),
    ({"name": "other"}, "made with data , this run has other"),
    ({"task": ClassifyTask(["no", "yes"], 20)}, "made with max_length 24, this run has 20"),
    ({"plan": replace(PLAN, micro_tokens=64)}, "made with micro_tokens 4096, this run has 64"),
    ({"model": lambda: freeze(made := new(), "embeddings") or made}, "other learns, this run without albert.embed"),
])  # fmt: skip
def test_a_directory_of_another_run_is_refused(tmp_path, change, told):
    tuning(tmp_path).train(5)
    if "model" in change:
        change = {"model": change["model"]()}
    with pytest.raises(CheckpointError, match=told):
        tuning(tmp_path, **change)


# ---- what learns ----


def test_what_is_frozen_is_bit_equal_afterwards_and_the_rest_is_not(tmp_path):
    for number, parts in enumerate([("embeddings",), ("block",), ("embeddings", "projection", "block", "pooler")]):
        model = new()
        freeze(model, *parts)
        before = numbers(model)
        run = tuning(tmp_path / str(number), model)
        run.train()
        for name, w in model.named_parameters():
            assert torch.equal(w, before[name]) != w.requires_grad, name
    model = new()
    for w in model.parameters():
        w.requires_grad_(False)
    with pytest.raises(InputError, match="nothing learns: every part is frozen"):
        tuning(tmp_path / "none", model)


def test_early_visits_without_gradient_leave_the_embeddings_alone(tmp_path):
    model = new()
    before = numbers(model)
    tuning(tmp_path, model, replace(PLAN, visits=2, weight_decay=0.0)).train()
    changed = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    assert not any("embeddings" in name for name in changed) and any("feed_forwards" in name for name in changed)


# ---- to the end ----


def test_the_best_epoch_is_kept_and_patience_ends_a_run(tmp_path, monkeypatch):
    goals = itertools.chain([0.5, 0.8, 0.7, 0.6, 0.9, 0.9], itertools.repeat(0.1))
    monkeypatch.setattr(ClassifyTask, "scores", lambda *_: {"accuracy": next(goals)})
    run = tuning(tmp_path / "a", plan=replace(PLAN, epochs=6))
    assert run.train().name == "step-00000025" and run.step == 30
    goals = itertools.chain([0.5, 0.8, 0.7, 0.6, 0.9, 0.9], itertools.repeat(0.1))
    monkeypatch.setattr(ClassifyTask, "scores", lambda *_: {"accuracy": next(goals)})
    run = tuning(tmp_path / "b", plan=replace(PLAN, epochs=6, patience=2))
    assert run.train().name == "step-00000010" and run.step == 20
    again = tuning(tmp_path / "b", plan=replace(PLAN, epochs=6, patience=2))
    assert again.done and again.train().name == "step-00000010"


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_are_touched(tmp_path):
    model = new()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    before = numbers(model)
    with pytest.raises(Diverged, match=r"step 0: the loss is nan.*try a lower peak"):
        tuning(tmp_path, model).train()
    assert all(torch.equal(x, before[name]) for name, x in numbers(model).items() if name != "classifier.bias")
    with pytest.raises(AllFailed, match=r"every seed diverged; try a lower --peak than 0\.003"):
        finetune(tmp_path / "all", lambda: model, TOKENIZER, TASK, PLAN, TRAIN, DEV, seeds=(0, 1))


def test_seeds_are_compared_and_the_best_is_kept_and_loads(tmp_path):
    lines = []
    plan, train = replace(PLAN, epochs=8, peak=1e-2, log_every=50), examples(120)
    make = lambda: AlbertForSequenceClassification(CONFIG)  # noqa: E731
    report = finetune(tmp_path, make, TOKENIZER, TASK, plan, train, DEV, seeds=range(3), tell=lines.append)
    goals = [seed["goal"] for seed in report["seeds"]]
    assert report["median"] == sorted(goals)[1] and (report["lowest"], report["highest"]) == (min(goals), max(goals))
    assert report["highest"] > 0.9 and report["scores"]["accuracy"] == report["highest"] > report["floor"]
    assert len(lines) == 3 * 9 and lines[0].startswith("seed 0, epoch 1 of 8: loss ")  # 8 epochs and the outcome
    assert lines[8].startswith("seed 0: accuracy ")
    model = AlbertForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert encoder_of(model).config.extra["minialbert_task"] == {"task": "classification", "max_length": 24}
    rows = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(rows) == 20
    again = finetune(tmp_path, make, TOKENIZER, TASK, plan, train, DEV, seeds=range(3), tell=lines.append)
    assert again == report and lines[27] == "seed 0: is finished"
    with pytest.raises(InputError, match=r"has seeds 0, 1, 2, this run leaves out 1, 2 \(--seeds, --seed\)"):
        finetune(tmp_path, make, TOKENIZER, TASK, plan, train, DEV, seeds=range(1))


def test_a_seed_that_says_the_same_of_everything_has_collapsed_and_another_may_be_no_better():
    history = [{"epoch": 1, "goal": 0.5, "commonest": 1.0}, {"epoch": 2, "goal": 0.5, "commonest": 0.7}]
    assert outcome_of(3, history, "", 0.5).failed == "collapsed" == outcome_of(3, history, "", 0.4, True).failed
    rare = [{"epoch": 1, "goal": 0.995, "commonest": 0.995}]  # half of the one per cent that is another label
    assert outcome_of(3, rare, "", 0.99, True).failed == "" and outcome_of(3, history, "", 0.4).failed == ""
    assert outcome_of(3, history[1:], "", 0.5).failed == "not above the floor"
    assert outcome_of(3, history[1:], "", 0.4).failed == ""
    assert outcome_of(3, history, "", 0.4).epoch == 1 and outcome_of(3, [], "diverged", 0.4).goal is None


@pytest.mark.parametrize("kinds, updates, told", [
    (("", "collapsed"), 1000, ""), (("collapsed", "collapsed"), 1000, "try a lower --peak than 0.003"),
    (("not above the floor",), 1000, "try a higher --peak than 0.003, or a lower one, or more --epochs than 3"),
    (("collapsed",), 199, "199 updates are few: try more --epochs than 3, or a higher --peak than 0.003"),
    (("collapsed", "diverged"), 15, "try a lower --peak than 0.003"),
])  # fmt: skip
def test_when_no_seed_has_learnt_anything_it_says_what_to_try(kinds, updates, told):
    assert advice_on([Seed(n, 0.5, 1, kind, []) for n, kind in enumerate(kinds)], PLAN, updates) == told


def test_the_commonest_answer_is_counted_in_predictions_of_every_task():
    told = [{"label": x, "probabilities": {}} for x in "aab"]
    assert commonest(told) == pytest.approx(2 / 3) and commonest([]) == 0.0
    assert commonest([{"score": 2.512}, {"score": 2.49}, {"score": -1.0}, {"score": 2.4}]) == 0.5
    assert commonest([{"labels": []}, {"labels": ["x"]}]) == 0.5
    assert commonest([{"words": ["a"], "tags": ["O"]}, {"words": ["b", "c"], "tags": ["O", "B-X"]}]) == 2 / 3
    assert commonest([{"answer": 1, "choice": "x"}, {"id": "q", "answer": ""}]) == 0.5


def test_adapters_are_merged_into_the_model_and_kept_beside_it(tmp_path):
    from minialbert.finetune.adapter import load_lora

    def make():
        base = new(seed=4)
        torch.manual_seed(torch.initial_seed())
        return with_lora(base, Lora(CONFIG, rank=2, per_visit=True))

    finetune(tmp_path, make, TOKENIZER, TASK, replace(PLAN, peak=1e-2), TRAIN, DEV)
    merged = AlbertForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert merged.config.num_hidden_groups == 3
    wrapped = load_lora(new(seed=4), tmp_path / "model" / "adapter").eval()
    batch = TASK.batch(TASK.features(TOKENIZER, DEV), 0)
    with torch.no_grad():
        assert (merged(**batch).logits - wrapped(**batch).logits).abs().max() < 1e-5


def test_learning_the_head_alone_is_a_linear_probe(tmp_path):
    model = new()
    learn_only(model, "head")
    before = numbers(model)
    tuning(tmp_path, model).train()
    assert [n for n, w in model.named_parameters() if not torch.equal(w, before[n])] == [
        "classifier.weight", "classifier.bias",
    ]  # fmt: skip


@pytest.mark.parametrize("changes, told", [
    ({"epochs": 0}, "--epochs 0 must be at least 1"), ({"peak": -1.0}, "--peak -1.0 must be 0 or more"),
    ({"micro_tokens": 0}, "--micro-tokens 0 must"), ({"visits": -1}, r"--no-gradient \(visits\) -1 must be 0 or more"),
    ({"warmup": 1.0}, "a share of all steps"), ({"dtype": "half"}, "must be one of float32, bfloat16"),
])  # fmt: skip
def test_plans_that_cannot_be_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        replace(PLAN, **changes)
