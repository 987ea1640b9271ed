"""Which official model a configuration or a vocabulary is of, or could be, and in what it differs from the release.

verify.py goes on from here to the published facts (facts.py). Shapes tell the sizes apart, nothing else: v1 and v2 of
a size have the same tensors, the number of heads leaves no trace in them, nor does the number of visits to a shared
block. So every model with these shapes is named, the likeliest first. Source: the released configuration files.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minialbert.config import PRESETS, AlbertConfig
from minialbert.errors import NameUnknown, nearest
from minialbert.tokenizers.base import Tokenizer
from minialbert.tools.verify.facts import HUB_NAMES, VARIANTS

SHAPES = (  # fields that tensors show
    "model_type", "vocab_size", "embedding_size", "hidden_size", "intermediate_size", "max_position_embeddings",
    "type_vocab_size", "inner_group_num", "num_hidden_groups", "parameter_sharing", "has_projection",
)  # fmt: skip
BY_NUMBERS = (
    "num_hidden_layers",
    "num_attention_heads",
    "layer_norm_eps",
    "hidden_act",
)  # nothing fits if one is wrong
IN_TRAINING = ("hidden_dropout_prob", "attention_probs_dropout_prob", "head_dropout", "initializer_range")


class Difference(NamedTuple):
    """One field of the configuration, and what is known of this way to be different; "" when nothing is."""

    field: str
    found: Any
    released: Any
    known: str = ""

    def __str__(self) -> str:
        told = f" ({self.known})" if self.known else ""
        return f"{self.field} is {self.found}, the release has {self.released}{told}"


@dataclass(frozen=True)
class Candidate:
    """An official model, and the differences to its release, those that matter most first.

    Without a configuration there are none to tell.
    """

    name: str
    differences: tuple[Difference, ...] = ()

    @property
    def rank(self) -> tuple[bool, ...]:
        """Smaller is likelier: a field that changes every number weighs more than one of training."""
        differing = {difference.field for difference in self.differences}
        return tuple(field in differing for field in ("kind of vocabulary", *SHAPES, *BY_NUMBERS, *IN_TRAINING))

    @property
    def unexplained(self) -> list[Difference]:
        """What makes every number another one, and was never published so."""
        return [d for d in self.differences if d.field not in IN_TRAINING and not d.known]

    def __str__(self) -> str:
        return f"{self.name}, " + (
            "but " + "; ".join(map(str, self.differences)) if self.differences else "as released"
        )


def identify(config: AlbertConfig | None, tokenizer: Tokenizer | None = None, google: bool = False) -> list[Candidate]:
    """The official models that this can be, the likeliest first; those of the first's rank are not told apart.

    google: the files are Google's, where "gelu" means the tanh form in v1 too. Without a configuration the vocabulary
    alone decides. An empty list: no official model has these sizes.
    """
    if config is None:
        return [Candidate(name) for name in PRESETS if tokenizer is not None and _has_vocabulary(name, tokenizer)]
    candidates = (compare(config, name, tokenizer, google) for name in PRESETS)
    same = [c for c in candidates if not any(d.field in SHAPES for d in c.differences)]
    return sorted(same, key=lambda candidate: candidate.rank)


def compare(config: AlbertConfig, name: str, tokenizer: Tokenizer | None = None, google: bool = False) -> Candidate:
    """A configuration beside that of an official model."""
    released = AlbertConfig.preset(name)
    if google and name.endswith("-v1") and config.hidden_act == "gelu_new":
        released = replace(released, hidden_act="gelu_new")  # what "gelu" means there
    found = []
    if tokenizer is not None and tokenizer.kind != kind_of_vocabulary(name):
        found.append(Difference("kind of vocabulary", tokenizer.kind, kind_of_vocabulary(name)))
    for field in (*SHAPES, *BY_NUMBERS, *IN_TRAINING):
        ours, theirs = getattr(config, field), getattr(released, field)
        if ours != theirs:
            found.append(Difference(field, ours, theirs, _known(name, field, ours)))
    return Candidate(name, tuple(found))


def _known(name: str, field: str, value: Any) -> str:
    """Ways to differ that were published, or that are explained by who wrote the file."""
    if name.startswith("albert-xlarge-v") and (field, value) == ("num_attention_heads", 32):
        return "one of the two published xlarge configurations; shapes cannot tell"
    if name.endswith("-v2") and "dropout" in field and value == 0.1:
        return "known: the first publication of v2 said so"
    if name == "albert-base-v2" and (field, value) == ("hidden_act", "gelu"):
        return "known: the first upload to the hub said so; the weights were made with gelu_new"
    if name.endswith("-v1") and (field, value) == ("hidden_act", "gelu_new"):
        return "what Google's own files mean by gelu"
    return ""


def kind_of_vocabulary(name: str) -> str:
    """The kind that an official model has: "sentencepiece" for English ALBERT, "wordpiece" for all others."""
    english = name.startswith("albert-") and not name.endswith("-zh")
    return "sentencepiece" if english else "wordpiece"


def _has_vocabulary(name: str, tokenizer: Tokenizer) -> bool:
    size = AlbertConfig.preset(name).vocab_size
    return tokenizer.kind == kind_of_vocabulary(name) and tokenizer.vocab_size == size


def nearest_model(config: AlbertConfig) -> Candidate:
    """For a model that is none of the official ones: the one with most shapes in common."""
    return min((compare(config, name) for name in PRESETS), key=lambda candidate: len(candidate.differences))


def official_name(name: str) -> tuple[str, str]:
    """A given name as facts have it, and the preset behind it; "" for a variant of sizes of its own.

    Raises NameUnknown, with the nearest right name.
    """
    name = name.removeprefix("albert/").removeprefix("google-bert/")
    name = HUB_NAMES.get(name, name)
    if name not in PRESETS and name not in VARIANTS:
        known = [*PRESETS, *VARIANTS, *HUB_NAMES]
        raise NameUnknown(
            f"no published facts about a model named {name!r}. Nearest: {nearest(name, known) or 'none'}. "
            f"All: {', '.join(known)}"
        )
    return name, VARIANTS.get(name, name)
