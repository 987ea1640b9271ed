"""What a configuration costs: parameters, multiply-adds, bytes of activations, beside the BERT of the same shape.

Sharing saves parameters, not work: the same layers run, whoever's weights they use (Lan et al. 2020, section 4.3 pairs
18 times fewer parameters with 1.7 times faster training, and that through communication). Counted here from the sizes
alone; tests hold the counts equal to a run.
"""

from dataclasses import dataclass

from minialbert.config import AlbertConfig


@dataclass(frozen=True)
class Cost:
    """Of one forward of B texts of T tokens. Multiply-adds count matrix products (one is two FLOPs)."""

    parameters: dict[str, int]  # by part, without heads
    multiply_adds: dict[str, int]  # by part
    weight_bytes: int
    inference_bytes: int  # activations alive at the widest point: inside a feed-forward
    training_bytes: int  # activations kept for the backward pass

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def total_multiply_adds(self) -> int:
        return sum(self.multiply_adds.values())


def cost(config: AlbertConfig, batch: int = 1, length: int = 128, item_bytes: int = 4) -> Cost:
    """The cost of a forward of AlbertModel over batch x length tokens, item_bytes a number (float32: 4)."""
    E, H, I, L = config.embedding_size, config.hidden_size, config.intermediate_size, config.num_visits
    A, N = config.num_attention_heads, batch * length
    parts = ("embeddings", "projection", "attention", "ffn", "pooler")
    parameters = {part: count for part, count in config.count_parameters().items() if part in parts}
    multiply_adds = {
        "embeddings": 0,
        "projection": N * E * H if config.has_projection else 0,
        "attention": L * (4 * N * H * H + 2 * N * length * H),
        "ffn": L * 2 * N * H * I,
        "pooler": batch * H * H,
    }
    # kept for the backward pass, written in numbers per token: of a layer, the input, q, k, v, the context, the sum
    # before each LayerNorm, what each of the two gives, and the feed-forward before and after its activation; then
    # the row statistics of the LayerNorms and of the fused attention
    layer = 8 * H + 2 * I + 4 + A
    first = 2 * E + 2
    training = N * (L * layer + first + H)
    return Cost(
        parameters=parameters,
        multiply_adds=multiply_adds,
        weight_bytes=item_bytes * sum(parameters.values()),
        inference_bytes=item_bytes * N * (2 * I + 2 * H),
        training_bytes=item_bytes * training,
    )


def bert_of_the_same_shape(config: AlbertConfig) -> AlbertConfig:
    """BERT with the same V, H, L, A, F: embeddings H wide, a block for each layer."""
    return AlbertConfig(
        vocab_size=config.vocab_size,
        embedding_size=config.hidden_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_visits,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        hidden_act="gelu",
        model_type="bert",
        parameter_sharing="none",
    )
