"""The encoder of model.py laid out to run over a corpus: the same mathematics, held equal to it by test.

Texts are laid end to end without padding, so nothing is computed for tokens that are not there: N tokens of all texts
together instead of B x T. Query, key and value are one product. Texts of one length that stand beside each other
attend as one batch, which needs no mask. What the products write into is allocated once for all layers, and no bias is
added inside a product, which is slow in bfloat16. Nobody needs this file to understand the model.

    N tokens of all texts, end to end; the other letters as in model.py
"""

import math
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minialbert.errors import InputError
from minialbert.model import ACTIVATIONS, AlbertModel, Attention, FeedForward

CACHED = 1 << 17  # numbers that a thread works on at a time, few enough to stay in its cache
FEW = 64  # tokens: for no more than these a product on a CPU, but for bfloat16, is faster with the weight on its left


class Space(NamedTuple):
    """What every layer writes into anew: qkv [N, 3 H]; context and sum, before a LayerNorm, [N, H]; inner [N, F]."""

    qkv: Tensor
    context: Tensor
    sum: Tensor
    inner: Tensor


class PackedEncoder:
    """Runs an AlbertModel in eval mode over texts laid end to end.

    The weights of query, key and value are copied here into one matrix for each attention, anew whenever they have
    changed (but through `.data`, where torch does not see it); the others are read where they are. Modules that stand
    in for Linear are not called.
    Of the three biases only the query's is added to N rows: the key's adds one number to all scores of a query, which
    the softmax takes out again, and as the shares of a query sum to 1, the value's goes through attention as it is,
    into the bias of the output map.
    """

    def __init__(self, model: AlbertModel):
        self.model = model
        self.seen: list[tuple[Tensor, int]] = []  # the weights of every attention, and their versions, when joined
        self.join()

    def join(self) -> None:
        """Makes the copies, if the weights are not as they were."""
        maps = [(a.query, a.key, a.value, a.output) for a in self.model.encoder.attentions if isinstance(a, Attention)]
        weights = [weight for four in maps for linear in four for weight in (linear.weight, linear.bias)]
        now = [(weight.detach(), 0 if weight.is_inference() else weight._version) for weight in weights]
        if len(now) == len(self.seen) and all(map(same, now, self.seen)):
            return
        qkv, biases = [], []
        for query, key, value, output in maps:
            weight = torch.cat([query.weight, key.weight, value.weight]).detach().t()  # [H, 3 H]
            # bfloat16 is a third faster in this order up to 1,000 tokens, float32 is not
            qkv.append(weight.contiguous() if weight.dtype == torch.bfloat16 else weight)
            bias, weight, through = (x.detach().cpu().double() for x in (output.bias, output.weight, value.bias))
            biases.append((query.bias.detach(), (bias + weight @ through).to(output.bias)))
        self.qkv, self.biases, self.seen = qkv, biases, now

    @torch.inference_mode()
    def __call__(
        self,
        ids: Tensor,  # [N] of all texts, end to end
        types: Tensor,  # [N]
        lengths: Sequence[int],  # of each text; equal ones beside each other run together
        layers: Collection[int],  # which hidden states to keep
        depth: int | None = None,
    ) -> dict[int, Tensor]:
        """Hidden states [N, H] of the layers asked for, -1 meaning the E-wide vectors before the projection [N, E].

        Only as many layers are computed as the highest one asked for needs. Raises InputError for a text longer than
        the position table, or a layer that is not there.
        """
        model, P = self.model, self.model.config.max_position_embeddings
        plan = model.encoder.visits(depth)
        if max(lengths, default=0) > P:
            raise InputError(f"a text has {max(lengths)} tokens, the model has P={P} positions")
        if max(layers) > len(plan):
            raise InputError(f"layer {max(layers)} of {len(plan)}")
        runs = [(length, len(list(run))) for length, run in groupby(lengths)]
        order = [torch.arange(length, device=ids.device).repeat(count) for length, count in runs]
        positions = torch.cat(order) if order else ids  # [N]

        table = model.embeddings
        x = table.word(ids) + table.token_type(types) + table.position(positions)  # [N, E]
        x = table.norm(x)  # [N, E]
        kept = {-1: x} if -1 in layers else {}
        if max(layers) >= 0 and table.projection is not None:
            x = table.projection(x)  # [N, H]
        if 0 in layers:
            kept[0] = x
        visits = plan[: max(max(layers), 0)]
        if visits:
            self.join()
        N, H, inner = len(ids) if visits else 0, model.config.hidden_size, model.config.intermediate_size
        space = Space(*(x.new_empty(N, width) for width in (3 * H, H, H, inner)))
        for layer, (a, f) in enumerate(visits, start=1):
            x = self.attend(a, x, runs, space)  # [N, H]
            x = self.feed(f, x, space)  # [N, H]
            if layer in layers:
                kept[layer] = x
        return kept

    def attend(self, a: int, x: Tensor, runs: list[tuple[int, int]], space: Space) -> Tensor:
        """The first half of a layer for all texts: one product, attention run by run, output map, LayerNorm."""
        attention = self.model.encoder.attentions[a]
        assert isinstance(attention, Attention)
        A, D = attention.heads, attention.width
        for_query, for_output = self.biases[a]
        product(x, self.qkv[a], space.qkv)  # [N, 3 H]
        space.qkv[:, : A * D].add_(for_query)
        start = 0
        for length, count in runs:
            stop = start + length * count
            q, k, v = space.qkv[start:stop].view(count, length, 3, A, D).permute(2, 0, 3, 1, 4)  # [count, A, length, D]
            out = F.scaled_dot_product_attention(q, k, v)  # [count, A, length, D]
            space.context[start:stop].view(count, length, A, D).copy_(out.transpose(1, 2))
            start = stop
        weight = attention.output.weight.t()  # [H, H]
        return attention.norm(added(x, space.context, weight, for_output, space.sum))  # [N, H]

    def feed(self, f: int, x: Tensor, space: Space) -> Tensor:
        """The second half: up, activation, down, LayerNorm."""
        ffn = self.model.encoder.feed_forwards[f]
        assert isinstance(ffn, FeedForward)
        inner = product(x, ffn.up.weight.t(), space.inner)  # [N, F]
        faster = ffn.act is ACTIVATIONS["gelu_new"] and inner.device.type == "cpu"
        inner = gelu_new_(inner, ffn.up.bias) if faster else ffn.act(inner.add_(ffn.up.bias))  # [N, F]
        return ffn.norm(added(x, inner, ffn.down.weight.t(), ffn.down.bias, space.sum))  # [N, H]


def same(now: tuple[Tensor, int], then: tuple[Tensor, int]) -> bool:
    """Whether a weight lies where it lay, and nothing was written into it since."""
    return now[1] == then[1] and now[0].is_set_to(then[0])


def product(x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """x weight, [N, a] by [a, b], into out [N, b]."""
    if len(x) > FEW or x.dtype == torch.bfloat16 or x.device.type != "cpu":
        return torch.mm(x, weight, out=out)
    return out.copy_(torch.mm(weight.t(), x.t()).t())


def added(x: Tensor, inside: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """x + inside weight + bias, into out [N, H]."""
    if len(x) <= FEW or x.dtype in (torch.bfloat16, torch.float16):  # half: each sum rounds, so the largest comes last
        return product(inside, weight, out).add_(bias).add_(x)
    return torch.add(x, bias, out=out).addmm_(inside, weight)


def gelu_new_(x: Tensor, bias: Tensor) -> Tensor:
    """The tanh form of gelu of x + bias, [N, F], in place: x sigmoid(2 y), y = sqrt(2 / pi) (x + 0.044715 x^3), as
    1 + tanh y is 2 sigmoid(2 y). A stretch at a time passes through the cache; torch's own kernel takes twice as long.
    """
    twice = 2 * math.sqrt(2 / math.pi)
    half = x.dtype in (torch.bfloat16, torch.float16)  # too coarse for what is between
    first = torch.tensor(twice, dtype=torch.float32 if half else x.dtype)
    for part in x.split(max(1, CACHED * torch.get_num_threads() // x.shape[1])):
        y = part.float().add_(bias) if half else part.add_(bias)
        gate = torch.addcmul(first, y, y, value=0.044715 * twice).mul_(y).sigmoid_()
        part.copy_(gate.mul_(y)) if half else part.mul_(gate)
    return x
