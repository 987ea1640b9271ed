"""A start for the word table: which words stand near which, counted in the corpus and cut down to E columns.

A new table is noise, and the first millions of tokens are spent on finding out that "monday" is like "tuesday". That
can be counted in seconds: a matrix V x V of how much oftener two words are neighbours than chance would have it, and
its best approximation of rank E. It is idea 1 of 3 (model.Embeddings) seen from the other side: a narrow table loses
little because the wide one is nearly of low rank. The bias of the masked-word head starts at how frequent a word is.

An option of pre-training that ALBERT did not have; loop.py trains from here as from noise.
Sources: Levy and Goldberg 2014 (words as factors of this matrix); Levy, Goldberg and Dagan 2015, sections 3 and 7 (the
power 0.75, equal lengths of the rows); Halko, Martinsson and Tropp 2011 (the randomized factorization).
"""

import math

import torch
from torch import Tensor

from minialbert.errors import InputError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus

WINDOW = 5  # words to either side
SMOOTHING = 0.75  # a rare context is taken for a little less rare: else it would outweigh the telling ones
SCALE = 3.0  # measured over 500,000 tokens: better than 1, and than 6
CELLS = 1 << 27  # of the matrix of counts, 512 MiB; a larger vocabulary is counted beside its most frequent words only
CHUNK = 1 << 22  # tokens counted at a time


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
    table = torch.nn.functional.normalize(U[:, :E] * S[:E].sqrt(), dim=1)
    return table * (matrix.amax(1, keepdim=True) > 0)  # else rounding errors, made long


@torch.no_grad()
def start_words(model: AlbertForPreTraining, corpus: Corpus, *, seed: int = 0) -> None:
    """Puts the table of the corpus into a new model, and frequencies into the word bias.

    Its rows are SCALE times as long as new ones, so that they are heard above positions and token types, which are
    noise yet. Pieces that the corpus lacks keep their rows. Raises InputError.
    """
    table = model.albert.embeddings.word.weight
    V, E = model.config.vocab_size, model.config.embedding_size
    found = word_table(corpus, V, E, seed=seed).to(table.device, table.dtype)
    known = found.norm(dim=1) > 0
    table[known] = found[known] * (SCALE * model.config.initializer_range * math.sqrt(E))
    share = (frequencies(corpus, V) + 1) / (corpus.tokens + V)
    model.mlm.get_parameter("bias").copy_(share.log() - share.log().mean())
