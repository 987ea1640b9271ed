"""What is trained on top of the encoder: masked words, sentence order, and the heads of the usual tasks.

The encoder is model.py. Every class here takes what AlbertModel takes, and labels; every loss is returned by itself
and summed. A loss that counts nothing is 0, not NaN, and still has a gradient (zero). Labels of -100 are not counted.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.errors import InputError
from minialbert.model import ACTIVATIONS, AlbertModel, describe, initialize, no_tap
from minialbert.pretrained import Pretrained

IN_ORDER, SWAPPED = 0, 1  # labels of the sentence-order task
IGNORED = -100


def mean_cross_entropy(logits: Tensor, labels: Tensor, ignored: int = IGNORED) -> Tensor:
    """Mean cross entropy over the labels that count; 0 when none does. logits [..., C], labels [...]."""
    if labels.shape != logits.shape[:-1]:
        raise InputError(f"labels are {list(labels.shape)}, expected {list(logits.shape[:-1])}")
    if labels.is_floating_point():
        raise InputError(f"labels are {labels.dtype}, expected whole numbers: the class of each")
    try:
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignored, reduction="sum")
    except IndexError:
        low, high, C = int(labels.min()), int(labels.max()), logits.shape[-1]
        raise InputError(
            f"labels run from {low} to {high}, there are classes 0..{C - 1} ({ignored} is not counted)"
        ) from None
    return total / (labels != ignored).sum().clamp(min=1)


class MLMHead(nn.Module):
    """Which word stood here: H to E, activation, LayerNorm, then the word table itself as output matrix, and a bias.

    The table is an argument of the call, not a copy, so the two cannot come apart (section 3.1; kept from BERT).
    """

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        self.dense = nn.Linear(cfg.hidden_size, cfg.embedding_size)
        self.act = ACTIVATIONS[cfg.hidden_act]
        self.norm = nn.LayerNorm(cfg.embedding_size, eps=cfg.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))

    def forward(self, x: Tensor, table: Tensor, positions: Tensor | None = None, tap=no_tap) -> Tensor:
        if positions is not None:  # the same numbers for less work
            x = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))  # [B, M, H]
        x = self.norm(self.act(self.dense(x)))  # [B, M, E]
        return tap("mlm.logits", 0, F.linear(x, table, self.bias))  # [B, M, V]


class SOPHead(nn.Module):
    """Idea 3 of 3: are two segments IN_ORDER = 0 or SWAPPED = 1 (section 3.1); the pairs are made in pretrain/sop.py.

    It takes the place of BERT's next sentence prediction, which topic alone gives away. Two outputs, always; in a BERT
    checkpoint they are the next-sentence logits (0: B follows A, 1: B is random).
    """

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        self.drop = nn.Dropout(cfg.sop_dropout_prob)
        self.classifier = nn.Linear(cfg.hidden_size, 2)

    def forward(self, pooled: Tensor, tap=no_tap) -> Tensor:
        return tap("sop.logits", 0, self.classifier(self.drop(pooled)))  # [B, 2]


class PreTrainingOutput(NamedTuple):
    """loss = mlm_loss + sop_loss of those whose labels were given; prediction_logits [B, T, V], sop_logits [B, 2]."""

    loss: Tensor | None
    mlm_loss: Tensor | None
    sop_loss: Tensor | None
    prediction_logits: Tensor
    sop_logits: Tensor

    def __repr__(self) -> str:
        return describe(self)


class TaskOutput(NamedTuple):
    """loss (None without labels) and logits, whose shape the class says."""

    loss: Tensor | None
    logits: Tensor

    def __repr__(self) -> str:
        return describe(self)


class AnswerOutput(NamedTuple):
    """loss (None without positions), start_logits and end_logits [B, T]."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor

    def __repr__(self) -> str:
        return describe(self)


class _WithHead(Pretrained, nn.Module):
    """An encoder called `albert`, and what a subclass puts on top."""

    needs_pooler = True

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.config = config
        self.albert = AlbertModel(config, pooler=self.needs_pooler)

    def add(self, head: nn.Module) -> nn.Module:
        head.apply(lambda module: initialize(module, self.config.initializer_range))
        return head

    def labels(self, labels) -> Tensor | None:
        return None if labels is None else torch.as_tensor(labels, device=self.device)


def encoder_of(model: nn.Module) -> AlbertModel:
    """The encoder inside any class of ours; an AlbertModel is its own. Raises InputError for a stranger."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    inside: Any = model.albert if isinstance(model, _WithHead) else model
    if not isinstance(inside, AlbertModel):
        raise InputError(f"a {type(model).__name__} has no encoder of ours in it, expected AlbertModel or AlbertFor...")
    return inside


class AlbertForPreTraining(_WithHead):
    """Masked words and sentence order, the two tasks ALBERT is trained on."""

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.mlm = self.add(MLMHead(config))
        self.sop = self.add(SOPHead(config))

    def forward(
        self, *inputs, labels=None, sentence_order_label=None, masked_positions=None, tap=no_tap, **more
    ) -> PreTrainingOutput:
        """labels [B, T], -100 where no word is asked for; sentence_order_label [B].

        With masked_positions [B, M] the word logits are [B, M, V] and labels [B, M]: the same numbers, less work.
        """
        hidden, pooled = self.albert(*inputs, tap=tap, **more)
        words = self.mlm(hidden, self.albert.embeddings.word.weight, self.labels(masked_positions), tap)
        order = self.sop(pooled, tap)  # [B, 2]
        mlm_loss = sop_loss = None
        if (labels := self.labels(labels)) is not None:
            mlm_loss = mean_cross_entropy(words, labels)
        if (order_labels := self.labels(sentence_order_label)) is not None:
            sop_loss = mean_cross_entropy(order, order_labels.flatten())
        losses = [loss for loss in (mlm_loss, sop_loss) if loss is not None]
        total = torch.stack(losses).sum() if losses else None
        return PreTrainingOutput(total, mlm_loss, sop_loss, words, order)


class AlbertForMaskedLM(_WithHead):
    """Masked words alone; logits [B, T, V]."""

    needs_pooler = False

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.mlm = self.add(MLMHead(config))

    def forward(self, *inputs, labels=None, masked_positions=None, tap=no_tap, **more) -> TaskOutput:
        """labels [B, T], -100 where no word is asked for; masked_positions [B, M] as in AlbertForPreTraining."""
        hidden, _ = self.albert(*inputs, tap=tap, **more)
        logits = self.mlm(hidden, self.albert.embeddings.word.weight, self.labels(masked_positions), tap)
        labels = self.labels(labels)
        return TaskOutput(None if labels is None else mean_cross_entropy(logits, labels), logits)


class _Classifier(_WithHead):
    """Dropout and one map from H to the classes."""

    def __init__(self, config: AlbertConfig, outputs: int | None = None):
        super().__init__(config)
        self.drop = nn.Dropout(config.head_dropout)
        self.classifier = self.add(nn.Linear(config.hidden_size, outputs or config.num_labels))


class AlbertForSequenceClassification(_Classifier):
    """One answer for a text or a pair; logits [B, C].

    The loss follows config.problem_type; without one, C = 1 is a regression (mean squared error), whole numbers as
    labels are one class each (cross entropy), others several classes each (binary cross entropy).
    """

    def forward(self, *inputs, labels=None, tap=no_tap, **more) -> TaskOutput:
        _, pooled = self.albert(*inputs, tap=tap, **more)
        logits = self.classifier(self.drop(pooled))  # [B, C]
        labels = self.labels(labels)
        return TaskOutput(None if labels is None else self.loss(logits, labels), logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind == "regression" or (kind is None and self.config.num_labels == 1):
            if labels.numel() != logits.numel():
                raise InputError(f"labels are {list(labels.shape)}, a regression needs {list(logits.shape)}")
            return F.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            if labels.shape != logits.shape:
                raise InputError(f"labels are {list(labels.shape)}, several classes each need {list(logits.shape)}")
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return mean_cross_entropy(logits, labels.flatten())


class AlbertForTokenClassification(_Classifier):
    """A class for each token; logits [B, T, C], labels [B, T]."""

    needs_pooler = False

    def forward(self, *inputs, labels=None, tap=no_tap, **more) -> TaskOutput:
        hidden, _ = self.albert(*inputs, tap=tap, **more)
        logits = self.classifier(self.drop(hidden))  # [B, T, C]
        labels = self.labels(labels)
        return TaskOutput(None if labels is None else mean_cross_entropy(logits, labels), logits)


class AlbertForQuestionAnswering(_WithHead):
    """Where an answer starts and ends: one map from H to two numbers for each token, no dropout."""

    needs_pooler = False

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.qa = self.add(nn.Linear(config.hidden_size, 2))

    def forward(self, *inputs, start_positions=None, end_positions=None, tap=no_tap, **more) -> AnswerOutput:
        """Positions [B] of the first and last token of the answer; those past the input are not counted.

        Negative positions count as 0, as in Hugging Face. The loss is the mean of both cross entropies.
        """
        hidden, _ = self.albert(*inputs, tap=tap, **more)
        start, end = self.qa(hidden).unbind(-1)  # [B, T]
        if (start_positions is None) != (end_positions is None):
            raise InputError("give both start_positions and end_positions, or neither")
        if start_positions is None:
            return AnswerOutput(None, start, end)
        first, last = (torch.as_tensor(p, device=self.device).flatten() for p in (start_positions, end_positions))
        T = start.shape[1]  # also the label that is not counted
        start_loss = mean_cross_entropy(start, first.clamp(0, T), ignored=T)
        end_loss = mean_cross_entropy(end, last.clamp(0, T), ignored=T)
        return AnswerOutput((start_loss + end_loss) / 2, start, end)


class AlbertForMultipleChoice(_Classifier):
    """Which of N choices: inputs [B, N, T] are run as B N texts, one number each; logits [B, N], labels [B]."""

    def __init__(self, config: AlbertConfig):
        super().__init__(config, outputs=1)

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        *, labels=None, tap=no_tap, depth: int | None = None,
    ) -> TaskOutput:  # fmt: skip
        inputs = [input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds]
        inputs = [x if x is None else torch.as_tensor(x, device=self.device) for x in inputs]
        B, N = next((x.shape[:2] for x in (inputs[0], inputs[4]) if x is not None and x.dim() > 2), (0, 0))
        if not N:
            raise InputError("input_ids must be [B, N, T]: N choices for each of B questions")
        _, pooled = self.albert(*(x if x is None else x.flatten(0, 1) for x in inputs), tap=tap, depth=depth)
        logits = self.classifier(self.drop(pooled)).view(B, N)  # [B, N]
        labels = self.labels(labels)
        return TaskOutput(None if labels is None else mean_cross_entropy(logits, labels.flatten()), logits)
