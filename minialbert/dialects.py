"""config.json of Hugging Face and of Google: a file's dictionary to the fields of AlbertConfig, and back.

The fields themselves are in config.py. The same words mean different things in the two: in Google's ALBERT files "gelu"
is the tanh form, in Hugging Face's the exact one. Source: the released files of both.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from minialbert.errors import ConfigError, FileError

BERT_DEFAULTS = {  # of Hugging Face's BertConfig, where they differ from ALBERT's
    "vocab_size": 30522, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
ALBERT_ALONE = ("embedding_size", "num_hidden_groups", "inner_group_num")
GOOGLE_KEYS = (  # in the order of the released files
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "embedding_size", "hidden_size",
    "initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "num_hidden_groups", "inner_group_num", "type_vocab_size", "vocab_size",
)  # fmt: skip
SIGNS_OF_HF = ("model_type", "architectures", "layer_norm_eps", "transformers_version")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; raises FileError, which names it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; a model directory needs its configuration") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise FileError(f"{path}: cannot be read as text ({error})") from None
    except json.JSONDecodeError as error:
        raise FileError(f"{path}: not whole JSON (line {error.lineno}: {error.msg}); download it again") from None
    except RecursionError:
        raise FileError(f"{path}: JSON nested too deeply to be a configuration") from None
    if not isinstance(data, dict):
        raise FileError(f"{path}: holds a JSON {type(data).__name__}, expected an object with the model's sizes")
    return data


def which(raw: dict[str, Any], dialect: str | None) -> tuple[str, str]:
    """("hf" or "google", "albert" or "bert"), told by the keys; raises ConfigError for another family."""
    family = raw.get("model_type", "albert")
    made_for = raw.get("architectures")
    if "model_type" not in raw and isinstance(made_for, list) and str(*made_for[:1]).startswith("Bert"):
        family = "bert"
    if family not in ("albert", "bert"):
        raise ConfigError(f"model_type={family!r} is not of this family; only albert and bert are")
    if dialect is None:
        dialect = "hf" if any(sign in raw for sign in SIGNS_OF_HF) else "google"
    if dialect not in ("hf", "google"):
        raise ConfigError(f"dialect={dialect!r} must be 'hf' or 'google'")
    return dialect, family


def read_fields(raw: dict[str, Any], dialect: str | None, known: Collection[str]) -> dict[str, Any]:
    """Arguments of AlbertConfig from a file's dictionary; keys that are not `known` go into "extra"."""
    dialect, family = which(raw, dialect)
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise ConfigError(f"position_embedding_type={positions!r}: only absolute positions are in this family")
    for key in ("is_decoder", "add_cross_attention"):
        if raw.get(key):
            raise ConfigError(f"{key}=true: this is a decoder; ALBERT and BERT are encoders")
    if dialect == "google" and "vocab_size" not in raw:
        raise ConfigError("vocab_size is missing; a file of Google's always has it")

    raw = dict(raw)
    labels = _labels(raw)
    values = {key: raw.pop(key) for key in list(raw) if key in known} | labels | {"model_type": family}
    if family == "bert":
        values = BERT_DEFAULTS | values
        values |= {"embedding_size": values["hidden_size"], "parameter_sharing": "none"}
        values["classifier_dropout_prob"] = raw.pop("classifier_dropout", None)
    elif dialect == "hf" and values.get("embedding_size", 128) == values.get("hidden_size", 4096):
        # always there in Hugging Face's ALBERT, also when E = H, unless write_fields said otherwise
        values["project_embeddings"] = None if values.get("project_embeddings") is False else True
    if dialect == "google":
        act = values.get("hidden_act", "gelu") or "linear"
        values["hidden_act"] = "gelu_new" if act == "gelu" and family == "albert" else act
    if "num_shared_groups" in raw:  # written by write_fields beside what Hugging Face reads
        values["num_hidden_groups"] = raw.pop("num_shared_groups")
    return values | {"extra": raw}


def _labels(raw: dict[str, Any]) -> dict[str, Any]:
    """num_labels and id2label, taken out of a file's dictionary."""
    names, count = raw.pop("id2label", None), raw.pop("num_labels", None)
    raw.pop("label2id", None)
    if names is None:
        return {} if count is None else {"num_labels": count}
    try:
        return {"num_labels": len(names), "id2label": {int(i): str(label) for i, label in names.items()}}
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(f"id2label={names!r} must map whole numbers to names") from None


def write_fields(values: dict[str, Any], default: dict[str, Any], has_projection: bool) -> dict[str, Any]:
    """Hugging Face's dictionary from the fields of AlbertConfig; those of our own only where they say something.

    Sharing that Hugging Face's ALBERT has no words for ("attention", "ffn") is written as a group for each layer,
    which is how its weights are saved, and stands beside it in keys of our own.
    """
    out = dict(values)
    own = {key: out.pop(key) for key in ("parameter_sharing", "project_embeddings", "ffn_dropout", "sop_dropout_prob")}
    out = out.pop("extra") | out
    count, names = out.pop("num_labels"), out.pop("id2label")
    if names is not None or count != 2:
        names = names or {i: f"LABEL_{i}" for i in range(count)}
        out["id2label"] = {str(i): label for i, label in names.items()}
        out["label2id"] = {label: i for i, label in names.items()}
    if out["problem_type"] is None:
        del out["problem_type"]
    out |= {key: own[key] for key in ("ffn_dropout", "sop_dropout_prob") if own[key] != default[key]}
    if out["model_type"] == "bert":
        for key in ALBERT_ALONE:
            del out[key]
        out["classifier_dropout"] = out.pop("classifier_dropout_prob")
        return out
    if out["classifier_dropout_prob"] is None:  # a word that Hugging Face's ALBERT does not have
        out["classifier_dropout_prob"] = out["hidden_dropout_prob"]
    if own["parameter_sharing"] != "all":
        out |= {"parameter_sharing": own["parameter_sharing"], "num_shared_groups": out["num_hidden_groups"]}
        out["num_hidden_groups"] = out["num_hidden_layers"]
    if out["embedding_size"] == out["hidden_size"] and not has_projection:
        out["project_embeddings"] = False  # the file then holds an identity, which Hugging Face needs
    return out


def write_google_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The dictionary of albert_config.json or bert_config.json. Raises ConfigError for what Google's code has no word.

    Its LayerNorm epsilon is a constant, 1e-12, and in its ALBERT the only gelu is the tanh form.
    """
    bert = values["model_type"] == "bert"
    words = {"relu": "relu", "tanh": "tanh", "linear": ""}
    words |= {"gelu": "gelu"} if bert else dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), "gelu")
    act, eps = values["hidden_act"], values["layer_norm_eps"]
    if act not in words:
        hint = "; its weights of v1 want gelu_new, the tanh form: --set hidden_act=gelu_new" if act == "gelu" else ""
        raise ConfigError(f"hidden_act={act!r}: Google's code has only {', '.join(words)}{hint}")
    if eps != 1e-12:
        raise ConfigError(f"layer_norm_eps={eps:g}: in Google's code it is always 1e-12")
    out = {key: values[key] for key in GOOGLE_KEYS if not (bert and key in ALBERT_ALONE)} | {"hidden_act": words[act]}
    if values["parameter_sharing"] != "all":
        out["num_hidden_groups"] = out["num_hidden_layers"]  # as the weights are written
    return out
