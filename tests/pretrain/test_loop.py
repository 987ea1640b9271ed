"""The loop: an update is what its page says, and a run broken off, killed or shared ends in the same place.

kill_and_resume(directory, kills, seed) can be called with any number of kills: the test here does a few.
"""

import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import minialbert
from minialbert.checkpoints import (
    MODEL,
    OPTIMIZER,
    best,
    checkpoints,
    last,
    read_state,
)
from minialbert.errors import CheckpointError, InputError
from minialbert.heads import IGNORED, AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.examples import Batches, Examples, Recipe
from minialbert.pretrain.lamb import Lamb
from minialbert.pretrain.loop import Diverged, Run, pretrain
from minialbert.pretrain.measure import fall, held_out_batches, measure
from minialbert.pretrain.plan import Plan, Stage
from minialbert.tokenizers import load_tokenizer
from minialbert.training import LOG, Stopped, alone, parameter_groups, read_log
from tests.conftest import GOLDEN, tiny_config

ROOT = Path(__file__).parent.parent.parent
TEXT = GOLDEN / "tokenizer" / "corpus.txt"
TOKENIZER = load_tokenizer(GOLDEN / "tokenizer" / "albert-tiny-500.model")
DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
CONFIG = tiny_config(vocab_size=500, num_hidden_layers=2, max_position_embeddings=48, **DROPS)
STILL = replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
PLAN = Plan(
    (Stage(24, 6, 8), Stage(48, 4, 6)), peak=0.02, warmup=2, micro_tokens=96, log_every=1, save_every=100, held_out=16
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return prepare_corpus([TEXT], TOKENIZER, tmp_path_factory.mktemp("corpus") / "c", layout="sentences")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_bytes(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in (MODEL, OPTIMIZER))


def rows_of(directory: Path) -> list[dict]:
    """The log without what depends on the clock."""
    return [{key: x for key, x in row.items() if key != "tokens_per_second"} for row in read_log(directory)]


def first_batch(corpus, plan: Plan):
    stage = plan.stages[0]
    examples = Examples(corpus, TOKENIZER, replace(plan.recipe, max_length=stage.length), plan.seed)
    return next(iter(Batches(examples, stage.batch)))


# ---- one update ----


@pytest.mark.parametrize("optimizer, micro_tokens", [("lamb", 10_000), ("lamb", 24), ("adamw", 72)])
def test_an_update_is_the_mean_loss_of_the_batch_then_clip_then_one_step_however_it_is_cut(
    corpus, tmp_path, optimizer, micro_tokens
):
    plan = replace(PLAN, optimizer=optimizer, micro_tokens=micro_tokens, warmup=0, clip=0.1, sop_weight=0.5)
    torch.manual_seed(3)
    start = AlbertForPreTraining(STILL).double()
    by_hand = AlbertForPreTraining(STILL).double()
    by_hand.load_state_dict(start.state_dict())
    run = Run(tmp_path, start, corpus, TOKENIZER, plan)
    batch = first_batch(corpus, plan)
    row = run.update(batch)

    out = by_hand(**batch.inputs)
    (out.mlm_loss + 0.5 * out.sop_loss).backward()
    norm = nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
    Lamb(parameter_groups(by_hand), lr=0.02, trust=optimizer == "lamb").step()
    assert row["mlm_loss"] == pytest.approx(out.mlm_loss.item(), rel=1e-6)
    assert row["sop_loss"] == pytest.approx(out.sop_loss.item(), rel=1e-6)
    assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-6) and norm > 0.1
    assert row["tokens"] == int(batch.inputs["attention_mask"].sum())
    for (name, ours), theirs in zip(run.model.named_parameters(), by_hand.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-7, name  # losses are divided in float32 steps nowhere else


def test_only_masked_words_go_through_the_vocabulary(corpus, tmp_path):
    run, seen = Run(tmp_path, STILL, corpus, TOKENIZER, PLAN), []
    forward = run.forward

    def watched(**inputs):
        out = forward(**inputs)
        seen.append(list(out.prediction_logits.shape))
        return out

    run.forward = watched
    run.update(first_batch(corpus, PLAN))
    slots = Recipe(max_length=24).slots
    assert slots == 4 and seen == [[4, slots, 500], [4, slots, 500]]  # 96 pieces of micro_tokens are 4 rows of 24


def test_bfloat16_computes_in_it_and_keeps_weights_and_state_in_float32(corpus, tmp_path):
    rows = {}
    for dtype in ("float32", "bfloat16"):
        run = Run(tmp_path / dtype, STILL, corpus, TOKENIZER, replace(PLAN, dtype=dtype))
        kinds, hidden = set(), run.model.albert.encoder.feed_forwards[0].up
        hidden.register_forward_hook(lambda module, inputs, out, kinds=kinds: kinds.add(out.dtype))
        rows[dtype] = [run.update(batch) for batch in run.batches()]
        assert kinds == {getattr(torch, dtype)}
        assert {w.dtype for w in run.model.parameters()} == {torch.float32}
        assert {state["m"].dtype for state in run.optimizer.state.values()} == {torch.float32}
    for exact, rounded in zip(rows["float32"], rows["bfloat16"], strict=True):
        assert abs(exact["loss"] - rounded["loss"]) < 0.02
    assert rows["float32"][-1]["loss"] != rows["bfloat16"][-1]["loss"]


def test_recomputing_changes_no_bit_and_leaves_nothing_behind(corpus, tmp_path):
    plan = replace(PLAN, recompute=True)
    model = AlbertForPreTraining(CONFIG)
    again = AlbertForPreTraining(CONFIG)
    again.load_state_dict(model.state_dict())
    usual = pretrain(tmp_path / "usual", model, corpus, TOKENIZER, PLAN, until=3)
    recomputed = pretrain(tmp_path / "again", again, corpus, TOKENIZER, plan, until=3)
    assert same_bytes(usual, recomputed)
    assert all("forward" not in vars(module) for module in again.modules())


def test_a_compiled_model_gives_the_same_losses(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plan = replace(PLAN, stages=(Stage(24, 3, 4),), warmup=1)
    for name, compiled in (("usual", False), ("compiled", True)):
        pretrain(tmp_path / name, STILL, corpus, TOKENIZER, replace(plan, compile=compiled))
    pairs = zip(rows_of(tmp_path / "usual"), rows_of(tmp_path / "compiled"), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-5) for a, b in pairs)


def test_the_model_learns(corpus, tmp_path):
    plan = replace(PLAN, stages=(Stage(32, 60, 16),), micro_tokens=512, warmup=6, held_out=64, save_every=20)
    config = replace(STILL, hidden_size=48, intermediate_size=96, embedding_size=24)
    pretrain(tmp_path, config, corpus, TOKENIZER, plan, held_out=corpus)
    rows = read_log(tmp_path)
    assert rows[0]["mlm_loss"] == pytest.approx(math.log(500), abs=0.1)
    assert rows[0]["sop_loss"] == pytest.approx(math.log(2), abs=0.1)
    measured = [row["held_out/mlm_loss"] for row in rows if "held_out/mlm_loss" in row]
    assert len(measured) == 3 and measured[-1] < measured[0] and measured[-1] < math.log(500) - 0.5
    assert best(tmp_path) == last(tmp_path) and len(checkpoints(tmp_path)) == 3


# ---- broken off, and killed ----


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "dtype": "bfloat16"}], ids=["lamb", "adamw-bfloat16"])
@pytest.mark.parametrize("breaks", [[5], [6], [1, 2, 7]], ids=str)
def test_ten_steps_are_five_and_five_bit_for_bit(corpus, tmp_path, changes, breaks):
    plan = replace(PLAN, **changes)
    whole = pretrain(tmp_path / "whole", CONFIG, corpus, TOKENIZER, plan)
    for until in [*breaks, None]:
        torch.manual_seed(random.randrange(1000))  # whatever the process did before
        path = pretrain(tmp_path / "parts", CONFIG, corpus, TOKENIZER, plan, until=until)
    assert path.name == whole.name == "step-00000010"
    assert same_bytes(whole, path)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")
    assert read_state(whole)["position"] == read_state(path)["position"]


def test_what_is_frozen_stays_frozen_when_a_run_goes_on(corpus, tmp_path):
    start = AlbertForPreTraining(STILL)
    start.albert.embeddings.requires_grad_(False)
    before = {name: w.clone() for name, w in start.albert.embeddings.named_parameters()}
    pretrain(tmp_path, start, corpus, TOKENIZER, PLAN, until=3)
    after = AlbertForPreTraining.from_pretrained(pretrain(tmp_path, STILL, corpus, TOKENIZER, PLAN, until=5))
    assert all(torch.equal(w, before[name]) for name, w in after.albert.embeddings.named_parameters())
    assert not torch.equal(after.sop.classifier.weight, start.sop.classifier.weight)


def test_a_run_that_is_done_is_found_done(corpus, tmp_path):
    plan = replace(PLAN, stages=(Stage(24, 2, 4),))
    path = pretrain(tmp_path, CONFIG, corpus, TOKENIZER, plan)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert pretrain(tmp_path, CONFIG, corpus, TOKENIZER, plan) == path
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}


def test_processes_that_make_examples_change_no_bit(corpus, tmp_path):
    here = pretrain(tmp_path / "here", CONFIG, corpus, TOKENIZER, PLAN, until=4)
    pretrain(tmp_path / "there", CONFIG, corpus, TOKENIZER, replace(PLAN, workers=1), until=2)
    assert same_bytes(here, pretrain(tmp_path / "there", CONFIG, corpus, TOKENIZER, replace(PLAN, workers=1), until=4))


@pytest.fixture
def usual_signals():
    """As in a terminal, wherever the tests run: what a shell starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_where_it_stands_and_goes_on_to_the_same_bits(
    corpus, tmp_path, number, usual_signals
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole = pretrain(tmp_path / "whole", CONFIG, corpus, TOKENIZER, PLAN)
    run = Run(tmp_path / "parts", CONFIG, corpus, TOKENIZER, PLAN)
    update = run.update

    def asked_in_the_third(batch):
        if run.step == 2:
            signal.raise_signal(number)
        return update(batch)

    run.update = asked_in_the_third
    with pytest.raises(Stopped, match="step-00000003 is saved, and the same command goes on from there") as caught:
        run.train()
    assert caught.value.number == number
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert same_bytes(whole, pretrain(tmp_path / "parts", CONFIG, corpus, TOKENIZER, PLAN))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")


def test_a_second_signal_ends_a_run_at_once(corpus, tmp_path, usual_signals):
    run = Run(tmp_path, CONFIG, corpus, TOKENIZER, PLAN)

    def impatient(batch):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)

    run.update = impatient
    with pytest.raises(KeyboardInterrupt) as caught:
        run.train()
    assert not isinstance(caught.value, Stopped) and last(tmp_path) is None


def test_a_directory_is_of_one_run_at_a_time(corpus, tmp_path):
    with alone(tmp_path), pytest.raises(CheckpointError, match="another process is training in it; wait for its end"):
        pretrain(tmp_path, CONFIG, corpus, TOKENIZER, PLAN, until=1)
    assert pretrain(tmp_path, CONFIG, corpus, TOKENIZER, PLAN, until=1).name == "step-00000001"


KILLED = replace(PLAN, stages=(Stage(24, 20, 8), Stage(48, 16, 6)), save_every=3, keep_last=2, held_out=4)


def killed_run(directory: Path, corpus: Path, countdown: int | None = None) -> None:
    if countdown is not None:
        die_at(countdown)
    data = Corpus(corpus)
    pretrain(directory, CONFIG, data, TOKENIZER, KILLED, held_out=data, progress=False)


def in_child(work) -> int:
    """Does work in a copy of this process, and returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def kill_and_resume(directory: str, kills: int, seed: int = 0) -> None:
    """An unbroken run, and one that is killed `kills` times at random moments; prints what came of it as JSON.

    Also a run that is killed again and again where a file is about to get or lose its name.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    top, rng = Path(directory), random.Random(seed)
    prepare_corpus([TEXT], TOKENIZER, top / "corpus", layout="sentences")
    once = replace(KILLED, stages=(Stage(24, 2, 8),))  # what torch imports late is in memory from here on
    pretrain(top / "once", CONFIG, Corpus(top / "corpus"), TOKENIZER, once)
    seconds = []  # of the whole run, and of one that only starts and finds it done
    for _ in range(2):
        start = time.perf_counter()
        assert os.waitpid(in_child(lambda: killed_run(top / "whole", top / "corpus")), 0)[1] == 0
        seconds.append(time.perf_counter() - start)

    done, reached = 0, []
    while True:
        child = in_child(lambda: killed_run(top / "random", top / "corpus"))
        if done < kills:
            time.sleep(rng.uniform(0, 1.5 * seconds[1] + 2 * seconds[0] / kills))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0
            if done >= kills:
                break
        done += 1
        reached.append(int(path.name[5:]) if (path := last(top / "random")) else 0)

    moments = 0
    while True:  # the run goes on in each child, and lives a little longer
        child = in_child(lambda countdown=moments: killed_run(top / "naming", top / "corpus", countdown))
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert status == 0
            break
        moments += 1
        assert moments < 200
    print(json.dumps({"reached": reached, "moments": moments}))


def die_at(countdown: int) -> None:
    """Kills this process instead of a later call of os.replace, os.rename or os.unlink (rmtree's too)."""
    left = [countdown]

    def deadly(call):
        def instead(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return instead

    os.replace, os.rename, os.unlink = deadly(os.replace), deadly(os.rename), deadly(os.unlink)


def test_a_run_that_is_killed_at_any_moment_ends_in_the_same_weights(tmp_path):
    code = "import sys; from tests.pretrain.test_loop import kill_and_resume; kill_and_resume(sys.argv[1], 6)"
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout.splitlines()[-1])
    print(found)
    assert len(found["reached"]) == 6 and len(set(found["reached"])) > 1 and found["moments"] >= 6
    for name in ("random", "naming"):
        assert same_bytes(last(tmp_path / "whole"), last(tmp_path / name)), name
        assert rows_of(tmp_path / "whole") == rows_of(tmp_path / name), name
        assert [p.name for p in checkpoints(tmp_path / "whole")] == [p.name for p in checkpoints(tmp_path / name)], name
        assert not [path for path in (tmp_path / name).iterdir() if path.name.startswith(".")], "half-written files"


# ---- many processes ----


def shared_run(directory: str, corpus: str) -> None:
    """What each process of torchrun does."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    data, plan = Corpus(corpus), replace(PLAN, save_every=4, held_out=15)
    pretrain(directory, STILL, data, TOKENIZER, plan, held_out=data, progress=False, until=4)
    pretrain(directory, STILL, data, TOKENIZER, plan, held_out=data, progress=False)


def test_two_processes_give_what_one_gives_to_rounding(corpus, tmp_path):
    runner = tmp_path / "shared.py"
    runner.write_text("import sys\nfrom tests.pretrain.test_loop import shared_run\nshared_run(*sys.argv[1:])\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(runner)]
    told = subprocess.run(
        [*torchrun, str(tmp_path / "two"), str(corpus.directory)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    torch.set_default_dtype(torch.float64)
    try:
        one = pretrain(tmp_path / "one", STILL, corpus, TOKENIZER, replace(PLAN, save_every=4, held_out=15),
                       held_out=corpus)  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    a, b = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(a) == len(b) == 13 and [row["step"] for row in a] == [row["step"] for row in b]
    for mine, shared in zip(a, b, strict=True):
        assert mine == pytest.approx(shared, rel=1e-6), mine["step"]
    weights, theirs = load_file(one / MODEL), load_file(tmp_path / "two" / one.name / MODEL)
    assert {w.dtype for w in weights.values()} == {torch.float64}
    distance = max(float((w - theirs[name]).abs().max()) for name, w in weights.items())
    print(f"1 and 2 processes: {distance:.1e} apart after 10 steps")
    assert distance < 1e-7


# ---- figures ----


def test_held_out_figures_are_those_counted_one_example_at_a_time(corpus):
    torch.manual_seed(0)
    model = AlbertForPreTraining(CONFIG).train()
    with torch.no_grad():
        model.mlm.bias.normal_()
    examples = Examples(corpus, TOKENIZER, Recipe(max_length=24), 5)
    found = [
        measure(model, held_out_batches(examples, 20, rows), lambda: torch.autocast("cpu", enabled=False))
        for rows in (20, 3)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6) and model.training
    right = words = ordered = pairs = 0
    loss = 0.0
    for inputs in held_out_batches(examples, 20, 1):
        with torch.no_grad():
            out = model.eval()(**inputs)
        for row, label in zip(out.prediction_logits[0], inputs["labels"][0].tolist(), strict=True):
            if label != IGNORED:
                right, words = right + (int(row.argmax()) == label), words + 1
                loss -= float(row.log_softmax(0)[label])
        label = int(inputs["sentence_order_label"])
        if label != IGNORED:
            ordered, pairs = ordered + (int(out.sop_logits.argmax()) == label), pairs + 1
    assert found[0]["words"] == words and found[0]["pairs"] == pairs
    assert found[0]["mlm_accuracy"] == right / words and found[0]["sop_accuracy"] == ordered / pairs
    assert found[0]["mlm_loss"] == pytest.approx(loss / words, rel=1e-5)
    assert found[0]["mlm_perplexity"] == pytest.approx(math.exp(loss / words), rel=1e-4)


def test_the_held_out_set_ends_with_the_epoch_and_is_shared_out_among_processes(corpus):
    examples = Examples(corpus, TOKENIZER, Recipe(max_length=24), 5)
    everything = torch.cat([x["input_ids"] for x in held_out_batches(examples, 10**6, 50)])
    assert len(everything) == sum(len(plan) for plan in examples.pools(0))
    parts = [torch.cat([x["input_ids"] for x in held_out_batches(examples, 11, 4, rank, 2)]) for rank in (0, 1)]
    assert [len(part) for part in parts] == [6, 5]
    assert torch.equal(everything[:11:2], parts[0]) and torch.equal(everything[1:11:2], parts[1])


@pytest.mark.parametrize(
    "now, told",
    [
        ((0.06, 0.81), "mlm_accuracy fell from 0.450 to 0.060"),
        ((0.45, 0.57), "sop_accuracy fell from 0.810 to 0.570"),
        ((0.06, 0.57), "mlm_accuracy fell from 0.450 to 0.060, sop_accuracy fell from 0.810 to 0.570"),
        ((0.40, 0.75), None),
    ],
)
def test_a_fall_is_told(now, told):
    def figures(mlm, sop, words=10_000, pairs=1_000):
        return {"mlm_accuracy": mlm, "sop_accuracy": sop, "words": words, "pairs": pairs}

    assert fall(figures(*now), figures(0.45, 0.81)) == told
    assert fall(figures(0.0, 0.4, 100, 64), figures(0.03, 0.6, 100, 64)) is None  # so few say nothing


def test_a_model_that_gets_much_worse_is_told_of_and_the_better_one_is_kept(corpus, tmp_path):
    plan = replace(PLAN, stages=(Stage(24, 6, 4),), save_every=1, keep_last=1, held_out=16)
    run = Run(tmp_path, STILL, corpus, TOKENIZER, plan, corpus)
    accuracies = iter([0.1, 0.3, 0.29, 0.1, 0.28, 0.3])
    more = {"sop_accuracy": 0.5, "words": 10_000, "pairs": 1_000}
    run.measured = lambda: {"loss": 1 - (x := next(accuracies)), "mlm_accuracy": x} | more
    with pytest.warns(UserWarning) as caught:
        run.train()
    assert [str(w.message).split(",")[0] for w in caught] == ["step 4: mlm_accuracy fell from 0.300 to 0.100"]
    assert "step-00000002, which is kept" in str(caught[0].message) and best(tmp_path).name == "step-00000002"


def test_measuring_changes_nothing_in_the_training(corpus, tmp_path):
    often = replace(PLAN, save_every=1)
    never = pretrain(tmp_path / "never", CONFIG, corpus, TOKENIZER, PLAN)
    assert same_bytes(never, pretrain(tmp_path / "often", CONFIG, corpus, TOKENIZER, often, held_out=corpus))


def test_the_log_tells_what_a_step_did_and_tensorboard_gets_the_same(corpus, tmp_path, monkeypatch):
    written = []
    board = types.SimpleNamespace(add_scalar=lambda *what: written.append(what), close=lambda: written.append("closed"))
    fake = types.SimpleNamespace(SummaryWriter=lambda directory, purge_step: board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    pretrain(tmp_path, CONFIG, corpus, TOKENIZER, replace(PLAN, log_every=5), held_out=corpus)
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 10]
    assert rows[0]["rate"] == pytest.approx(0.02 * (1 - 4 / 10)) and rows[0]["tokens_per_second"] > 0
    assert rows[0]["epoch"] == 0 and rows[1]["epoch"] == 1, "a stage begins a new epoch"
    assert 0 < rows[0]["trust_min"] < rows[0]["trust_max"]
    assert 0 <= rows[2]["held_out/sop_accuracy"] <= 1
    assert ("loss", rows[0]["loss"], 5) in written and written[-1] == "closed"


def test_the_progress_goes_to_stderr_with_speed_and_time_left(corpus, tmp_path, capsys):
    pretrain(tmp_path, CONFIG, corpus, TOKENIZER, PLAN, until=3, progress=True)
    told = capsys.readouterr()
    assert told.out == "" and "3/3" in told.err and "tokens/s" in told.err and "loss 6." in told.err
    pretrain(tmp_path, CONFIG, corpus, TOKENIZER, PLAN, until=4)
    assert capsys.readouterr().err == "", "no terminal, no bar"


# ---- what goes wrong ----


def test_the_first_nan_stops_the_run_with_the_batch_and_the_weights_before_it(corpus, tmp_path):
    run = Run(tmp_path, STILL, corpus, TOKENIZER, PLAN)
    run.train(until=3)
    run = Run(tmp_path, STILL, corpus, TOKENIZER, PLAN)
    with torch.no_grad():
        run.model.sop.classifier.weight[0, 0] = math.nan
    before = {name: w.clone() for name, w in run.model.state_dict().items()}
    with pytest.raises(Diverged, match=r"step 3: the losses are .* and nan.*stopped-00000003-rank0; train"):
        run.train()
    path = tmp_path / "stopped-00000003-rank0"
    model = AlbertForPreTraining.from_pretrained(path)
    assert all(torch.equal(w.nan_to_num(7), before[name].nan_to_num(7)) for name, w in model.state_dict().items())
    with torch.no_grad():
        assert math.isnan(model(**load_file(path / "batch.safetensors")).sop_loss)
    assert last(tmp_path).name == "step-00000003", "the checkpoint is there to go on from"
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3]


def test_a_plan_or_a_text_that_changed_in_mid_run_is_refused(corpus, tmp_path):
    pretrain(tmp_path / "run", CONFIG, corpus, TOKENIZER, PLAN, until=2)
    for changes in ({"peak": 0.01}, {"seed": 1}, {"recipe": Recipe(ngram=1)}, {"stages": (Stage(24, 7, 8),)}):
        with pytest.raises(CheckpointError, match=f"step-00000002: made with {next(iter(changes))} .*go on as it was"):
            pretrain(tmp_path / "run", CONFIG, corpus, TOKENIZER, replace(PLAN, **changes))
    (tmp_path / "other.txt").write_text("One sentence.\nAnother one.\nA third.\n")
    other = prepare_corpus([tmp_path / "other.txt"], TOKENIZER, tmp_path / "other", layout="sentences")
    with pytest.raises(CheckpointError, match="made with corpus"):
        pretrain(tmp_path / "run", CONFIG, other, TOKENIZER, PLAN)
    how = replace(PLAN, save_every=7, log_every=2, keep_last=9, recompute=True, held_out=1)
    assert pretrain(tmp_path / "run", CONFIG, corpus, TOKENIZER, how, until=3).name == "step-00000003"


def test_what_does_not_fit_together_is_refused_before_the_work(corpus, tmp_path):
    with pytest.raises(InputError, match="a stage has length=24, the model P=16 positions"):
        pretrain(tmp_path, replace(CONFIG, max_position_embeddings=16), corpus, TOKENIZER, PLAN)
    with pytest.raises(CheckpointError, match="the vocabulary has 500 entries, the word table 31 rows"):
        pretrain(tmp_path, replace(CONFIG, vocab_size=31), corpus, TOKENIZER, PLAN)
    bad = {"optimizer": "sgd", "dtype": "float16", "clip": -1, "save_every": 0, "stages": (), "warmup": 99, "peak": -1}
    for name, value in bad.items():
        with pytest.raises(InputError, match=name if name != "warmup" else "warm-up"):
            replace(PLAN, **{name: value})
    with pytest.raises(InputError, match="length, steps and batch of 1 or more"):
        replace(PLAN, stages=(Stage(24, 0, 8),))
    assert not list(tmp_path.iterdir())


def test_a_trained_model_goes_on_with_a_plan_of_its_own_on_other_text(corpus, tmp_path):
    path = pretrain(tmp_path / "first", CONFIG, corpus, TOKENIZER, PLAN, until=3)
    (tmp_path / "other.txt").write_text("One sentence.\nAnother one.\nA third.\n\nA new document.\nIts end.\n")
    other = prepare_corpus([tmp_path / "other.txt"], TOKENIZER, tmp_path / "other", layout="sentences")
    start = AlbertForPreTraining.from_pretrained(path)
    before = {name: w.clone() for name, w in start.state_dict().items()}
    plan = replace(PLAN, stages=(Stage(24, 2, 4),), warmup=0)
    onward = pretrain(tmp_path / "second", start, other, TOKENIZER, plan)
    model, tokenizer = minialbert.load(onward)
    after = start.state_dict()
    assert tokenizer == TOKENIZER and not model.training
    assert torch.equal(model.embeddings.word.weight, after["albert.embeddings.word.weight"])
    moved = [float((after[name] - w).abs().max()) for name, w in before.items()]
    assert 0 < max(moved) < 0.5
