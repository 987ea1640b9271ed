"""What a model is, as plain numbers: AlbertConfig, the sharing plan, the official presets.

The encoder that these numbers describe is model.py; how they stand in files, dialects.py. Letters as everywhere: V, E,
H, L, G, A, F, P. Source: Lan et al. 2020, section 3.1 and table 1; the released configuration files.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialbert.dialects import BERT_DEFAULTS, read_fields, read_json, write_fields, write_google_fields
from minialbert.errors import ConfigError, NameUnknown, nearest

ACTIVATIONS = (  # "gelu" is the exact one (erf), as Hugging Face spells it; the functions are in model.py
    "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "tanh", "linear", "silu", "swish", "quick_gelu",
)  # fmt: skip
SHARING = ("all", "attention", "ffn", "none")


def sharing_plan(num_layers: int, num_groups: int = 1, inner: int = 1, sharing: str = "all") -> list[tuple[int, int]]:
    """Which attention and which feed-forward weights each layer uses, as index pairs.

    num_layers is cut into num_groups runs, as equal as whole numbers allow; each layer applies the `inner` blocks of
    its group, and every application is a layer of its own here, so the plan has num_layers * inner pairs. What is not
    shared ("attention" leaves the feed-forward halves apart, "ffn" the attention halves) has one set a layer.

    Raises ConfigError unless 1 <= num_groups <= num_layers and inner >= 1.
    Source: Lan et al. 2020, section 3.1 and table 4. In whole numbers on purpose: the same in floating point, as the
    reference codes have it, sends layer 15 of 22 to the wrong one of 22 groups.

    >>> sharing_plan(num_layers=4)  # ALBERT
    [(0, 0), (0, 0), (0, 0), (0, 0)]
    >>> sharing_plan(num_layers=3, num_groups=3)  # BERT
    [(0, 0), (1, 1), (2, 2)]
    >>> sharing_plan(num_layers=3, sharing="attention")
    [(0, 0), (0, 1), (0, 2)]
    """
    if not 1 <= num_groups <= num_layers:
        raise ConfigError(
            f"num_hidden_groups={num_groups} must be between 1 and num_hidden_layers={num_layers}: "
            "a group that no layer visits would have no use"
        )
    if inner < 1:
        raise ConfigError(f"inner_group_num={inner} must be at least 1")
    if sharing not in SHARING:
        raise ConfigError(f"parameter_sharing={sharing!r} must be one of {', '.join(SHARING)}")
    plan = []
    for layer in range(num_layers):
        group = layer * num_groups // num_layers
        a = group if sharing in ("all", "attention") else layer
        f = group if sharing in ("all", "ffn") else layer
        plan += [(a * inner + j, f * inner + j) for j in range(inner)]
    return plan


@dataclass(frozen=True)
class AlbertConfig:
    """A model of the family as plain numbers; the keys are those of Hugging Face's config.json, the last few are ours.

    The defaults are Hugging Face's and Google's, so a key that is not given has the value of albert-xxlarge-v2, never
    of base: start from AlbertConfig.preset("albert-base-v2") and dataclasses.replace, or give every size.
    What cannot be is refused by name at construction (ConfigError).
    """

    vocab_size: int = 30000  # V
    embedding_size: int = 128  # E
    hidden_size: int = 4096  # H
    num_hidden_layers: int = 12  # L
    num_hidden_groups: int = 1  # G: 1 is ALBERT, L is BERT
    inner_group_num: int = 1  # blocks inside one group; each counts as a layer when it is visited
    num_attention_heads: int = 64  # A
    intermediate_size: int = 16384  # F
    hidden_act: str = "gelu_new"  # Hugging Face's word: "gelu" is erf, "gelu_new" the tanh form
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float | None = 0.1  # None: as hidden_dropout_prob
    max_position_embeddings: int = 512  # P
    type_vocab_size: int = 2
    initializer_range: float = 0.02  # deviation of the normal, cut at two of them
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | None = 3
    num_labels: int = 2
    id2label: Mapping[int, str] | None = field(default=None, hash=False)
    problem_type: str | None = None  # "regression", "single_label_classification", "multi_label_classification"
    model_type: str = "albert"  # or "bert": which dialect and names the model is written in
    # Ours, not Hugging Face's
    parameter_sharing: str = "all"  # of "all", "attention", "ffn", "none" (table 4 of the paper)
    project_embeddings: bool | None = None  # the E to H matrix; None: only when E is not H, as in Google's code
    ffn_dropout: bool = True  # as trained; Hugging Face's ALBERT never applies this one
    sop_dropout_prob: float = 0.0  # before the sentence-order map: 0 as trained; Hugging Face has 0.1
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keys nobody here knows, kept and written back

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if name in _CHOICES:
                if value not in _CHOICES[name]:
                    near = nearest(str(value), map(str, _CHOICES[name]))
                    known = ", ".join(map(str, _CHOICES[name]))
                    raise ConfigError(
                        f"{name}={value!r} must be one of {known}" + (f". Nearest: {near}" if near else "")
                    )
            elif type(default) is int and not name.endswith("token_id"):
                if type(value) is not int or value < 1:
                    raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
            elif type(default) is float and not (value is None and name == "classifier_dropout_prob"):
                if type(value) not in (int, float):
                    raise ConfigError(f"{name}={value!r} must be a number")
                if not (0 <= value < 1 if "dropout" in name else 0 < value < float("inf")):
                    raise ConfigError(f"{name}={value} must be " + ("0 to below 1" if "dropout" in name else "above 0"))
        E, H, A = self.embedding_size, self.hidden_size, self.num_attention_heads
        if H % A:
            raise ConfigError(f"hidden_size={H} is not a multiple of num_attention_heads={A}")
        if self.project_embeddings is False and E != H:
            raise ConfigError(f"project_embeddings=False needs embedding_size={E} equal to hidden_size={H}")
        if self.id2label is not None and len(self.id2label) != self.num_labels:
            raise ConfigError(f"id2label names {len(self.id2label)} labels, num_labels={self.num_labels}")
        if self.model_type == "bert" and not self.is_bert_shaped:
            raise ConfigError("model_type='bert' needs a block for each layer, and E = H without a projection")
        self.sharing_plan()

    @property
    def is_bert_shaped(self) -> bool:
        """True when nothing of ALBERT is left: E = H, no projection, a block for each layer."""
        plan = self.sharing_plan()
        return not self.has_projection and self.inner_group_num == 1 and plan == [(i, i) for i in range(len(plan))]

    @property
    def has_projection(self) -> bool:
        """Whether the E to H matrix exists."""
        return self.embedding_size != self.hidden_size if self.project_embeddings is None else self.project_embeddings

    @property
    def num_visits(self) -> int:
        """Layers as counted everywhere here: every application of a block, L times inner_group_num."""
        return self.num_hidden_layers * self.inner_group_num

    @property
    def head_dropout(self) -> float:
        """The rate before a task head."""
        return self.hidden_dropout_prob if self.classifier_dropout_prob is None else self.classifier_dropout_prob

    def sharing_plan(self) -> list[tuple[int, int]]:
        """For each layer, which attention and which feed-forward weights it uses; see the function of this name."""
        L, G, inner = self.num_hidden_layers, self.num_hidden_groups, self.inner_group_num
        return sharing_plan(L, G, inner, self.parameter_sharing)

    def count_parameters(self) -> dict[str, int]:
        """Parameters by part, and of AlbertModel ("model") and AlbertForPreTraining ("pretraining") whole.

        The table of sizes in the paper (table 1) is these numbers rounded.
        """
        V, E, H, F = self.vocab_size, self.embedding_size, self.hidden_size, self.intermediate_size
        plan = self.sharing_plan()
        attentions, feed_forwards = len({a for a, _ in plan}), len({f for _, f in plan})
        parts = {
            "embeddings": (V + self.max_position_embeddings + self.type_vocab_size + 2) * E,
            "projection": (E + 1) * H if self.has_projection else 0,
            "attention": attentions * (4 * (H + 1) * H + 2 * H),
            "ffn": feed_forwards * ((H + 1) * F + (F + 1) * H + 2 * H),
            "pooler": (H + 1) * H,
        }
        heads = {"mlm": (H + 1) * E + 2 * E + V, "sop": 2 * (H + 1)}
        model = sum(parts.values())
        return parts | {"model": model} | heads | {"pretraining": model + sum(heads.values())}

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "AlbertConfig":
        """The configuration of an official model by its name, as "albert-base-v2" or "bert-base-uncased".

        Raises NameUnknown, with the nearest right name.
        """
        key = name.removeprefix("albert/").removeprefix("google-bert/")
        if key not in PRESETS:
            near = nearest(key, PRESETS) or "none"
            raise NameUnknown(f"no preset named {name!r}. Nearest: {near}. All: {', '.join(PRESETS)}")
        return cls(**(PRESETS[key] | changes))

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any], dialect: str | None = None) -> "AlbertConfig":
        """Read config.json of Hugging Face, or albert_config.json / bert_config.json of Google.

        source is a path or the parsed dictionary. In Google's ALBERT files the word "gelu" means the tanh form, in
        Hugging Face's the exact one; which dialect a file is in is told by its keys and its name, or by
        dialect="hf" | "google". Missing keys have the values that the two codes give them.
        Raises FileError when the file cannot be read, ConfigError when it describes no model of the family.
        """
        where = "configuration"
        if not isinstance(source, Mapping):
            where, path = str(source), Path(source)
            source = read_json(path)
            if dialect is None and path.name in ("albert_config.json", "bert_config.json"):
                dialect = "google"
            if path.name == "bert_config.json":
                source = {"model_type": "bert"} | source
        try:
            return cls(**read_fields(dict(source), dialect, _DEFAULTS.keys() - {"extra"}))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """The dictionary of Hugging Face's config.json for this model, unknown keys of the source included."""
        values = {name: getattr(self, name) for name in _DEFAULTS}
        return write_fields(values, _DEFAULTS, self.has_projection)

    def to_google_json(self) -> dict[str, Any]:
        """The dictionary of Google's albert_config.json or bert_config.json; ConfigError for what it cannot say."""
        return write_google_fields({name: getattr(self, name) for name in _DEFAULTS})


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(AlbertConfig)}
_CHOICES: dict[str, tuple] = {
    "hidden_act": ACTIVATIONS,
    "parameter_sharing": SHARING,
    "model_type": ("albert", "bert"),
    "project_embeddings": (None, True, False),
    "ffn_dropout": (True, False),
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification"),
}


def _official(H: int, L: int, A: int, **more: Any) -> dict[str, Any]:
    return {"hidden_size": H, "num_hidden_layers": L, "num_attention_heads": A, "intermediate_size": 4 * H} | more


def _bert(V: int, H: int, L: int, A: int) -> dict[str, Any]:
    family = {"model_type": "bert", "parameter_sharing": "none", "classifier_dropout_prob": None}
    return BERT_DEFAULTS | family | _official(H, L, A, vocab_size=V, embedding_size=H)


_V1 = {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_ZH = {"vocab_size": 21128, "hidden_act": "relu"}

PRESETS: dict[str, dict[str, Any]] = {  # every official model; sizes from the released files
    "albert-base-v1": _official(768, 12, 12, **_V1),
    "albert-large-v1": _official(1024, 24, 16, **_V1),
    "albert-xlarge-v1": _official(2048, 24, 16, **_V1),
    "albert-xxlarge-v1": _official(4096, 12, 64, hidden_act="gelu"),
    "albert-base-v2": _official(768, 12, 12),
    "albert-large-v2": _official(1024, 24, 16),
    "albert-xlarge-v2": _official(2048, 24, 16),
    "albert-xxlarge-v2": _official(4096, 12, 64),
    "albert-base-zh": _official(768, 12, 12, **_ZH),
    "albert-large-zh": _official(1024, 24, 16, **_ZH),
    "albert-xlarge-zh": _official(2048, 24, 16, initializer_range=0.014, **_ZH),
    "albert-xxlarge-zh": _official(4096, 12, 16, initializer_range=0.01, **_ZH),
    "bert-base-uncased": _bert(30522, 768, 12, 12),
    "bert-large-uncased": _bert(30522, 1024, 24, 16),
    "bert-base-cased": _bert(28996, 768, 12, 12),
    "bert-large-cased": _bert(28996, 1024, 24, 16),
    "bert-base-multilingual-cased": _bert(119547, 768, 12, 12),
    "bert-base-chinese": _bert(21128, 768, 12, 12),
}
