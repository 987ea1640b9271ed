"""The batch that a comparison is made on: random ids, types, a mask, labels; sides.py runs both models on it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minialbert.config import AlbertConfig


@dataclass(frozen=True)
class Batch:
    """Four rows of different length, the first whole; padding holds random ids too, so it is compared as hard."""

    inputs: dict[str, Tensor]  # [B, T], or [B, N, T] for choices
    labels: dict[str, Tensor]  # our names
    probe: Tensor | None  # [B, T, H], for a model without a loss: its outputs are summed up with these weights

    def to(self, where: torch.device | torch.dtype) -> "Batch":
        """On a device; or floating labels and the probe in a precision."""
        turn = where if isinstance(where, torch.dtype) else None
        labels = {k: x.to(where) if turn is None or x.is_floating_point() else x for k, x in self.labels.items()}
        inputs = self.inputs if turn is not None else {k: x.to(where) for k, x in self.inputs.items()}
        return Batch(inputs, labels, None if self.probe is None else self.probe.to(where))

    def flat(self) -> dict[str, Tensor]:
        """The inputs as the encoder sees them, [B, T]."""
        return {
            key: x.flatten(0, -2) if key != "attention_mask" or x.dim() < 4 else x for key, x in self.inputs.items()
        }


def make_batch(config: AlbertConfig, kind: str, seed: int = 0, T: int = 24) -> Batch:
    """Ids over the whole vocabulary, types, a mask, and labels for the head that `kind` names (a key of CLASSES).

    Only the padding id is left out: as an input it takes no gradient in transformers, by design.
    """
    T, B = min(T, config.max_position_embeddings), 4
    generator = torch.Generator().manual_seed(seed)

    def random(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    ids = random(config.vocab_size, B, T)
    ids[ids == config.pad_token_id] = config.vocab_size - 1
    lengths = torch.tensor([T, max(1, 2 * T // 3), max(1, T // 4), 1])
    mask = (torch.arange(T) < lengths[:, None]).long()
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": random(config.type_vocab_size, B, T)}
    labels: dict[str, Tensor] = {}
    classes = config.num_labels
    if kind in ("ForPreTraining", "ForMaskedLM", "ForTokenClassification"):
        wanted = random(classes if kind == "ForTokenClassification" else config.vocab_size, B, T)
        counted = torch.rand(B, T, generator=generator) < 0.4
        counted[0, 0] = True
        labels["labels"] = wanted.masked_fill(~counted, -100)
    if kind == "ForPreTraining":
        labels["sentence_order_label"] = torch.tensor([0, 1, 1, 0])
    if kind == "ForSequenceClassification":
        several = config.problem_type in ("regression", "multi_label_classification")
        real = torch.rand(B, classes, generator=generator)
        if config.problem_type == "multi_label_classification":
            real = real.round()
        labels["labels"] = real if several else real[:, 0] if classes == 1 else random(classes, B)
    if kind == "ForQuestionAnswering":
        labels |= {"start_positions": random(T, B), "end_positions": random(T, B)}
    if kind == "ForMultipleChoice":
        inputs = {key: x.view(2, 2, T) for key, x in inputs.items()}
        labels["labels"] = random(2, 2)
    probe = torch.randn(B, T, config.hidden_size, generator=generator) if kind == "Model" else None
    return Batch(inputs, labels, probe)


def probed(hidden: Tensor, pooled: Tensor | None, probe: Tensor) -> Tensor:
    """One number out of all outputs, so that a model without a loss has gradients too."""
    total = (hidden * probe).sum()
    return total if pooled is None else total + (pooled * probe[:, 0]).sum()


def with_inputs(batch: Batch, changes: dict[str, Tensor | None]) -> Batch:
    """The batch with some inputs [B, T] replaced, or left out where None."""
    inputs: dict[str, Tensor] = {}
    for key, x in (batch.inputs | changes).items():
        if x is not None:
            like = batch.inputs["input_ids"]
            inputs[key] = x if x.dim() == 4 else x.reshape(like.shape)
    return replace(batch, inputs=inputs)
