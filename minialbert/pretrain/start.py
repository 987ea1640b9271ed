"""A head start for a new model: words that are alike, counted in the corpus, and two heads that look at the neighbours.

A new table is noise, and the first millions of tokens are spent on finding out that "monday" is like "tuesday". That
can be counted in seconds: a matrix V x V of how much oftener two words are neighbours than chance would have it, and
its best approximation of rank E. It is idea 1 of 3 (model.Embeddings) seen from the other side: a narrow table loses
little because the wide one is nearly of low rank. The bias of the masked-word head starts at how frequent a word is.

After that a run spends millions more on attention that looks at the piece before and the piece after; two heads are
made so, from a code of positions in which one step is a rotation.

An option of pre-training that ALBERT did not have; loop.py trains from here as from noise, and nothing stays fixed.
Sources: Vaswani et al. 2017, section 3.5 (positions as waves); Levy and Goldberg 2014 (words as factors of this
matrix); Levy, Goldberg and Dagan 2015, sections 3 and 7 (the power 0.75, equal lengths of the rows); Halko, Martinsson
and Tropp 2011 (the randomized factorization).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minialbert.errors import InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus

WINDOW = 5  # words to either side
SMOOTHING = 0.75  # a rare context is taken for a little less rare: else it would outweigh the telling ones
SCALE = 3.0  # rows are this much longer than new ones; measured over 500,000 tokens: better than 1, and than 6
CELLS = 1 << 27  # of the matrix of counts, 512 MiB; a larger vocabulary is counted beside its most frequent words only
CHUNK = 1 << 22  # tokens counted at a time
NEIGHBOURS = (-1, 1)  # where the first heads look
FREQUENCIES = 24  # of the waves that positions are written in, at most
PEAK = 8.0  # the score of the neighbour: 0.88 of a head's attention at T = 128


def frequencies(corpus: Corpus, V: int) -> Tensor:
    """How often each piece is in the corpus, [V] float64."""
    counts = torch.zeros(V, dtype=torch.float64)
    for ids, _, _ in corpus.shards:
        for at in range(0, len(ids), CHUNK):
            counts += torch.bincount(torch.from_numpy(ids[at : at + CHUNK].astype("int64")), minlength=V)
    return counts


def neighbours(corpus: Corpus, V: int, contexts: Tensor, window: int = WINDOW) -> Tensor:
    """How often context c stands within `window` places of piece w: counts [V, C] float32.

    contexts [C]: the pieces counted as neighbours. The border between two documents is not seen: it is one in hundreds.
    """
    C = len(contexts)
    column = torch.full((V,), C)  # one column more, for what is no context
    column[contexts] = torch.arange(C)
    counts = torch.zeros(V * (C + 1))
    for ids, _, _ in corpus.shards:
        for at in range(0, len(ids), CHUNK):
            words = torch.from_numpy(ids[at : at + CHUNK + window].astype("int64"))
            one = torch.ones(len(words))
            for distance in range(1, min(window, len(words) - 1) + 1):
                left, right = words[:-distance][:CHUNK], words[distance:][:CHUNK]  # the rest is of the next chunk
                counts.scatter_add_(0, left * (C + 1) + column[right], one[: len(left)])
                counts.scatter_add_(0, right * (C + 1) + column[left], one[: len(left)])
    return counts.view(V, C + 1)[:, :C]


def log_ratios(counts: Tensor) -> Tensor:
    """log of how much oftener than by chance, [V, C]; 0 where it is seldomer, or never: that says little of a word."""
    word, context = counts.sum(1, keepdim=True), counts.sum(0) ** SMOOTHING
    chance = word * (context / context.sum())
    return (counts / chance.clamp(min=1e-30)).clamp(min=1.0).log_()


def word_table(corpus: Corpus, V: int, E: int, *, window: int = WINDOW, seed: int = 0) -> Tensor:
    """A table [V, E] with rows of length 1: near each other for pieces found in like places; 0 for pieces never found.

    Raises InputError for a vocabulary with fewer than E pieces.
    """
    if not 0 < E <= V:
        raise InputError(f"a table of {V} words from counts cannot have {E} columns, expected at most {V}")
    contexts = frequencies(corpus, V).argsort(descending=True, stable=True)[: max(E, min(V, CELLS // V))]
    matrix = log_ratios(neighbours(corpus, V, contexts, window))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        U, S, _ = torch.svd_lowrank(matrix, q=min(E + 16, *matrix.shape), niter=3)
    table = F.normalize(U[:, :E] * S[:E].sqrt(), dim=1)
    return table * (matrix.amax(1, keepdim=True) > 0)  # else rounding errors, made long


# ---- heads that look at the neighbours ----


def position_code(P: int, K: int) -> tuple[Tensor, Tensor]:
    """A code of positions [P, 2 K] and its frequencies [K]: cos(p f) beside sin(p f), f from near 0 to near pi.

    Two codes multiply to the sum of cos(distance * f): K where the distance is 0, less than 0.4 K at all others up to
    511 if K = 24 (even steps of f, or multiples of the golden ratio, have distances where all waves meet again).
    Turning each pair (cos, sin) by d * f gives the code of position p + d.
    """
    frequencies = math.pi * ((torch.arange(K) + 0.5) / K) ** 1.5
    angles = torch.arange(P)[:, None] * frequencies  # [P, K]
    return torch.cat([angles.cos(), angles.sin()], dim=1), frequencies


def turned(frequencies: Tensor, distance: int) -> Tensor:
    """The matrix [2 K, 2 K] that makes the code of p + distance from the code of p."""
    cos, sin = (distance * frequencies).cos().diag(), (distance * frequencies).sin().diag()
    return torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])


@torch.no_grad()
def head_start(model: AlbertForPreTraining, corpus: Corpus, *, seed: int = 0) -> None:
    """Puts into a new model what a run would first have to find out: like words, frequencies, neighbours.

    Of the E columns of a word the last 2 K are left to the positions, whose rows get the code and the same length; the
    projection keeps lengths and angles, so the code can be read again in every layer. The first heads of each attention
    are made to read it: one looks at the piece before, one at the piece after. All of it is trained on, like any other
    number. Pieces that the corpus lacks keep their rows. Raises InputError for H < E, and for E or D below 8.
    """
    config, embeddings = model.config, model.albert.embeddings
    V, E, H, P = config.vocab_size, config.embedding_size, config.hidden_size, config.max_position_embeddings
    D = H // config.num_attention_heads
    K = min(FREQUENCIES, E // 4, D // 2)
    if K < 2 or H < E:
        raise InputError(
            f"a head start needs embedding_size={E} and the width of a head {D} to be 8 or more, and hidden_size={H} "
            "not less than embedding_size"
        )
    length = SCALE * config.initializer_range * math.sqrt(E)

    found = word_table(corpus, V, E - 2 * K, seed=seed)
    known = found.norm(dim=1) > 0
    embeddings.word.weight[known] = F.pad(found[known] * length, (0, 2 * K)).to(embeddings.word.weight)
    share = (frequencies(corpus, V) + 1) / (corpus.tokens + V)
    model.mlm.get_parameter("bias").copy_(share.log() - share.log().mean())

    code, turns = position_code(P, K)
    embeddings.position.weight.copy_(F.pad(code * (length / math.sqrt(K)), (E - 2 * K, 0)))
    to_code = torch.eye(E)[E - 2 * K :]  # [2 K, E]
    if embeddings.projection is not None:
        straight = torch.linalg.qr(embeddings.projection.weight)[0]  # [H, E], columns of length 1 at right angles
        embeddings.projection.weight.copy_(straight * math.sqrt(H / E))
        to_code = to_code @ straight.T * math.sqrt(E / H)  # [2 K, H]
    gain = math.sqrt(PEAK * math.sqrt(D) / (E / 2))  # LayerNorm makes E of a row's square, half of it the code's
    for module in model.albert.encoder.attentions:
        query, key = module.get_parameter("query.weight"), module.get_parameter("key.weight")  # [H, H]
        for head, distance in enumerate(NEIGHBOURS[: config.num_attention_heads]):
            rows = slice(head * D, head * D + 2 * K)
            query[rows] = gain * turned(turns, distance) @ to_code
            key[rows] = gain * to_code
