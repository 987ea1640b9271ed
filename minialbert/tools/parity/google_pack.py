"""Outputs and gradients recorded from Google's own code, as the other side of a comparison.

A pack is a folder: albert_config.json, weights.safetensors (the checkpoint's tensors under Google's names),
expected.safetensors (inputs and outputs), gradients.safetensors. The tolerances are absolute, two to twelve times what
other float32 implementations were measured to differ by. comparison.py has what this shares with the comparison with
transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import minialbert.convert.names as names
from minialbert.config import AlbertConfig
from minialbert.errors import FileError
from minialbert.hooks import Tap
from minialbert.tools.parity.comparison import DTYPES, Comparison
from minialbert.tools.parity.diagnose import shared_facts
from minialbert.tools.parity.probe import Batch
from minialbert.tools.parity.sides import CLASSES, Point, Points, farthest, our_points, our_tensors

TOLERANCES = {  # absolute, for numbers recorded in float32
    "embeddings.word": 1e-7, "embeddings": 3e-6, "attention.probs": 5e-7, "pooled": 2e-6, "mlm.log_probs": 5e-6,
    "sop.log_probs": 2e-6, "mlm.loss": 3e-6, "sop.loss": 2e-6, "loss": 3e-6, "gradient": 2e-6,
}  # fmt: skip
HIDDEN = 1e-5
HIDDEN_0 = 3e-6


def tolerance(point: Point) -> float:
    """What may be between ours and the recorded numbers."""
    name, layer = point
    return TOLERANCES.get(name, HIDDEN if layer else HIDDEN_0)


@dataclass(frozen=True)
class Pack:
    """A pack as the rest of the comparison speaks: our names, our points."""

    folder: Path
    config: AlbertConfig
    batch: Batch
    more: dict[str, Tensor]  # masked_positions, for the forward
    points: Points
    tensors: dict[str, Tensor]  # under our names
    gradients: dict[str, Tensor]


def read_pack(folder: str | Path) -> Pack:
    """Raises FileError when a file is missing or broken, ConfigError for a configuration that is none."""
    folder = Path(folder)
    config = AlbertConfig.from_json(folder / "albert_config.json")
    arrays = _read(folder / "expected.safetensors")
    try:
        used = arrays["masked_lm_weights"] != 0
        inputs = {name: arrays[name].long() for name in ("input_ids", "token_type_ids")}
        inputs["attention_mask"] = arrays["input_mask"].long()
        labels = {"labels": arrays["masked_lm_ids"].long().masked_fill(~used, -100),
                  "sentence_order_label": arrays["sentence_order_labels"].long()}  # fmt: skip
        more = {"masked_positions": arrays["masked_lm_positions"].long()}
    except KeyError as error:
        raise FileError(f"{folder / 'expected.safetensors'}: has no {error}; is it a whole pack?") from None
    batch = Batch(inputs, labels, None)
    tensors = _in_our_names(_read(folder / "weights.safetensors"), config)
    gradients = _in_our_names(_read(folder / "gradients.safetensors"), config)
    return Pack(folder, config, batch, more, _points(arrays), tensors, gradients)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path}: cannot be read ({error}); a pack needs it") from None


def _in_our_names(tensors: Mapping[str, Tensor], config: AlbertConfig) -> dict[str, Tensor]:
    to_ours = names.expand(config, "google")
    turned = {name: x.T if name.endswith("/kernel") else x for name, x in tensors.items()}
    return {to_ours[name]: x for name, x in turned.items() if name in to_ours}


def _points(arrays: Mapping[str, Tensor]) -> Points:
    points: Points = {}
    alone = {
        "word_embedding_output": "embeddings.word", "embedding_output": "embeddings",
        "embedding_hidden_mapping_in_output": "hidden", "pooled_output": "pooled",
        "masked_lm_log_probs": "mlm.log_probs", "sentence_order_log_probs": "sop.log_probs",
        "masked_lm_loss": "mlm.loss", "sentence_order_loss": "sop.loss", "total_loss": "loss",
    }  # fmt: skip
    for key, x in arrays.items():
        name, _, number = key.rpartition(".")
        if key in alone:
            points[alone[key], 0] = x.reshape(()) if key.endswith("_loss") else x
        elif name == "all_encoder_layers":
            points["hidden", int(number) + 1] = x
        elif name == "attention_probs":
            points["attention.probs", int(number) + 1] = x
    return points


def our_pack_points(model: Any, pack: Pack, batch: Batch, tap: Tap | None = None, **more: Any) -> tuple[Points, Tensor]:
    """Our forward with Google's losses: the mean over masked words divides by their number + 1e-5 there."""
    more |= {key: x.to(model.device) for key, x in pack.more.items()}
    kept, _ = our_points(model, replace(batch, labels={}), tap, **more)
    out = model(**batch.inputs, **more, **batch.labels)
    count = (batch.labels["labels"] != -100).sum()
    words = out.mlm_loss * count / (count + 1e-5)
    kept["mlm.log_probs", 0] = kept["mlm.logits", 0].log_softmax(-1).flatten(0, 1)
    kept["sop.log_probs", 0] = kept["sop.logits", 0].log_softmax(-1)
    total = words + out.sop_loss
    for name, loss in (("mlm.loss", words), ("sop.loss", out.sop_loss), ("loss", total)):
        kept[name, 0] = loss.detach().cpu()
    return kept, total


class AgainstPack(Comparison):
    """Theirs is a folder of recorded numbers."""

    def __init__(
        self, path: str | Path, place: str | Path, kinds: tuple[str, ...], allowed: float | None,
        device: str | torch.device,
    ):  # fmt: skip
        super().__init__(path, kinds, allowed, device, f"Google's code, recorded in {place}")
        self.pack = read_pack(place)

    def run(self, gradients: bool) -> None:
        mine: Any = CLASSES["ForPreTraining"]
        self.model = mine.from_pretrained(self.path, dtype=torch.float64)
        self.report.model = f"AlbertForPreTraining, {sum(p.numel() for p in self.model.parameters()):,} parameters"
        self.report.skipped.append("tokenizer: a pack has none")
        self.compare_facts(shared_facts(self.model.config.to_json(), self.pack.config.to_json()))
        self.told_facts()
        own, theirs = our_tensors(self.model), {name: x.double() for name, x in self.pack.tensors.items()}
        self.compare_tensors(own, theirs)
        if self.can_run(own, theirs):
            for kind in self.kinds:
                self.compare(kind, gradients)

    def allowed(self, point: Point) -> float:
        return tolerance(point) if self.tolerance is None else self.tolerance

    def compare(self, kind: str, gradients: bool) -> None:
        self.model.to(DTYPES[kind]).to(self.device)
        ours, loss = our_pack_points(self.model, self.pack, self.pack.batch.to(self.device))
        for point, x in self.pack.points.items():
            self.measure("forward", point, kind, farthest(ours[point], x), self.allowed(point))
        if gradients:
            loss.backward()
            for name, p in our_tensors(self.model).items():
                x = self.pack.gradients[name]
                mine = torch.zeros_like(x) if p.grad is None else p.grad.cpu()
                self.measure("gradients", (name, 0), kind, farthest(mine, x), self.allowed(("gradient", 0)))
            self.model.zero_grad(set_to_none=True)
        self.model.cpu()
        theirs = {point: x.to(DTYPES[kind]) for point, x in self.pack.points.items()}
        self.ask_why(kind, self.pack.batch, theirs, self.allowed, self.whole)
        if not self.first("forward"):
            self.find("gradients", None)

    def whole(self, batch: Batch, tap: Tap, **more: Any) -> Points:
        return our_pack_points(self.model, self.pack, batch, tap, **more)[0]
