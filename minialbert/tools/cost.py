"""What a configuration costs: parameters, work, memory, bytes to send, beside the BERT of the same shape.

Sharing saves parameters, not work: the same layers run, whoever's weights they use (Lan et al. 2020, table 2, has 18
times fewer parameters and 1.7 times the speed of BERT-large, and puts that down to communication). Computed here from
the sizes alone; count.py counts a run, tests hold the two equal; cost_measuring.py runs both models side by side.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from minialbert.config import AlbertConfig
from minialbert.errors import InputError

RELEASED = ("bert-base-uncased", "bert-large-uncased")  # what ALBERT's sizes are compared with by their users
# numbers kept around an activation for the backward pass, in widths: its input where it needs it, and its output
KEPT_BY_ACTIVATION = {"relu": 1, "tanh": 1, "linear": 1, "quick_gelu": 3}  # all others 2


@dataclass(frozen=True)
class Cost:
    """Of a model over B texts of T tokens without padding. Multiply-adds are of matrix products; one is two FLOPs."""

    parameters: dict[str, int]  # by part
    multiply_adds: dict[str, int]  # of a forward, by part; the products of the attention are in "attention"
    step_multiply_adds: int  # of a training step: forward and backward
    weight_bytes: int
    inference_bytes: int  # activations alive at the widest point of a forward in inference mode
    training_bytes: int  # activations kept for the backward pass
    gradient_bytes: int  # also what each rank sends and gets in a step
    moment_bytes: int  # the two of AdamW and LAMB

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def total_multiply_adds(self) -> int:
        return sum(self.multiply_adds.values())

    @property
    def total_training_bytes(self) -> int:
        """Weights, gradients, moments and kept activations; gradients come while activations go."""
        return self.weight_bytes + self.gradient_bytes + self.moment_bytes + self.training_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "total_parameters": self.total_parameters,
            "total_multiply_adds": self.total_multiply_adds,
            "total_training_bytes": self.total_training_bytes,
        }


def cost(
    config: AlbertConfig, batch: int = 1, length: int = 128, item_bytes: int = 4, masked: int | None = None
) -> Cost:
    """The cost of AlbertModel; with `masked`, of AlbertForPreTraining with that many masked words in each text.

    item_bytes is what a number takes, in every tensor (float32: 4); masked = length stands for words at all places.
    Activations are those of the CPU, where dropout keeps a number for each it may drop, and with dropout in the
    attention the fused kernel is not used; a padding mask would add H numbers per token and layer (a copy of the
    context). Raises InputError for what the model has no place for.
    """
    P = config.max_position_embeddings
    if batch < 1 or item_bytes < 1 or not 1 <= length <= P:
        raise InputError(f"batch={batch}, length={length}: both must be at least 1, and length at most P={P}")
    if masked is not None and not 1 <= masked <= length:
        raise InputError(f"masked={masked}: expected 1 to length={length} masked words in each text")
    parts = ["embeddings", "projection", "attention", "ffn", "pooler"] + ["mlm", "sop"] * (masked is not None)
    counts = config.count_parameters()
    parameters = {part: counts[part] for part in parts}
    work, step = _work(config, batch, length, masked)
    weights = item_bytes * sum(parameters.values())
    return Cost(
        parameters=parameters,
        multiply_adds={part: work[part] for part in parts},
        step_multiply_adds=step,
        weight_bytes=weights,
        inference_bytes=_alive(config, batch, length, item_bytes, masked),
        training_bytes=_kept(config, batch, length, item_bytes, masked),
        gradient_bytes=weights,
        moment_bytes=2 * weights,
    )


def bert_of_the_same_shape(config: AlbertConfig) -> AlbertConfig:
    """BERT with the same V, H, L, A, F, activation and dropout: embeddings H wide, a block for each layer."""
    return replace(
        config,
        embedding_size=config.hidden_size,
        num_hidden_layers=config.num_visits,
        num_hidden_groups=1,
        inner_group_num=1,
        parameter_sharing="none",
        project_embeddings=None,
        model_type="bert",
    )


# ---- the counts; E, H, F, L, A, V as everywhere, N tokens, M masked words in all texts together ----


def _work(config: AlbertConfig, B: int, T: int, masked: int | None) -> tuple[dict[str, int], int]:
    """Multiply-adds of a forward by part, and of forward and backward together."""
    E, H, F, L = config.embedding_size, config.hidden_size, config.intermediate_size, config.num_visits
    N, M = B * T, B * (masked or 0)
    products = L * 2 * N * T * H  # scores, and probs times values
    work = {
        "embeddings": 0,  # rows are looked up
        "projection": N * E * H if config.has_projection else 0,
        "attention": L * 4 * N * H * H + products,
        "ffn": L * 2 * N * H * F,
        "pooler": B * H * H,
        "mlm": M * H * E + M * E * config.vocab_size,
        "sop": 2 * B * H if masked else 0,
    }
    again = products // 2 if config.attention_probs_dropout_prob == 0 else 0  # the fused kernel builds scores anew
    return work, 3 * sum(work.values()) + again  # backward: every matrix product has two, for its two sides


def _kept(config: AlbertConfig, B: int, T: int, item: int, masked: int | None) -> int:
    """Bytes that autograd keeps of a forward, parameters and inputs not among them."""
    E, H, F, L, A = (config.embedding_size, config.hidden_size, config.intermediate_size, config.num_visits,
                     config.num_attention_heads)  # fmt: skip
    N = B * T
    drop, drop_probs = config.hidden_dropout_prob > 0, config.attention_probs_dropout_prob > 0
    around = KEPT_BY_ACTIVATION.get(config.hidden_act, 2)
    # in numbers per token: input, q, k, v, context, the sum before each LayerNorm, what the first one gives; the
    # feed-forward around its activation; mean and deviation of two LayerNorms; what dropout multiplied with
    layer = 8 * H + around * F + 2 * 2 + (1 + config.ffn_dropout) * drop * H
    attention = 3 * A * T * item if drop_probs else A * 4  # probs, noise, both multiplied; or the sum of each row
    first = E + 2 + drop * E + config.has_projection * E  # sum before the LayerNorm, and the input of the projection
    kept = N * (L * (layer * item + attention) + (first + H) * item) + B * H * item + 8 * T  # hidden L, pooled, numbers
    if masked is not None:
        M, V = B * masked, config.vocab_size
        gathered = H if masked < T else 0
        kept += M * (gathered + (around + 1) * E + 2 + V) * item  # V: the log-probabilities of the loss
        kept += 2 * B * item + (2 * B * H * item if config.sop_dropout_prob else 0)
    return kept


def _alive(config: AlbertConfig, B: int, T: int, item: int, masked: int | None) -> int:
    """Bytes of activations alive at the widest point of a forward in inference mode."""
    E, H, F, L = config.embedding_size, config.hidden_size, config.intermediate_size, config.num_visits
    N, stats = B * T, 2
    first = 0 if L == 1 else H  # hidden 0 stays until the last layer is done
    inner = {"linear": 1, "quick_gelu": 3}.get(config.hidden_act, 2)
    stages = [
        N * max(5 * E + stats, 4 * E + H if config.has_projection else 0) + 8 * T // item,  # three rows and their sums
        N * (first + 8 * H + stats),  # x, q, k, v, context, output, sum, LayerNorm
        N * (H + 4 * H + min(inner, 2) * F + stats),  # hidden 0, x, pre, inner, output, sum, LayerNorm
        N * (H + H + inner * F),
    ]
    if masked is not None:
        M = B * masked
        gathered = H if masked < T else 0
        stages.append(N * H + B * H + M * max(gathered + 2 * E + stats, E + config.vocab_size))
    return item * max(stages)


# ---- what the figures say ----


def released(batch: int = 1, length: int = 128, item_bytes: int = 4, masked: int | None = None) -> dict[str, Cost]:
    """What the two BERTs that ALBERT is mostly compared with cost; empty for texts longer than they take."""
    configs = {name: AlbertConfig.preset(name) for name in RELEASED}
    return {
        name: cost(config, batch, length, item_bytes, masked)
        for name, config in configs.items()
        if length <= config.max_position_embeddings
    }


def answers(config: AlbertConfig, ours: Cost, theirs: Cost, others: dict[str, Cost] | None = None) -> list[str]:
    """Is it faster than BERT, and is it smaller in memory? From the figures of `cost` and, in others, of `released`."""
    L = config.num_visits
    work = ours.total_multiply_adds / theirs.total_multiply_adds
    fewer = theirs.total_parameters / ours.total_parameters
    if ours.parameters == theirs.parameters:
        first = f"No, this is a BERT: each of its {L} layers has weights of its own."
    else:
        verdict = "No" if work > 0.98 else "In part"
        first = f"{verdict}: it does {work:.3f} times BERT's work, {L} layers in both, whoever's weights they use."
    if abs(work - 1) > 0.02:
        gaps = {part: count - theirs.multiply_adds[part] for part, count in ours.multiply_adds.items()}
        part = max(gaps, key=lambda name: abs(gaps[name]))
        first += (
            f" Most of the difference is in {part}: {short(abs(gaps[part]))} {'more' if gaps[part] > 0 else 'less'}."
        )
    for name, other in reversed((others or {}).items()):
        larger = other.total_parameters / ours.total_parameters
        if larger > 1 and other.total_multiply_adds < 0.9 * ours.total_multiply_adds:
            less = other.total_multiply_adds / ours.total_multiply_adds
            first += f" {name}, with {larger:.1f} times its parameters, does {less:.2f} of its work."
            break
    kept = f"{ours.training_bytes / theirs.training_bytes:.2f}"
    total = f"{ours.total_training_bytes / theirs.total_training_bytes:.2f}"
    own = ours.weight_bytes + ours.gradient_bytes + ours.moment_bytes
    item = ours.weight_bytes // ours.total_parameters
    layers = [item * (each.parameters["attention"] + each.parameters["ffn"]) for each in (ours, theirs)]
    return [
        first,
        f"Memory: {fewer:.1f} times fewer weights, {kept} times the activations. A step of training needs {total} of "
        f"BERT's bytes; its activations are {ours.training_bytes / own:.1f} times its weights, gradients and moments, "
        "and grow with the batch.",
        f"Where it can gain: gradients to send in a step, {against(ours.gradient_bytes, theirs.gradient_bytes)}; "
        f"layers to read for one short text, {against(layers[0], layers[1])}.",
    ]


def against(ours: int, theirs: int) -> str:
    """Two sizes in bytes, said as a difference or as none."""
    return f"{short(ours, 'B')} in both" if ours == theirs else f"{short(ours, 'B')} and not {short(theirs, 'B')}"


def short(number: float, unit: str = "") -> str:
    """A number as people say it: 11.7 M, 22.4 G; with the unit B in powers of 1024, as 44.6 MiB."""
    base = 1024 if unit == "B" else 1000
    for prefix in ("", "k", "M", "G", "T"):
        if number < base or prefix == "T":
            break
        number /= base
    digits = 0 if number >= 100 or not prefix else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {prefix.upper() + 'i' if prefix and base == 1024 else prefix}{unit}".rstrip()
