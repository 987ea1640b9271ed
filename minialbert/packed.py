"""The encoder of model.py laid out to run over a corpus: the same mathematics, held equal to it by test.

Texts are laid end to end without padding, so nothing is computed for tokens that are not there: N tokens of all texts
together instead of B x T. Query, key and value are one product. Texts of one length stand beside each other and
attend as one batch, which needs no mask. Nobody needs this file to understand the model.

    N tokens of all texts, end to end; the other letters as in model.py
"""

from collections.abc import Collection, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from minialbert.errors import InputError
from minialbert.model import AlbertModel, Attention, FeedForward


class PackedEncoder:
    """Runs an AlbertModel in eval mode over texts laid end to end.

    The weights of query, key and value are copied here into one matrix for each attention; make a new PackedEncoder
    after changing the model.
    """

    def __init__(self, model: AlbertModel):
        self.model = model
        self.qkv = []
        for attention in model.encoder.attentions:
            assert isinstance(attention, Attention)
            three = (attention.query, attention.key, attention.value)
            weight, bias = torch.cat([m.weight for m in three]), torch.cat([m.bias for m in three])
            self.qkv.append((weight.detach(), bias.detach()))

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
        for layer, (a, f) in enumerate(plan[: max(max(layers), 0)], start=1):
            x = self.attend(a, x, runs)  # [N, H]
            ffn = model.encoder.feed_forwards[f]
            assert isinstance(ffn, FeedForward)
            inner = ffn.act(ffn.up(x))  # [N, F]
            x = ffn.norm(x.add_(ffn.down(inner)))  # [N, H]
            if layer in layers:
                kept[layer] = x
        return kept

    def attend(self, a: int, x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
        """The first half of a layer for all texts: one product, attention run by run, output map, LayerNorm."""
        attention = self.model.encoder.attentions[a]
        assert isinstance(attention, Attention)
        A, D = attention.heads, attention.width
        qkv = F.linear(x, *self.qkv[a])  # [N, 3 H]
        context = torch.empty_like(x)  # [N, H]
        start = 0
        for length, count in runs:
            stop = start + length * count
            run = qkv[start:stop].view(count, length, 3, A, D).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(run[0], run[1], run[2])
            context[start:stop] = out.transpose(1, 2).reshape(stop - start, A * D)
            start = stop
        return attention.norm(attention.output(context).add_(x))  # [N, H]
