"""Commands about models: inspect, cost."""

import argparse
import dataclasses
import json
from pathlib import Path

from minialbert.config import PRESETS, AlbertConfig
from minialbert.errors import InputError
from minialbert.tools.cost import bert_of_the_same_shape, cost
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
        "cost", help="parameters, multiply-adds, activation bytes, beside BERT",
        description="What a configuration costs, beside the BERT of the same shape.",
        epilog="example: minialbert cost albert-base-v2 --batch 8 --length 128",
    )  # fmt: skip
    price.add_argument("model", metavar="MODEL", help="a preset's name, a directory, or a config.json")
    price.add_argument("--batch", type=int, default=1, metavar="B", help="texts")
    price.add_argument("--length", type=int, default=128, metavar="T", help="tokens of each text")
    price.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
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
    if given.batch < 1 or given.length < 1:
        raise InputError(f"--batch {given.batch} --length {given.length}: both must be at least 1")
    path = Path(given.model)
    if given.model in PRESETS or not path.exists():
        config = AlbertConfig.preset(given.model)
    else:
        config = AlbertConfig.from_json(path / "config.json" if path.is_dir() else path)
    size = 4 if given.dtype == "float32" else 2
    bert = bert_of_the_same_shape(config)
    ours, theirs = (cost(c, given.batch, given.length, size) for c in (config, bert))
    if given.json:
        print(json.dumps({"model": dataclasses.asdict(ours), "bert": dataclasses.asdict(theirs)}, indent=2))
        return 0
    print(f"{given.model}: {_sizes(config)}; B={given.batch} T={given.length} {given.dtype}")
    print(f"{'':<34}{'this model':>18}{'BERT, same shape':>18}{'ratio':>8}")
    rows: list[tuple[str, int, int]] = []
    for part in ours.parameters:
        rows.append((f"parameters, {part}", ours.parameters[part], theirs.parameters[part]))
    rows.append(("parameters", ours.total_parameters, theirs.total_parameters))
    for part in ("projection", "attention", "ffn", "pooler"):
        rows.append((f"multiply-adds, {part}", ours.multiply_adds[part], theirs.multiply_adds[part]))
    rows.append(("multiply-adds", ours.total_multiply_adds, theirs.total_multiply_adds))
    rows.append(("bytes of weights", ours.weight_bytes, theirs.weight_bytes))
    rows.append(("activation bytes, inference", ours.inference_bytes, theirs.inference_bytes))
    rows.append(("activation bytes, training", ours.training_bytes, theirs.training_bytes))
    for name, a, b in rows:
        print(f"{name:<34}{a:>18,}{b:>18,}{f'{a / b:.3f}' if b else '':>8}")
    return 0
