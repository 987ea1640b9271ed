"""THE FILE: all of ALBERT, read from top to bottom. BERT is the same file with other numbers.

Three ideas make ALBERT out of BERT; search for "of 3". Neighbours: config.py says how large, heads.py what is trained
on top, hooks.py what can be watched, packed.py the same mathematics laid out for speed.
Lan et al. 2020, "ALBERT: A Lite BERT", sections 3 and 4. One notation:

    B batch   T tokens, padding included   E embedding width   H hidden width   F feed-forward width
    A heads   D width of one head, H / A   L layers, visits    V vocabulary     P positions
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention, silu

from minialbert.config import AlbertConfig
from minialbert.errors import InputError
from minialbert.inputs import bad_mask, bad_numbers, bad_words, check_tap, checked_start
from minialbert.pretrained import Pretrained

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,  # x Phi(x): the word of Hugging Face and of BERT
    "gelu_new": lambda x: gelu(x, approximate="tanh"),  # what the word "gelu" means in Google's ALBERT
    "relu": relu,  # Chinese ALBERT
    "tanh": torch.tanh,
    "linear": lambda x: x,
    "silu": silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
ACTIVATIONS |= {"gelu_pytorch_tanh": ACTIVATIONS["gelu_new"], "gelu_fast": ACTIVATIONS["gelu_new"], "swish": silu}


def no_tap(name: str, layer: int, tensor: Tensor) -> Tensor:
    """What is called at every point when nobody watches; hooks.py has the taps that do something."""
    return tensor


class Embeddings(nn.Module):
    """Idea 1 of 3: a narrow table, V x E, then one matrix to the hidden width, E x H (section 3.1).

    A word needs few numbers before it has met its context: at base size V x H is 23 million parameters, V x E + E x H
    is 4 million. BERT has E = H and no projection. (This is the input layer; text to vectors is the folder embed/.)
    """

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        E, H = cfg.embedding_size, cfg.hidden_size
        self.word = nn.Embedding(cfg.vocab_size, E)
        self.position = nn.Embedding(cfg.max_position_embeddings, E)
        self.token_type = nn.Embedding(cfg.type_vocab_size, E)
        self.norm = nn.LayerNorm(E, eps=cfg.layer_norm_eps)
        self.drop = nn.Dropout(cfg.hidden_dropout_prob)
        self.projection = nn.Linear(E, H) if cfg.has_projection else None

    def forward(self, ids, types=None, positions=None, words: Tensor | None = None, tap=no_tap) -> Tensor:
        if (ids is None) == (words is None):
            raise InputError("give either input_ids [B, T] or inputs_embeds [B, T, E]")
        if words is None:
            words = rows(self.word, ids, "input_ids")  # [B, T, E]
        E, P = self.word.embedding_dim, len(self.position.weight)
        if words.dim() != 3 or words.shape[-1] != E or not 0 < words.shape[1] <= P:
            raise bad_words(words, ids, E, P)
        B, T, _ = words.shape
        types = [[0]] if types is None else types
        positions = torch.arange(T)[None] if positions is None else positions
        word = tap("embeddings.word", 0, words)  # [B, T, E]
        token_type = tap("embeddings.token_type", 0, rows(self.token_type, types, "token_type_ids", B, T))  # [B, T, E]
        position = tap("embeddings.position", 0, rows(self.position, positions, "position_ids", B, T))  # [B, T, E]
        x = self.norm(word + token_type + position)  # [B, T, E]
        x = self.drop(tap("embeddings", 0, x))  # [B, T, E]
        x = x if self.projection is None else self.projection(x)  # [B, T, H]
        return tap("hidden", 0, x)  # [B, T, H]


class Attention(nn.Module):
    """First half of a layer: every token looks at every real token, to the left and to the right.

    There is no causal mask. ALBERT keeps BERT's attention unchanged (section 3.1): softmax(q k / sqrt(D)) v, written
    out below for whoever watches or changes scores and probs; otherwise a fused kernel computes it without building
    them. A test holds the two equal.
    """

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        H = cfg.hidden_size
        self.heads, self.width = cfg.num_attention_heads, H // cfg.num_attention_heads  # A, D
        self.query, self.key, self.value, self.output = (nn.Linear(H, H) for _ in range(4))
        self.norm = nn.LayerNorm(H, eps=cfg.layer_norm_eps)
        self.drop_probs = nn.Dropout(cfg.attention_probs_dropout_prob)
        self.drop_out = nn.Dropout(cfg.hidden_dropout_prob)

    def split(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.heads, self.width))  # [B, T, A, D]
        return x.transpose(1, 2)  # [B, A, T, D]

    def written_out(self, q: Tensor, k: Tensor, padding: Tensor | None, layer: int, tap) -> Tensor | None:
        """softmax(q k / sqrt(D)), step by step past the tap; None when the tap changed nothing, only looked."""
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.width)  # [B, A, T, T]
        if padding is not None:  # the lowest number, not minus infinity: a row of nothing but padding is uniform
            scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)  # [B, A, T, T]
        shown = tap("attention.scores", layer, scores)  # [B, A, T, T]
        probs = shown.softmax(-1)  # [B, A, T, T]
        after = tap("attention.probs", layer, probs)  # [B, A, T, T]
        looked = shown is scores and after is probs and untouched(scores) and untouched(probs)
        return None if looked else after

    def forward(self, x: Tensor, padding: Tensor | None, layer: int, tap=no_tap) -> Tensor:
        q = tap("attention.q", layer, self.split(self.query(x)))  # [B, A, T, D]
        k = tap("attention.k", layer, self.split(self.key(x)))  # [B, A, T, D]
        v = tap("attention.v", layer, self.split(self.value(x)))  # [B, A, T, D]
        changed = None  # probs that a tap has changed; while it only looks, the fused kernel decides, bit for bit
        if tap is not no_tap and wants_attention(tap, layer):
            changed = self.written_out(q, k, padding, layer, tap)
        if changed is not None:
            context = self.drop_probs(changed) @ v  # [B, A, T, D]
        else:
            attend = None
            if padding is not None:
                empty = padding.all(-1, keepdim=True)  # queries with nothing to look at: q = 0 makes them uniform too
                q, attend = q.masked_fill(empty, 0), ~padding | empty
            rate = self.drop_probs.p if self.training else 0.0
            context = scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=rate)  # [B, A, T, D]
        context = tap("attention.context", layer, context)  # [B, A, T, D]
        out = self.output(context.transpose(1, 2).flatten(2))  # [B, T, H]
        out = tap("attention.out", layer, out)  # [B, T, H]
        return tap("mid", layer, self.norm(x + self.drop_out(out)))  # [B, T, H]


class FeedForward(nn.Module):
    """Second half of a layer: each token by itself, H to F to H (section 3; unchanged from BERT)."""

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        H, F = cfg.hidden_size, cfg.intermediate_size
        self.up, self.down = nn.Linear(H, F), nn.Linear(F, H)
        self.act = ACTIVATIONS[cfg.hidden_act]
        self.norm = nn.LayerNorm(H, eps=cfg.layer_norm_eps)
        self.drop = nn.Dropout(cfg.hidden_dropout_prob if cfg.ffn_dropout else 0.0)

    def forward(self, x: Tensor, layer: int, tap=no_tap) -> Tensor:
        pre = tap("ffn.pre", layer, self.up(x))  # [B, T, F]
        inner = tap("ffn.inner", layer, self.act(pre))  # [B, T, F]
        out = tap("ffn.out", layer, self.down(inner))  # [B, T, H]
        return tap("hidden", layer, self.norm(x + self.drop(out)))  # [B, T, H]


class SharedEncoder(nn.Module):
    """Idea 2 of 3: L layers, one set of weights, visited L times (section 3.1).

    The plan says which weights each layer uses. ALBERT is the plan (0, 0), (0, 0), ..., (0, 0); BERT is the plan
    (0, 0), (1, 1), ..., (L-1, L-1). No other class here knows about sharing.
    """

    def __init__(self, cfg: AlbertConfig):
        super().__init__()
        self.plan = cfg.sharing_plan()
        self.attentions = nn.ModuleList(Attention(cfg) for _ in range(1 + max(a for a, _ in self.plan)))
        self.feed_forwards = nn.ModuleList(FeedForward(cfg) for _ in range(1 + max(f for _, f in self.plan)))

    def visits(self, depth: int | None) -> list[tuple[int, int]]:
        """The plan cut to `depth` layers, or carried on past L where one block is all there is."""
        L = len(self.plan)
        if depth is None or 0 <= depth <= L:
            return self.plan[:depth]
        if depth < 0 or len(set(self.plan)) > 1:
            more = "more than L needs one block shared by all layers" if depth > L else "it counts layers from 0"
            raise InputError(f"depth={depth}, the model has L={L} layers: {more}")
        return self.plan[:1] * depth

    def forward(self, x: Tensor, padding: Tensor | None, plan: list[tuple[int, int]], start=0, tap=no_tap) -> Tensor:
        for layer, (a, f) in enumerate(plan[start:], start=start + 1):
            x = self.attentions[a](x, padding, layer, tap)  # [B, T, H]
            x = self.feed_forwards[f](x, layer, tap)  # [B, T, H]
        return x

    def extra_repr(self) -> str:
        blocks = f"{len(self.attentions)} attention and {len(self.feed_forwards)} feed-forward sets of weights"
        return f"{blocks}, {len(self.plan)} visits"


class ModelOutput(NamedTuple):
    """last_hidden_state [B, T, H], one vector a token; pooler_output [B, H], trained only through the pair task."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None

    def __repr__(self) -> str:
        return describe(self)


class AlbertModel(Pretrained, nn.Module):
    """The encoder: ids [B, T] to hidden states [B, T, H], and one pooled vector for each text [B, H].

    pooler=False leaves the pooled vector out, as models for masked words, tags and answers do.
    """

    def __init__(self, config: AlbertConfig, pooler: bool = True):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = SharedEncoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if pooler else None
        self.apply(lambda module: initialize(module, config.initializer_range))

    def forward(
        self,
        input_ids=None,  # [B, T]
        attention_mask=None,  # [B, T], anything but 0 for real tokens; or bool [B, 1 or A, T, T], query by key
        token_type_ids=None,  # [B, T], all 0 if left out
        position_ids=None,  # [B, T] or [1, T], counted from 0 if left out
        inputs_embeds=None,  # [B, T, E], in place of rows of the word table
        *,
        hidden_states: Tensor | None = None,  # [B, T, H] stored at layer `from_layer`, in place of ids: go on there
        from_layer: int = 0,
        depth: int | None = None,  # layers to visit; None is all L
        tap=no_tap,  # (name, layer, tensor) -> tensor, see hooks.py
    ) -> ModelOutput:
        """Raises InputError for shapes, ids, layers or depths that the model has no place for."""
        plan = self.encoder.plan if depth is None else self.encoder.visits(depth)
        if tap is not no_tap:
            check_tap(tap, len(plan))
        if hidden_states is None and from_layer == 0:
            x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, tap)  # [B, T, H]
        else:
            others = (input_ids, token_type_ids, position_ids, inputs_embeds)
            x = checked_start(hidden_states, from_layer, len(plan), self.config.hidden_size, others)  # [B, T, H]
        padding = None if attention_mask is None else self.padding_of(attention_mask, *x.shape[:2])
        x = self.encoder(x, padding, plan, from_layer, tap)  # [B, T, H]
        pooled = None if self.pooler is None else tap("pooled", 0, torch.tanh(self.pooler(x[:, 0])))  # [B, H]
        return ModelOutput(x, pooled)

    def padding_of(self, mask, B: int, T: int) -> Tensor:
        """True for keys to ignore: [B, 1, 1, T], the same for every query, or as a boolean mask has them."""
        mask = torch.as_tensor(mask, device=self.embeddings.word.weight.device)
        if mask.shape == (B, T):
            return (mask == 0)[:, None, None, :]  # [B, 1, 1, T]
        if mask.dtype == torch.bool and mask.shape in ((B, 1, T, T), (B, self.config.num_attention_heads, T, T)):
            return ~mask
        raise bad_mask(mask, B, T)


# ---- what the page above needs, in no special order ----


def wants_attention(tap, layer: int) -> bool:
    """Whether a tap asks for scores or probs; one that cannot say what it wants gets everything."""
    wants = getattr(tap, "wants", lambda name, layer: True)
    return wants("attention.scores", layer) or wants("attention.probs", layer)


def untouched(x: Tensor) -> bool:
    """Whether a new tensor was changed in place since; torch does not count that in inference mode."""
    return x.is_inference() or x._version == 0


def rows(table: nn.Embedding, numbers, what: str, *shape: int) -> Tensor:
    """Rows of a table, [B, T, E]; numbers are [B, T] or [1, T], in a tensor, an array or a list."""
    try:
        numbers = torch.as_tensor(numbers, device=table.weight.device)
        return table(numbers.expand(shape) if shape else numbers)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise bad_numbers(table, numbers, what, shape) or error from None


def initialize(module: nn.Module, deviation: float) -> None:
    """A normal cut at two deviations for tables and matrices, zero for biases, as the released models began."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def describe(output) -> str:
    """An output's fields with their shapes; a loss with its value."""
    fields = {name: x if x is None else list(x.shape) or float(x.detach()) for name, x in output._asdict().items()}
    return f"{type(output).__name__}({', '.join(f'{name}: {what}' for name, what in fields.items())})"
