"""The doctor: a healthy run is told healthy, each sickness made on purpose is found, and nothing in the run is touched.

One small run is trained here, in seconds: sentences that say one word five times, so a word is
learnt from its neighbour. Sick runs are copies of it with one thing changed.
"""

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.checkpoints import MODEL, checkpoints
from minialbert.cli import main
from minialbert.errors import CheckpointError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain import doctor, sop, symptoms, vitals
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.doctor import examine
from minialbert.pretrain.examples import Examples, Recipe
from minialbert.pretrain.fitness import LOOK, OK, UNKNOWN, WRONG, document_of, peak, true_label, warm_up
from minialbert.pretrain.loop import Run
from minialbert.pretrain.plan import Plan, Stage
from minialbert.pretrain.start import head_start
from minialbert.tokenizers import load_tokenizer
from minialbert.training import LOG, read_log
from tests.conftest import GOLDEN, tiny_config

TOKENIZER = load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model")
CONFIG = tiny_config(
    vocab_size=500, embedding_size=24, hidden_size=48, num_hidden_layers=2, intermediate_size=96,
    max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
PLAN = Plan(
    (Stage(24, 200, 16),), Recipe(ngram=1), peak=0.03, warmup=10, micro_tokens=512, log_every=1, save_every=100,
    held_out=32,
)  # fmt: skip
WORDS = ["light", "table", "water", "glass", "tree", "stone", "clock", "book"]


def write_stories(path: Path, documents: int, seed: int) -> Path:
    """Each sentence says one word five times, and the words come in a fixed order."""
    rng = random.Random(seed)
    starts = [rng.randrange(3) for _ in range(documents)]
    path.write_text("\n\n".join("\n".join(f"{word} " * 5 for word in WORDS[s : s + 6]) for s in starts) + "\n")
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """A run before its first step."""
    top = tmp_path_factory.mktemp("doctor")
    for name, seed in (("corpus", 0), ("held-out", 1)):
        text = write_stories(top / f"{name}.txt", 120 - 80 * seed, seed)
        prepare_corpus([text], TOKENIZER, top / "run" / name, layout="sentences")
    saved(top / "run", CONFIG, PLAN)
    return top / "run"


@pytest.fixture(scope="module")
def trained(new, tmp_path_factory) -> Path:
    """A run with a head start, at its end; the checkpoint of step 0 is still there."""
    directory = only_text(new, tmp_path_factory.mktemp("trained") / "run")
    run = run_of(directory, started(directory), PLAN)
    run.save()
    run.train()
    return directory


def started(directory: Path) -> AlbertForPreTraining:
    torch.manual_seed(0)
    model = AlbertForPreTraining(CONFIG)
    head_start(model, Corpus(directory / "corpus"))
    return model


def run_of(directory: Path, start, plan: Plan) -> Run:
    return Run(directory, start, Corpus(directory / "corpus"), TOKENIZER, plan, Corpus(directory / "held-out"))


def saved(directory: Path, start, plan: Plan) -> Path:
    run_of(directory, start, plan).save()
    return directory


def only_text(run: Path, target: Path) -> Path:
    """A new run on the same text, still without a checkpoint."""
    for name in ("corpus", "held-out"):
        shutil.copytree(run / name, target / name)
    return target


def with_log(run: Path, target: Path, change) -> Path:
    """A copy whose log has been changed: change(row, number of the row, rows in all)."""
    shutil.copytree(run, target)
    rows = read_log(run)
    changed = [change(dict(row), i, len(rows)) for i, row in enumerate(rows)]
    (target / LOG).write_text("".join(json.dumps(row) + "\n" for row in changed))
    return target


def named(report, name: str):
    return next(finding for finding in report.findings if finding.name == name)


def verdicts(report) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in report.findings}


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# ---- health ----


def test_a_new_run_is_healthy_and_what_cannot_be_known_yet_is_not_measured(new):
    before, random_state = contents(new), torch.get_rng_state()
    report = examine(new)
    print("\n".join(report.lines()))
    told = verdicts(report)
    assert contents(new) == before and torch.equal(torch.get_rng_state(), random_state)
    assert report.healthy and set(told.values()) == {OK, UNKNOWN}
    later = {"loss, words", "loss, order", "fall back", "gradient", "trust ratios", "held-out gap", "speed"}
    assert {name for name, verdict in told.items() if verdict == UNKNOWN} == later
    assert all(finding.measured for finding in report.findings)
    assert all(finding.expected for finding in report.findings if finding.verdict == OK), "every expectation is stated"
    assert f"ln V = {math.log(500):.3f}" in named(report, "first loss, words").expected
    summary = report.summary
    assert (summary["step"], summary["steps"], summary["corpus_tokens"]) == (0, 200, Corpus(new / "corpus").tokens)
    assert summary["epochs_planned"] == pytest.approx(200 * 16 / summary["examples_an_epoch"], rel=0.01)


def test_a_trained_run_is_healthy_and_everything_is_known(trained):
    before = contents(trained)
    report = examine(trained)
    print("\n".join(report.lines()))
    told = verdicts(report)
    assert contents(trained) == before
    assert report.healthy and UNKNOWN not in told.values()
    unusual = {name for name, verdict in told.items() if verdict != OK}
    assert unusual <= {"peak of the rate", "loss, order", "gradient"}, "a high rate, and a short run that waits at ln 2"
    assert "still falling" in named(report, "loss, words").measured
    assert "head start" in named(report, "initial weights").measured, "step 0 is still there, and looked at"


def test_the_ratios_of_lamb_are_told_by_name_and_odd_ones_found(new, trained, tmp_path):
    found = named(examine(trained, heart=False), "trust ratios")
    assert found.verdict == OK and ".weight)" in found.measured
    plan = replace(PLAN, optimizer="adamw", peak=4e-4, stages=(Stage(24, 4, 8),), warmup=1)
    run_of(only_text(new, tmp_path / "run"), CONFIG, plan).train()
    assert named(examine(tmp_path / "run", heart=False), "trust ratios").measured == "adamw has none"
    ratios = {f"w{i}": 0.01 for i in range(9)}
    for odd in ({"dead": 1.0}, {"slow": 1e-4}, {"wild": 0.31}):
        sick = symptoms.trust(ratios | odd, PLAN)
        assert sick.verdict == LOOK and next(iter(odd)) in sick.measured
    assert symptoms.trust(ratios | {"fine": 0.29}, PLAN).verdict == OK


# ---- sick data, and the true label ----


def test_order_labels_that_disagree_with_the_text_are_counted(new, monkeypatch):
    monkeypatch.setattr(sop, "swapped", lambda pair: sop.Pair(pair.second, pair.first, pair.label, "swapped"))
    monkeypatch.setattr(doctor.vitals, "first_losses", lambda *_: [])
    report = examine(new, heart=False)
    found = named(report, "order labels")
    assert found.verdict == WRONG and not report.healthy
    wrong, _, all_of_them = found.measured.split()[:3]
    assert 0.3 < int(wrong) / int(all_of_them) < 0.7, "those that were swapped, about half"


def test_labels_turned_round_on_the_way_to_the_model_are_found_too(new, monkeypatch):
    collate = Examples.collate

    def turned(self, examples):
        inputs = collate(self, examples)
        return inputs | {"sentence_order_label": 1 - inputs["sentence_order_label"]}

    monkeypatch.setattr(Examples, "collate", turned)
    found = named(examine(new, heart=False), "order labels")
    wrong, _, all_of_them = found.measured.split()[:3]
    assert found.verdict == WRONG and wrong == all_of_them


def test_segments_from_another_place_than_the_plan_says_are_found(new, monkeypatch):
    ids = Corpus.ids
    monkeypatch.setattr("minialbert.pretrain.examples.Corpus.ids", lambda self, a, b: ids(self, a, b)[::-1])
    corpus = Corpus(new / "corpus")
    examples = Examples(corpus, TOKENIZER, Recipe(max_length=24), 0)
    drawn = [examples.example(*row) for row in (row for row, _ in zip(examples.stream(), range(20), strict=False))]
    monkeypatch.undo()
    found = doctor.fitness.order_labels(examples, drawn)
    assert (
        found.verdict == WRONG
        and "labels disagree with the text, 0" not in found.measured
        and found.measured.startswith("0 of 20")
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["sop", "nsp"]), st.booleans())
def test_the_label_rebuilt_from_the_places_is_the_label(new, seed, order, google):
    """For every kind of pair that sop.py makes."""
    corpus = Corpus(new / "corpus")
    examples = Examples(corpus, TOKENIZER, Recipe(max_length=24, order=order, google_compat=google), seed)
    for document in range(0, corpus.documents, 17):
        for row in examples.plan(document, examples.generator(0, 1, seed)):
            (a0, a1, b0, b1, label, _kind) = row
            planned = doctor.fitness.Planned((a0, a1), (b0, b1), label, 0)
            assert true_label(corpus, planned) == label
            assert document_of(corpus, a0) == document


def test_few_masked_words_and_text_without_order_are_told(new, tmp_path):
    plan = replace(PLAN, recipe=Recipe(max_predictions=1))
    report = examine(saved(only_text(new, tmp_path / "few"), CONFIG, plan), heart=False)
    assert named(report, "masking").verdict == LOOK and "1 slots in 24 pieces" in named(report, "masking").advice
    (tmp_path / "single.txt").write_text("\n\n".join(WORDS))
    for name in ("corpus", "held-out"):
        prepare_corpus([tmp_path / "single.txt"], TOKENIZER, tmp_path / "single" / name, layout="sentences")
    report = examine(saved(tmp_path / "single", CONFIG, PLAN), heart=False)
    assert named(report, "order balance").verdict == WRONG and named(report, "text").verdict == LOOK
    plan = replace(PLAN, recipe=Recipe(order="none"), sop_weight=0.0)
    told = verdicts(examine(saved(only_text(new, tmp_path / "none"), CONFIG, plan)))
    assert told["order labels"] == told["loss, order"] == UNKNOWN and "first loss, order" not in told
    assert told["by heart"] == OK, "words alone"


# ---- a sick plan ----


def test_no_warm_up_and_an_absurd_peak_are_told():
    assert warm_up(replace(PLAN, warmup=0)).verdict == LOOK
    assert warm_up(replace(PLAN, warmup=150)).verdict == LOOK
    short, enough = (warm_up(replace(PLAN, optimizer="adamw", warmup=n)) for n in (20, 99))
    assert short.verdict == LOOK and "no bias correction" in short.advice and enough.verdict == "ok"
    assert "a step of AdamW is 3.2 times as long as the rate says" in enough.measured  # 1 / sqrt(1 - 0.999 ** 100)
    assert warm_up(Plan((Stage(512, 125_000, 4096),))).measured == "3,125 of 125,000 steps (2.5%)"
    usual = Plan((Stage(512, 125_000, 4096),))
    assert peak(usual, 768).verdict == OK and "0.00176" in peak(usual, 768).measured
    high = peak(replace(usual, peak=0.01), 768)
    assert high.verdict == LOOK and "--peak 0.0018 to 0.007" in high.advice
    assert peak(replace(usual, peak=1.5), 768).verdict == WRONG
    small = replace(usual, stages=(Stage(128, 400, 16),))
    assert peak(small, 64).verdict == LOOK and "--peak 0.005" in peak(small, 64).advice
    assert peak(replace(small, peak=0.005), 64).verdict == OK
    bert = Plan((Stage(128, 1_000_000, 256),), optimizer="adamw", peak=1e-4)
    assert peak(bert, 768).verdict == OK and peak(replace(bert, peak=1e-3), 768).verdict == LOOK


# ---- a sick model ----


def test_weights_with_a_spread_of_1_are_wrong_and_so_is_their_loss(new, tmp_path):
    torch.manual_seed(0)
    model = AlbertForPreTraining(CONFIG)
    for w in model.parameters():
        if w.dim() == 2:
            torch.nn.init.normal_(w)
    report = examine(saved(only_text(new, tmp_path / "run"), model, PLAN), heart=False)
    assert named(report, "initial weights").verdict == WRONG
    assert "off: albert.embeddings.word.weight" in named(report, "initial weights").measured
    assert named(report, "first loss, words").verdict == WRONG


def test_a_head_start_is_healthy(new, tmp_path):
    report = examine(saved(only_text(new, tmp_path / "run"), started(new), PLAN), heart=False)
    assert named(report, "initial weights").verdict == OK
    found = named(report, "first loss, words")
    assert found.verdict == OK and "softmax(bias)" in found.expected and float(found.measured.split()[0]) < 5


def test_a_model_gone_on_from_is_told_as_such(trained, new, tmp_path):
    model = AlbertForPreTraining.from_pretrained(checkpoints(trained)[-1])
    report = examine(saved(only_text(new, tmp_path / "run"), model, PLAN), heart=False)
    assert named(report, "initial weights").measured == "the model has been trained"
    assert named(report, "first loss, words").verdict == OK
    assert "trained before" in named(report, "first loss, words").measured


def test_a_model_that_cannot_learn_is_found_by_heart(new, monkeypatch):
    inputs = batch(new)
    model = AlbertForPreTraining(CONFIG)
    names = [name for name, _ in model.named_parameters()]
    assert vitals.by_heart(model, inputs, names, 1.0, 60).verdict == WRONG
    but_one = [name for name in names if name != "sop.classifier.bias"]
    with monkeypatch.context() as patch:
        patch.setattr(vitals, "HEART_STEPS", 20)
        slow = vitals.by_heart(model, inputs, but_one, 1.0, 60)
    assert slow.verdict == WRONG and "words and order cannot be learnt" in slow.advice
    late = vitals.by_heart(model, inputs, [], 1.0, 0.0)
    assert late.verdict == UNKNOWN and "0 seconds were too few; 8 examples of 24 pieces, 0 steps" in late.measured
    before = {name: w.clone() for name, w in model.state_dict().items()}
    assert vitals.by_heart(model, inputs, [], 1.0, 60).verdict == OK
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items()), "a copy learns, not the model"
    assert all(w.grad is None for w in model.parameters())


def test_a_trained_model_that_cannot_learn_is_laid_beside_a_new_one(trained, monkeypatch):
    model = AlbertForPreTraining.from_pretrained(checkpoints(trained)[-1])
    with torch.no_grad():
        model.albert.encoder.feed_forwards[0].norm.weight.fill_(0.0)  # every position says the same now
    monkeypatch.setattr(vitals, "HEART_STEPS", 70)
    found = vitals.heart_of(model, batch(trained), [], 1.0, 60)
    assert found.verdict == WRONG and "A new model of these sizes: 8 examples" in found.measured
    assert "by a new model but not by this one" in found.advice


def test_a_parameter_without_gradient_is_named(new):
    class Detached(AlbertForPreTraining):
        def forward(self, *inputs, **more):
            self.albert.embeddings.word.weight.requires_grad_(False)
            try:
                return super().forward(*inputs, **more)
            finally:
                self.albert.embeddings.word.weight.requires_grad_(True)

    found = vitals.by_heart(Detached(CONFIG), batch(new), [], 1.0, 60)
    assert found.verdict == WRONG and "no gradient: albert.embeddings.word.weight" in found.measured


def batch(run: Path) -> dict[str, torch.Tensor]:
    examples = Examples(Corpus(run / "corpus"), TOKENIZER, Recipe(max_length=24, ngram=1), 0)
    return examples.collate([examples.example(*row) for row, _ in zip(examples.stream(), range(8), strict=False)])


def test_similarity_is_the_mean_cosine_of_two_real_positions(new):
    inputs = {name: x[:3] for name, x in batch(new).items()}
    inputs["attention_mask"][0, 20:] = 0
    torch.manual_seed(0)
    model = AlbertForPreTraining(CONFIG).eval()
    hidden = model.albert(**{k: inputs[k] for k in ("input_ids", "attention_mask", "token_type_ids")}).last_hidden_state
    means = []
    for x, mask in zip(hidden, inputs["attention_mask"].bool(), strict=True):
        x = x[mask]
        n = len(x)
        cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
        means.append((cosines.sum() - n) / (n * (n - 1)))
    assert vitals.similarity(model, inputs)[-1] == pytest.approx(float(sum(means).detach()) / 3, abs=1e-5)
    assert len(vitals.similarity(model, inputs)) == 3


def test_a_collapsed_model_is_found(trained):
    model = AlbertForPreTraining.from_pretrained(checkpoints(trained)[-1])
    inputs = batch(trained)
    assert vitals.collapse(model, inputs, 200, 200).verdict == OK
    with torch.no_grad():
        model.albert.encoder.feed_forwards[0].norm.bias.fill_(0.0)[0] = 1000.0
    sick = vitals.collapse(model, inputs, 200, 200)
    assert sick.verdict == WRONG and sick.measured.split("; ")[0].endswith("1.00")
    assert vitals.collapse(model, inputs, 10, 200).verdict == LOOK, "early it happens"
    assert vitals.collapse(model, inputs, 0, 200).verdict == OK, "not judged"


# ---- a sick log ----


def test_a_log_that_falls_back_names_the_best_checkpoint(trained, tmp_path):
    def sick(row, i, n):
        if "mlm_loss" in row and i > 0.8 * n:
            row |= {"mlm_loss": row["mlm_loss"] + 3, "sop_loss": 0.7}
        return row | {"sop_loss": 0.2} if "mlm_loss" in row and i <= 0.8 * n else row

    report = examine(with_log(trained, tmp_path / "run", sick), heart=False)
    found = named(report, "fall back")
    assert found.verdict == WRONG and "words: from" in found.measured and "order: from" in found.measured
    assert "/run/step-00000" in found.advice and "(best held-out loss)" in found.advice


def test_held_out_figures_that_fall_back_and_a_gap_are_found(trained, tmp_path):
    last = {"held_out/loss": 6.0, "held_out/mlm_loss": 5.3, "held_out/mlm_accuracy": 0.05, "held_out/sop_accuracy": 0.5}

    def change(row, i, n):
        if "held_out/loss" not in row:
            return row
        return row | (last if i == n - 1 else {"held_out/mlm_accuracy": 0.6})

    sick = with_log(trained, tmp_path / "run", change)
    report = examine(sick, heart=False)
    assert named(report, "fall back").verdict == WRONG and "mlm_accuracy fell" in named(report, "fall back").measured
    assert named(report, "held-out gap").verdict == LOOK and "by heart" in named(report, "held-out gap").advice


def test_a_place_without_a_number_is_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "stopped-00000200-rank0").mkdir()
    report = examine(tmp_path / "run", heart=False)
    assert not report.healthy and "stopped-00000200-rank0" in named(report, "no number").measured
    assert symptoms.stops(tmp_path / "run", 201)[0].verdict == LOOK, "it has gone past"


def rows(mlm, sop=None, **more) -> list[dict]:
    n = len(mlm)
    sop = [0.7] * n if sop is None else sop
    every = [{name: x[i] for name, x in more.items()} for i in range(n)]
    usual = {"gradient_norm": 1.0, "tokens": 190, "tokens_per_second": 1000}
    return [{"step": i + 1, "mlm_loss": mlm[i], "sop_loss": sop[i]} | usual | every[i] for i in range(n)]


def test_losses_that_stand_still_or_wait_are_told_apart():
    level, falling = [7.0] * 100, [8 - 0.05 * i for i in range(100)]
    assert symptoms.words(rows(level), PLAN, 5.0).verdict == WRONG
    assert symptoms.words(rows(level[:19]), PLAN, 5.0).verdict == UNKNOWN
    assert symptoms.words(rows(falling), PLAN, 5.0).verdict == OK
    stuck = symptoms.words(rows([max(x, 6.0) for x in falling]), PLAN, 6.0)
    assert stuck.verdict == LOOK and "nothing of their context" in stuck.advice
    waits = symptoms.order(rows(falling, [0.69] * 100), PLAN)
    assert waits.verdict == OK and "still falls" in waits.measured
    stands = symptoms.order(rows([max(x, 6.0) for x in falling], [0.69] * 100), PLAN)
    assert stands.verdict == LOOK and "has stopped falling" in stands.measured
    assert symptoms.order(rows(falling, [0.69] * 60 + [0.3] * 40), PLAN).verdict == OK
    assert symptoms.order(rows(falling, [0.9] * 100), PLAN).verdict == LOOK


def test_a_gradient_that_stands_out_and_a_slow_end_are_told():
    norms = [1.0] * 99 + [50.0]
    found = symptoms.gradient(rows([6.0] * 100, gradient_norm=norms), PLAN)
    assert found.verdict == LOOK and "steps 100" in found.measured and "1% were cut" in found.measured
    assert symptoms.gradient(rows([6.0] * 100), PLAN).verdict == OK
    speed = [1000] * 90 + [100] * 10
    assert symptoms.speed(rows([6.0] * 100, tokens_per_second=speed), PLAN, 100).verdict == LOOK
    found = symptoms.speed(rows([6.0] * 100), PLAN, 100)
    assert found.measured == "1,000 tokens a second, 1,000 lately; 19 s left"
    assert [symptoms.duration(s) for s in (61, 3600, 100_000)] == ["1 min", "1 h 00 min", "27 h 47 min"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=20, max_size=300), st.integers(0, 2**32 - 1))
def test_tenths_are_medians_of_equal_parts_to_the_end_and_noise_alone_is_no_fall_back(values, seed):
    found = symptoms.tenths(rows(values), "mlm_loss")
    size = len(values) // 10
    assert len(found) >= 10 and found[-1].last == len(values)
    assert all(level.last - level.first == size - 1 for level in found)
    assert all(min(values) <= level.value <= max(values) for level in found)
    rng = random.Random(seed)
    noise = [rng.gauss(5 + 3 * math.exp(-i / 40), 0.2) for i in range(len(values))]
    assert symptoms.fall_back(rows(noise), [], "x").verdict == OK


# ---- what is not there ----


def test_a_run_without_a_checkpoint_is_told_how_to_make_one(new, tmp_path):
    only_text(new, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"run: no checkpoint of a run, expected step-NNNNNNNN.*--prepare-only"):
        examine(tmp_path / "run")


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_read(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    with open(checkpoints(tmp_path / "run")[-1] / MODEL, "r+b") as file:
        file.truncate(100)
    report = examine(tmp_path / "run", heart=False)
    assert named(report, "checkpoint").verdict == WRONG and "step-00000200" in named(report, "checkpoint").measured
    assert report.summary["checkpoint"] == "step-00000100"


def test_a_checkpoint_that_vanishes_while_it_is_read_is_passed_over(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    read = doctor.read_checkpoint

    def late(path):
        if path.name == "step-00000200" and path.exists():
            shutil.rmtree(path)
        return read(path)

    monkeypatch.setattr(doctor, "read_checkpoint", late)
    shutil.rmtree(tmp_path / "run" / "step-00000000")
    report = examine(tmp_path / "run", heart=False)
    assert report.summary["checkpoint"] == "step-00000100"
    assert "at step 1, the first in the log" in named(report, "first loss, words").measured
    assert "checkpoint" not in verdicts(report), "nothing is wrong with it"


def test_without_its_text_or_with_another_the_data_is_not_measured(new, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "corpus")
    report = examine(tmp_path / "run")
    assert (
        named(report, "data").verdict
        == named(report, "by heart").verdict
        == named(report, "collapse").verdict
        == UNKNOWN
    )
    assert "there is no corpus/" in named(report, "data").measured
    shutil.copytree(trained / "held-out", tmp_path / "run" / "corpus")
    assert "is not the text that this run was made with" in named(examine(tmp_path / "run"), "data").measured


# ---- the command ----


def test_the_command_prints_a_page_or_json_and_exits_1_for_what_is_wrong(trained, tmp_path, capsys):
    assert main(["doctor", str(trained), "--no-heart"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"{trained}: step 200 of 200") and "before the first step" in page
    assert "not measured: left out" in page and len(page.splitlines()) < 60, "one page"
    assert main(["doctor", str(trained), "--no-heart", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] and said["summary"]["step"] == 200
    assert set(said["findings"][0]) == {"name", "verdict", "measured", "expected", "advice"}
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "stopped-00000200-rank0").mkdir()
    assert main(["doctor", str(tmp_path / "run"), "--no-heart"]) == 1
    assert "\n! WRONG  no number" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path)]) == 1
    assert "--prepare-only" in capsys.readouterr().err
