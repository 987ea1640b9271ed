"""What happens at each visit of the block, as arrays: maps, distances, guesses, importances. plots.py draws them.

Every function takes (model, batch): any class of model.py or heads.py, and what its tokenizer gives, one text or
several. Dropout is off while looking, and the model is left as it was. What comes back are tensors on the CPU, the
statistics in float64. Layers are counted as in hooks.py: hidden 0 is the input of the first visit, hidden l the output
of visit l, l = 1..L. Padding never counts; [CLS] and [SEP] do. `depth` cuts the visits short, or goes on past L where
one block is all there is.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minialbert.edits import zero_ablate
from minialbert.errors import InputError
from minialbert.heads import IGNORED, encoder_of
from minialbert.hooks import Numbers, Recorder, chain

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")  # what the encoder takes
ALIKE = 0.95  # mean cosine from which positions count as one


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Dropout off and no graph inside, every module's own mode back afterwards.

    no_grad, not inference_mode: what was seen can go into a graph of the reader's later.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the encoder takes of a batch, labels left out; N choices for each of B questions are B N texts."""
    if not isinstance(batch, Mapping):
        raise InputError(f"a {type(batch).__name__} is no batch, expected what the tokenizer gives: tokenizer([text])")
    inputs = {name: batch[name] for name in INPUTS if name in batch and batch[name] is not None}
    for name, values in inputs.items():
        tensor = torch.as_tensor(values)
        inputs[name] = tensor.flatten(0, 1) if tensor.dim() == (4 if name == "inputs_embeds" else 3) else tensor
    return inputs


def hidden_states(model: nn.Module, batch: Mapping[str, Any], depth: int | None = None) -> tuple[list[Tensor], Tensor]:
    """hidden[0..L], each [B, T, H] as the model made it, and which tokens are real, bool [B, T] on the CPU.

    Raises InputError for a batch without a real token, or whose mask is not one number a token.
    """
    tape, inputs = Recorder("hidden"), inputs_of(batch)
    with looking(model):
        encoder_of(model)(**inputs, tap=tape, depth=depth)
    hidden = [tape["hidden", layer] for layer in range(len(tape))]
    return hidden, real_tokens(inputs, *hidden[0].shape[:2])


def real_tokens(inputs: dict[str, Tensor], B: int, T: int) -> Tensor:
    mask = inputs.get("attention_mask", torch.ones(B, T)).cpu() != 0
    if mask.shape != (B, T):
        raise InputError(f"attention_mask is {list(mask.shape)}, expected [{B}, {T}]: here it says which tokens count")
    if not mask.any():
        raise InputError("attention_mask is 0 everywhere, expected at least one real token")
    return mask


# ---- where heads look ----


def attention_maps(
    model: nn.Module, batch: Mapping[str, Any], layers: Numbers = None, heads: Numbers = None, depth: int | None = None
) -> list[Tensor]:  # fmt: skip
    """attention.probs of layers 1..L (or of `layers`, `heads`), each [B, A, T, T]: query by key, rows sum to 1.

    At a padded key they are exactly 0. For one text this list is what bertviz takes: head_view(maps, tokens).
    Raises InputError for layers or heads that do not exist.
    """
    tape = Recorder("attention.probs", layers=layers, heads=heads)
    with looking(model):
        encoder_of(model)(**inputs_of(batch), tap=tape, depth=depth)
    if missing := [layer for layer in tape.layers or () if ("attention.probs", layer) not in tape]:
        raise InputError(f"layers {missing}: this run has attention at layers 1..{len(visits(model, depth))}")
    return [exact(tape[key]) for key in tape]


def exact(x: Tensor) -> Tensor:
    """On the CPU, float32 at least."""
    return x.cpu() if x.dtype == torch.float64 else x.float().cpu()


def visits(model: nn.Module, depth: int | None = None) -> list[tuple[int, int]]:
    """The sharing plan of a run: which attention and which feed-forward weights each layer uses."""
    return encoder_of(model).encoder.visits(depth)


def attention_rollout(maps: Sequence[Tensor] | Tensor, fuse: str = "mean") -> Tensor:
    """How much of each input position could have reached each position by layer l: [L, B, T, T], rows sum to 1.

    maps: [B, A, T, T] for each layer (heads are fused: mean, max or min) or [B, T, T]. Half of every layer is taken to
    be its residual connection: 0.5 A + 0.5 I, rows renormalised, multiplied from the bottom up.
    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3.
    """
    fusions: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x.mean(1), "max": lambda x: x.amax(1), "min": lambda x: x.amin(1),
    }  # fmt: skip
    if fuse not in fusions:
        raise InputError(f"fuse={fuse!r} must be one of {', '.join(fusions)}")
    if not len(maps):
        raise InputError("no map in the list: give those of layers 1..L")
    steps: list[Tensor] = []
    for layer in maps:
        x = layer.double()
        x = fusions[fuse](x) if x.dim() == 4 else x  # [B, T, T]
        x = 0.5 * x + 0.5 * torch.eye(x.shape[-1], dtype=x.dtype)
        x = x / x.sum(-1, keepdim=True)
        steps.append(x @ steps[-1] if steps else x)
    return torch.stack(steps)


# ---- how far a visit moves its tokens ----


class Distances(NamedTuple):
    """Means over the real tokens, float64. [L], entry l - 1 between hidden[l - 1] and hidden[l]; or [L+1, L+1]."""

    l2: Tensor
    cosine: Tensor
    degrees: Tensor


def distances(a: Tensor, b: Tensor) -> Distances:
    """Between vectors that belong together, a and b [N, H]: three numbers, each a mean over N.

    The angle is 2 atan2(|u - v|, |u + v|) of the unit vectors (Kahan), exact where arc cosine is not: near 0 and 180.
    """
    u, v = unit(a), unit(b)
    angles = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))
    return Distances((a - b).norm(dim=-1).mean(), (u * v).sum(-1).mean(), torch.rad2deg(angles).mean())


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def layer_distances(model: nn.Module, batch: Mapping[str, Any], depth: int | None = None) -> Distances:
    """What each visit changes: between its input hidden[l - 1] and its output hidden[l], l = 1..depth, three of [L].

    Figure 1 of Lan et al. 2020: "the L2 distances and cosine similarity (in terms of degree) of the input and output
    embedding of each layer". With a shared block `depth` may go beyond L: does it settle?
    """
    x = real_vectors(model, batch, depth)  # [L+1, N, H]
    return Distances(*map(torch.stack, zip(*map(distances, x[:-1], x[1:]), strict=True)))


def pairwise_distances(model: nn.Module, batch: Mapping[str, Any], depth: int | None = None) -> Distances:
    """Between every two layers 0..L: three of [L+1, L+1], symmetric."""
    x = real_vectors(model, batch, depth)  # [L+1, N, H]
    rows = [Distances(*map(torch.stack, zip(*(distances(a, b) for b in x), strict=True))) for a in x]
    return Distances(*map(torch.stack, zip(*rows, strict=True)))


def real_vectors(model: nn.Module, batch: Mapping[str, Any], depth: int | None) -> Tensor:
    """The hidden states of all real tokens, float64 [L+1, N, H]."""
    if depth == 0:
        raise InputError("depth=0 visits no layer, expected at least 1")
    hidden, real = hidden_states(model, batch, depth)
    return torch.stack([x.cpu()[real].double() for x in hidden])


class TokenPath(NamedTuple):
    """points [L+1, T, 2], one path a real token; share [2], the part of the variance that each axis shows."""

    points: Tensor
    share: Tensor


def token_path(model: nn.Module, batch: Mapping[str, Any], row: int = 0, depth: int | None = None) -> TokenPath:
    """Where the tokens of one text go from visit to visit, on the plane that shows most of it.

    The plane is the one of the first two principal components of all T (L + 1) hidden states of that text, so that
    every layer is drawn on the same axes. Signs are fixed: on each axis the farthest point has a positive coordinate.
    """
    hidden, real = hidden_states(model, batch, depth)
    if not -len(real) <= row < len(real):
        raise InputError(f"row={row}: the batch has rows 0..{len(real) - 1}")
    if not real[row].any():
        raise InputError(f"row {row} has no real token, there is nothing to follow")
    x = torch.stack([layer[row].cpu()[real[row]].double() for layer in hidden])  # [L+1, T, H]
    flat = x.flatten(0, 1)  # [(L+1) T, H]
    flat = flat - flat.mean(0)
    _, sizes, axes = torch.linalg.svd(flat, full_matrices=False)
    points = flat @ axes[:2].T
    points = points * points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
    share = sizes[:2] ** 2 / (sizes**2).sum().clamp_min(torch.finfo(sizes.dtype).tiny)
    missing = 2 - len(share)  # a width of 1 has one axis
    points, share = nn.functional.pad(points, (0, missing)), nn.functional.pad(share, (0, missing))
    return TokenPath(points.view(*x.shape[:2], 2), share)


# ---- whether positions become one ----


class Similarity(NamedTuple):
    """Mean cosines at layers 0..L, float64 [L+1] each; nan where there are no two to compare."""

    positions: Tensor  # between different real tokens of one text
    first: Tensor  # between the first tokens, [CLS], of different texts
    mean: Tensor  # between the mean vectors of different texts


def position_similarity(model: nn.Module, batch: Mapping[str, Any], depth: int | None = None) -> Similarity:
    """How alike the vectors of one text are at each layer, and how alike texts are; at 1 a layer tells none apart."""
    hidden, real = hidden_states(model, batch, depth)
    columns = []
    for x in hidden:
        texts = [vectors[kept] for vectors, kept in zip(x.cpu().double(), real, strict=True) if kept.any()]
        within = torch.stack([mean_cosine(text) for text in texts]).nanmean()
        first = mean_cosine(torch.stack([text[0] for text in texts]))
        columns.append((within, first, mean_cosine(torch.stack([text.mean(0) for text in texts]))))
    return Similarity(*map(torch.stack, zip(*columns, strict=True)))


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows of x [N, H]; nan for a single row.

    The squared length of the sum of unit vectors holds every cosine twice, and each vector with itself once.
    """
    u, N = unit(x), len(x)
    return (u.sum(0).square().sum() - u.square().sum()) / (N * (N - 1)) if N > 1 else torch.tensor(math.nan).to(x)


def collapsed_from(similarity: Similarity, threshold: float = ALIKE) -> int | None:
    """The first layer from which on, up to the last, the positions of a text are alike; None when they never are."""
    alike = [value >= threshold for value in similarity.positions.tolist()]
    return None if not alike[-1] else max((l for l, yes in enumerate(alike) if not yes), default=-1) + 1


def collapse_alarm(similarity: Similarity, threshold: float = ALIKE) -> str:
    """That in one line, for a log: which layer, and by how much."""
    layer, values = collapsed_from(similarity, threshold), similarity.positions.tolist()
    if layer is None:
        told = f"at the last layer, {len(values) - 1}, the mean cosine between positions is {values[-1]:.3f}"
        return f"no collapse: {told} (alarm at {threshold:g})"
    return (
        f"collapse: from layer {layer} of {len(values) - 1} on all positions of a text are alike, "
        f"mean cosine {values[layer]:.3f} there and {values[-1]:.3f} at the end (alarm at {threshold:g})"
    )


# ---- what the model would say at each layer ----


class Lens(NamedTuple):
    """The head for masked words asked at K layers. Ranks count from 1, the likeliest; 0 (and nan) without a target."""

    layers: list[int]
    ids: Tensor  # [K, B, T, top], likeliest first
    probabilities: Tensor  # [K, B, T, top]
    target_probability: Tensor | None  # [K, B, T]
    target_rank: Tensor | None  # [K, B, T]
    logits: list[Tensor] | None  # [B, T, V] for each layer, when asked for


def logit_lens(
    model: nn.Module, batch: Mapping[str, Any], top: int = 5, target: Any = None, layers: Iterable[int] | None = None,
    depth: int | None = None, keep_logits: bool = False,
) -> Lens:  # fmt: skip
    """The MLM head applied to hidden[l], l = 0..L: which word each visit would give, and how sure.

    At layer L these are the model's own logits, bit for bit. target is one id, or ids [B, T] (-100: none). One layer
    is worked on at a time: [B, T, V] numbers, and top of V kept, unless keep_logits.
    Raises InputError for a model without that head, a layer that does not exist, a target of another shape.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens". ALBERT's visits share one block, and the head was
    trained on the last one only: what an earlier layer "says" is how near it already is to that.
    """
    head, table = getattr(model, "mlm", None), encoder_of(model).embeddings.word.weight
    if head is None:
        raise InputError(
            f"{type(model).__name__} has no head for masked words to ask at each layer; "
            "take an AlbertForMaskedLM or AlbertForPreTraining (minialbert.tools.ask.load_with_heads)"
        )
    if not 1 <= top <= len(table):
        raise InputError(f"top={top} must be from 1 to {len(table)}, the rows of the word table")
    hidden, _ = hidden_states(model, batch, depth)
    layers = list(range(len(hidden)) if layers is None else layers)
    if bad := [layer for layer in layers if not 0 <= layer < len(hidden)]:
        raise InputError(f"layers {bad}: this run has layers 0..{len(hidden) - 1}")
    wanted = None if target is None else checked_target(target, hidden[0].shape[:2], len(table))
    best, logits = [], []
    for layer in layers:
        with looking(model):
            scores = head(hidden[layer], table)  # [B, T, V]
        best.append(best_of(scores, top, wanted))
        logits += [scores.cpu()] if keep_logits else []
    kept = [torch.stack(column) for column in zip(*best, strict=True)]
    chances, ranks = kept[2:] or (None, None)
    return Lens(layers, kept[0], kept[1], chances, ranks, logits if keep_logits else None)


def checked_target(target: Any, shape: Sequence[int], V: int) -> Tensor:
    wanted = torch.as_tensor(target).cpu()
    if wanted.is_floating_point() or wanted.shape not in ((), tuple(shape)):
        raise InputError(f"target is {list(wanted.shape)} {wanted.dtype}, expected one id or ids {list(shape)}")
    if not ((wanted == IGNORED) | ((wanted >= 0) & (wanted < V))).all():
        raise InputError(f"target runs from {wanted.min()} to {wanted.max()}, the word table has rows 0..{V - 1}")
    return wanted.expand(*shape)


def best_of(scores: Tensor, top: int, wanted: Tensor | None) -> list[Tensor]:
    """Of logits [B, T, V]: the top ids, their probabilities; of the wanted ids [B, T], if any, probability and rank."""
    scores = exact(scores)
    best, ids = scores.topk(top)
    total = scores.logsumexp(-1, keepdim=True)
    if wanted is None:
        return [ids, (best - total).exp()]
    none, place = wanted == IGNORED, wanted.clamp_min(0)[..., None]
    score = scores.gather(-1, place)
    chance, rank = (score - total).exp()[..., 0], (scores > score).sum(-1) + 1
    return [ids, (best - total).exp(), chance.masked_fill(none, math.nan), rank.masked_fill(none, 0)]


# ---- what a head is worth at a visit ----


class Importance(NamedTuple):
    """What changes when one head is silent at one visit: [L, A] each, float64, entry [l - 1, a]; 0 changes nothing."""

    change: Tensor  # |h' - h| / |h| of the last hidden state, mean over real tokens
    divergence: Tensor | None  # KL(p || p') of the word distributions in nats, mean over the same; with an MLM head
    metric: Tensor | None  # metric(output') - metric(output)


def head_importance(
    model: nn.Module, batch: Mapping[str, Any], metric: Callable[[Any], Any] | None = None, depth: int | None = None
) -> Importance:
    """Silence each head at each visit, there only, and measure what the output becomes: L A + 1 forward passes.

    A head is silent when its context, what it hands on, is zero. One shared block gives L different rows: the same
    weights matter more at one visit than at another. metric is any function of the model's output, such as its loss
    when the batch has labels. With an MLM head three [N, V] float64 stand in memory: N real tokens, so give few texts.
    Source: the idea is that of Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?", section 3.
    """
    plan, A = visits(model, depth), encoder_of(model).config.num_attention_heads
    last = len(plan)

    def run(*taps) -> tuple[Tensor, Tensor | None, float]:
        tape = Recorder("hidden", "mlm.logits", layers=[0, last])
        output = model(**batch, tap=chain(*taps, tape), depth=depth)
        hidden = tape["hidden", last].cpu()
        real = real_tokens(inputs_of(batch), *hidden.shape[:2])
        words = tape["mlm.logits"].cpu() if ("mlm.logits", 0) in tape else None
        if words is not None:  # [B, M, V] where the batch says which positions are masked
            words = (words[real] if words.shape[:2] == real.shape else words.flatten(0, 1)).double().log_softmax(-1)
        return hidden[real].double(), words, math.nan if metric is None else float(metric(output))

    if not last:
        raise InputError("depth=0 visits no layer, expected at least 1")
    rows = []
    with looking(model):
        hidden, words, value = run()
        for layer in range(1, last + 1):
            for head in range(A):
                h, w, v = run(zero_ablate("attention.context", layer, heads=head))
                change = ((h - hidden).norm(dim=-1) / hidden.norm(dim=-1)).mean().item()
                divergence = math.nan
                if words is not None and w is not None:
                    divergence = (words.exp() * (words - w)).sum(-1).mean().clamp_min(0).item()
                rows.append((change, divergence, v - value))
    table = torch.tensor(rows, dtype=torch.float64).view(last, A, 3).unbind(-1)
    return Importance(table[0], None if words is None else table[1], None if metric is None else table[2])
