"""Commands about models: inspect, cost."""

import argparse
import json
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minialbert.cli.settings import changes_of
from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.sources import SHIPPED, config_in, opened
from minialbert.errors import InputError
from minialbert.tools.cost import Cost, answers, bert_of_the_same_shape, cost, released, short
from minialbert.tools.cost_measuring import measure
from minialbert.tools.inspect import inspect


def add_commands(commands) -> None:
    look = commands.add_parser(
        "inspect", help="configuration, sharing plan, tensors, parameters, digests",
        description="What a model's files hold, in any format that load takes. Nothing in them is ever run.",
        epilog="example: minialbert inspect DIR",
    )  # fmt: skip
    look.add_argument("path", metavar="PATH")
    look.add_argument("--tensors", action="store_true", help="list every tensor")
    look.add_argument("--json", action="store_true")
    look.set_defaults(run=run_inspect)

    price = commands.add_parser(
        "cost", help="parameters, work, memory, beside BERT: is it faster?",
        description="What a configuration costs, beside the BERT of the same shape: computed, and nothing is run; "
        "with --measure also counted and timed in a run of both, with random weights.",
        epilog="example: minialbert cost albert-base-v2 --batch 8 --length 128",
    )  # fmt: skip
    price.add_argument("model", nargs="?", metavar="MODEL", help="an official name, a config.json, or what load takes; "
                       "the small model that ships if left out")  # fmt: skip
    price.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as num_hidden_groups=12")
    price.add_argument("--batch", type=int, default=1, metavar="B", help="texts")
    price.add_argument("--length", type=int, default=128, metavar="T", help="tokens of each text")
    price.add_argument("--masked", type=int, metavar="M", help="with the heads of pre-training, for M words a text")
    price.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of all tensors")
    price.add_argument("--measure", action="store_true", help="run both, in float32 on the CPU")
    price.add_argument("--text", type=int, default=16, metavar="T", help="tokens of the short text of --measure")
    price.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds of --measure")
    price.add_argument("--threads", type=int, metavar="N", help="of torch, for --measure")
    price.add_argument("--json", action="store_true")
    price.set_defaults(run=run_cost)


def run_inspect(given: argparse.Namespace) -> int:
    found = inspect(given.path)
    if given.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    config = AlbertConfig.from_json(found["configuration"])
    rates = config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.head_dropout
    print(f"{found['path']}: {found['format']}, {config.model_type}, {_sizes(config)}")
    print(f"activation {config.hidden_act}, LayerNorm epsilon {config.layer_norm_eps:g}")
    print(f"dropout: hidden {rates[0]:g}, attention {rates[1]:g}, classifier {rates[2]:g}")
    print(f"tokenizer: {found['tokenizer'].get('said') or found['tokenizer']['error']}")
    print("\nwho shares what")
    for name, layers in found["sharing"].items():
        print(f"  {name:<28} layer{'s' if len(layers) > 1 else ''} {_runs(layers)}")
    print("\nparameters")
    for part in ("embeddings", "projection", "attention", "ffn", "pooler", "model"):
        print(f"  {part:<12} {found['parameters'][part]:>13,}")
    report = found["report"]
    print(f"\ntensors: {len(found['tensors'])} in the files")
    print("  " + ", ".join(f"{kind} {len(names)}" for kind, names in report.items()))
    reasons: dict[str, list[str]] = {}
    for name, why in report["ignored"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        some = names if given.tensors else names[:3]
        print(f"  ignored {len(names)}, {why}: {', '.join(some)}{', ...' if len(some) < len(names) else ''}")
    if given.tensors:
        for name, row in found["tensors"].items():
            print(f"  {name:<72} {row['dtype']:<9} {row['shape']}")
    print("\nfiles")
    for name, row in found["files"].items():
        print(f"  {name}  {row['bytes']:,} bytes  sha256 {row['sha256']}")
    return 0


def _sizes(config: AlbertConfig) -> str:
    return (
        f"V={config.vocab_size} E={config.embedding_size} H={config.hidden_size} L={config.num_visits} "
        f"A={config.num_attention_heads} F={config.intermediate_size} P={config.max_position_embeddings}"
    )


def _runs(layers: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def run_cost(given: argparse.Namespace) -> int:
    config = replace(_config_of(given.model), **changes_of(given.set))
    bert, size = bert_of_the_same_shape(config), 4 if given.dtype == "float32" else 2
    where = given.batch, given.length, size, given.masked
    ours, theirs, others = cost(config, *where), cost(bert, *where), released(*where)
    said, run = answers(config, ours, theirs, others), None
    if given.measure:
        run = _measured(given, config)
        times = ", ".join(f"{row['ratio']['median']:.2f} at {name}" for name, row in run["seconds"].items())
        said.append(f"Measured: a forward takes this share of BERT's time, caches and all: {times}. {run['said']}")
    if given.json:
        found = {"model": ours.to_json(), "bert": theirs.to_json(), "answers": said}
        found |= {"released": {name: other.to_json() for name, other in others.items()}}
        print(json.dumps(found | ({} if run is None else {"measured": run}), indent=2))
        return 0
    name = given.model or SHIPPED
    heads = "" if given.masked is None else f", heads for {given.masked} masked words each"
    print(f"{name}: {_sizes(config)}\n{given.batch} x {given.length} tokens, {given.dtype}{heads}\n")
    print(f"{'':<38}{'this model':>16}{'BERT, same shape':>18}{'ratio':>8}")
    _print_cost(ours, theirs, others)
    if not config.hidden_dropout_prob and not config.attention_probs_dropout_prob:
        dropped = [replace(each, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1) for each in (config, bert)]
        _row("the same with dropout, on a CPU", *(cost(each, *where).training_bytes for each in dropped))
    if run is not None:
        _print_measured(run, ours, theirs)
    print("\nIs it faster than BERT?")
    for line in said:
        print(textwrap.fill(line, 78, initial_indent="  ", subsequent_indent="    "))
    return 0


def _config_of(ref: str | None) -> AlbertConfig:
    """The configuration that a name, a file or a model has; no weights are read."""
    path = Path(ref or SHIPPED)
    if path.suffix == ".json":
        return AlbertConfig.from_json(path)
    if config_in(path).is_file():
        return AlbertConfig.from_json(config_in(path))
    bare = (
        len(path.parts) == 1
        and not path.exists()
        and str(path) != SHIPPED
        and not path.with_name(f"{path}.index").exists()
    )
    if str(ref) in PRESETS or bare:
        return AlbertConfig.preset(str(ref))
    with opened(ref) as source:
        return AlbertConfig.from_json(source.config)


def _measured(given: argparse.Namespace, config: AlbertConfig) -> dict[str, Any]:
    if given.dtype != "float32":
        raise InputError(f"--measure runs in float32, not --dtype {given.dtype}: leave one of them out")
    if given.threads is not None:
        if given.threads < 1:
            raise InputError(f"--threads {given.threads} must be at least 1")
        torch.set_num_threads(given.threads)
    return measure(config, given.batch, given.length, given.masked, given.text, given.repeats,
                   say=lambda line: print(line, file=sys.stderr, flush=True))  # fmt: skip


def _print_cost(ours: Cost, theirs: Cost, others: dict[str, Cost]) -> None:
    _heading("parameters", ours.total_parameters, theirs.total_parameters)
    for part, count in ours.parameters.items():
        _row(part, count, theirs.parameters[part])
    _row("all", ours.total_parameters, theirs.total_parameters)
    _heading("work, in multiply-adds", ours.total_multiply_adds, theirs.total_multiply_adds)
    for part in list(ours.multiply_adds)[1:]:
        _row(part, ours.multiply_adds[part], theirs.multiply_adds[part])
    _row("all: a forward", ours.total_multiply_adds, theirs.total_multiply_adds)
    _row("forward and backward", ours.step_multiply_adds, theirs.step_multiply_adds)
    for name, other in others.items():
        _row(f"a forward of {name}", ours.total_multiply_adds, other.total_multiply_adds)
    reading = [each.weight_bytes + each.inference_bytes for each in (ours, theirs)]
    _heading("memory of a forward, in bytes", reading[0], reading[1], unit="B")
    _row("weights", ours.weight_bytes, theirs.weight_bytes)
    _row("activations at their peak", ours.inference_bytes, theirs.inference_bytes)
    _heading("memory of training, in bytes", ours.total_training_bytes, theirs.total_training_bytes, unit="B")
    _row("weights", ours.weight_bytes, theirs.weight_bytes)
    _row("gradients, sent in every step", ours.gradient_bytes, theirs.gradient_bytes)
    _row("moments (AdamW, LAMB)", ours.moment_bytes, theirs.moment_bytes)
    _row("activations kept", ours.training_bytes, theirs.training_bytes)


def _print_measured(run: dict[str, Any], ours: Cost, theirs: Cost) -> None:
    """What a run counted, marked where that is not what was computed, and its times."""
    print("\ncounted in a run; a multiply-add is 2 FLOPs")
    counts = run["counted"]
    rows = {
        "FLOPs of a forward": (
            "flops",
            2 * ours.total_multiply_adds,
            2 * theirs.total_multiply_adds,
        ),
        "FLOPs of forward and backward": ("step_flops", 2 * ours.step_multiply_adds, 2 * theirs.step_multiply_adds),
        "bytes of activations, peak": ("inference_bytes", ours.inference_bytes, theirs.inference_bytes),
        "bytes kept for backward": ("training_bytes", ours.training_bytes, theirs.training_bytes),
    }
    for label, (key, mine, other) in rows.items():
        _row(label, counts["model"][key], counts["bert"][key])
        off = max(abs(counts["model"][key] / mine - 1), abs(counts["bert"][key] / other - 1))
        if off:
            print(f"    off what was computed by {off:.2%} at most")
    _row("peak of a step, weights aside", counts["model"]["step_peak_bytes"], counts["bert"]["step_peak_bytes"])
    machine = run["machine"]
    print(f"\ntimed, medians in ms, {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}; ratio: median "
          "and quartiles of its rounds")  # fmt: skip
    times = [(f"a forward, {name}", row) for name, row in run["seconds"].items()]
    times += [(f"one layer, B=1 T={row['tokens']}", row) for row in run["layer"]]
    for label, row in times:
        mine, other, ratio = 1e3 * row["model"]["median"], 1e3 * row["bert"]["median"], row["ratio"]
        print(f"  {label:<28}{mine:>14,.3f}{other:>14,.3f}   {ratio['median']:.2f} "
              f"({ratio['low']:.2f}..{ratio['high']:.2f})")  # fmt: skip


def _heading(text: str, ours: int, theirs: int, unit: str = "") -> None:
    print(f"{text}: {short(ours, unit)}, BERT {short(theirs, unit)}")


def _row(label: str, ours: int, theirs: int) -> None:
    ratio = f"{ours / theirs:>8.3f}" if theirs else ""
    print(f"  {label:<32}{ours:>18,}{theirs:>18,}{ratio}")
