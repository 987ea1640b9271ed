"""One table: our name of every tensor, Hugging Face's and Google's; no other file knows what others call things.

Hugging Face's names of the trunk stand without the prefix "albert." or "bert.", which files have or lack. Kernels of
Google's are [in, out], ours and Hugging Face's [out, in]: names that end in /kernel are transposed, nothing else is.
"""

import re

from minialbert.config import AlbertConfig

# "…" stands for the block's prefix in the same column (BLOCK), "=" for the word to its left, "-" for no such tensor.
# kind: table (one tensor), dense (weight or kernel, and bias), norm (weight or gamma, bias or beta),
# out (weight or output_weights, bias or output_bias), bias (one tensor).
#
# kind  ours                    Hugging Face ALBERT                  Hugging Face BERT           Google ALBERT                         Google BERT  # noqa: E501
_TABLE = """
  table embeddings.word         embeddings.word_embeddings           =                           bert/embeddings/word_embeddings       =
  table embeddings.position     embeddings.position_embeddings       =                           bert/embeddings/position_embeddings   =
  table embeddings.token_type   embeddings.token_type_embeddings     =                           bert/embeddings/token_type_embeddings =
  norm  embeddings.norm         embeddings.LayerNorm                 =                           bert/embeddings/LayerNorm             =
  dense embeddings.projection   encoder.embedding_hidden_mapping_in  -                           bert/encoder/embedding_hidden_mapping_in -
  dense attention….query        …attention.query                     …attention.self.query       …attention_1/self/query               …attention/self/query
  dense attention….key          …attention.key                       …attention.self.key         …attention_1/self/key                 …attention/self/key
  dense attention….value        …attention.value                     …attention.self.value       …attention_1/self/value               …attention/self/value
  dense attention….output       …attention.dense                     …attention.output.dense     …attention_1/output/dense             …attention/output/dense
  norm  attention….norm         …attention.LayerNorm                 …attention.output.LayerNorm …LayerNorm                            …attention/output/LayerNorm
  dense ffn….up                 …ffn                                 …intermediate.dense         …ffn_1/intermediate/dense             …intermediate/dense
  dense ffn….down               …ffn_output                          …output.dense               …ffn_1/intermediate/output/dense      …output/dense
  norm  ffn….norm               …full_layer_layer_norm               …output.LayerNorm           …LayerNorm_1                          …output/LayerNorm
  dense pooler                  pooler                               pooler.dense                bert/pooler/dense                     =
  dense mlm.dense               predictions.dense           cls.predictions.transform.dense      cls/predictions/transform/dense       =
  norm  mlm.norm                predictions.LayerNorm       cls.predictions.transform.LayerNorm  cls/predictions/transform/LayerNorm   =
  bias  mlm                     predictions                          cls.predictions             cls/predictions                       =
  out   sop.classifier          sop_classifier.classifier            cls.seq_relationship        cls/seq_relationship/                 =
  out   classifier              classifier                           =                           /                                     =
  out   qa                      qa_outputs                           =                           cls/squad/                            =
"""  # noqa: E501

BLOCK = (  # the prefixes: {g} a group, {j} a block inside it, {a} and {f} our places in the plan; BERT's {g} is a layer
    "encoder.attentions.{a}.",  # ours; the feed-forward half has its own
    "encoder.albert_layer_groups.{g}.albert_layers.{j}.",
    "encoder.layer.{g}.",
    "bert/encoder/transformer/group_{g}/inner_group_{j}/",
    "bert/encoder/layer_{g}/",
)
ENDS = {  # for each kind: ends of our name, of Hugging Face's, of Google's
    "table": [(".weight", ".weight", "")],
    "dense": [(".weight", ".weight", "/kernel"), (".bias", ".bias", "/bias")],
    "norm": [(".weight", ".weight", "/gamma"), (".bias", ".bias", "/beta")],
    "out": [(".weight", ".weight", "output_weights"), (".bias", ".bias", "output_bias")],
    "bias": [(".bias", ".bias", "/output_bias")],
}


def _rows() -> list[list[str]]:
    """The table with every end written out: [ours, hf, hf bert, google, google bert], "" where there is none."""
    rows = []
    for line in filter(None, map(str.strip, _TABLE.splitlines())):
        kind, *columns = line.split()
        for i, word in enumerate(columns):
            word = columns[i - 1] if word == "=" else word
            word = word.replace("attention….", BLOCK[0]).replace("ffn….", "encoder.feed_forwards.{f}.")
            columns[i] = word.replace("…", BLOCK[i])
        for ends in ENDS[kind]:
            full = [word + ends[min(1, i)] if i < 3 else word + ends[2] for i, word in enumerate(columns)]
            rows.append([name.removeprefix("/") if not name.startswith("-") else "" for name in full])
    return rows


ROWS = _rows()
HEADS = ("mlm.", "sop.", "classifier.", "qa.")  # what of ours starts so is on top of the trunk


def expand(config: AlbertConfig, style: str) -> dict[str, str]:
    """Every name that a file of this model can have, to our name. style: "hf" or "google"; the family is the config's.

    Sharing that files have no words for ("attention", "ffn") is written out as a group for each layer there, so
    several of their names then stand for one of ours.
    """
    inner, whole = config.inner_group_num, config.parameter_sharing == "all"
    groups = config.num_hidden_groups if whole else config.num_hidden_layers
    plan = [(i, i) for i in range(groups * inner)] if whole else config.sharing_plan()
    blocks = [{"g": i // inner, "j": i % inner, "a": a, "f": f} for i, (a, f) in enumerate(plan)]
    column = {"hf": 1, "google": 3}[style] + (config.model_type == "bert")
    names = {}
    for row in ROWS:
        if row[0].startswith("embeddings.projection.") and not config.has_projection:
            continue
        for block in blocks if "{g}" in row[column] else blocks[:1]:
            if row[column]:
                names[row[column].format(**block)] = row[0].format(**block)
    return names


TIED = {  # the output matrix and bias of masked words, stored once more by older versions: copies of these
    "predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "predictions.decoder.bias": "predictions.bias",
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
TRUNK = ("embeddings.", "encoder.", "pooler.", "bert/")  # what of theirs starts so is the model itself, not a head
PROJECTION = "encoder.embedding_hidden_mapping_in"  # Hugging Face's ALBERT has one even where E = H and none is needed

# What files write otherwise. Prefixes may stand before any name: DataParallel adds "module.", a loaded hub module
# "module/", several of them "module_1/".
_PREFIX = re.compile(r"^(?:module\.)?(?:albert\.|bert\.)?")
_OLD_END = re.compile(r"(LayerNorm|full_layer_layer_norm)\.(gamma|beta)$")
_MODULE = re.compile(r"^module(?:_\d+)?/")
_NUMBERED = re.compile(r"/group_(\d+)(?:_\d+)?/layer_(\d+)/")  # group_0_2/layer_2/: a scope for each visit of a block


def in_table(name: str, style: str, config: AlbertConfig) -> str:
    """A name of a file as the table has it, if it has it at all."""
    return google_plain(name, config) if style == "google" else plain(name, config.model_type)


def plain(name: str, model_type: str) -> str:
    """A Hugging Face name as the table has it: without prefix, in the new spelling."""
    name = _PREFIX.sub("", name)
    if old := _OLD_END.search(name):
        name = name[: old.start(2)] + {"gamma": "weight", "beta": "bias"}[old[2]]
    if model_type == "albert" and name.startswith("cls."):  # accepted; never released, as far as is known
        name = name.removeprefix("cls.").replace("predictions.transform.", "predictions.")
        name = name.replace("seq_relationship.", "sop_classifier.classifier.")
    return name


def google_plain(name: str, config: AlbertConfig) -> str:
    """A TensorFlow name as the table has it: without prefix, a scope for each layer told by its group.

    So the copies of a block fold into it; in a model with a group for each layer, they are the groups.
    """
    own = config.num_hidden_groups == config.num_hidden_layers
    name = _MODULE.sub("", name).removesuffix(":0")
    return _NUMBERED.sub(lambda found: f"/group_{found[2] if own else found[1]}/", name)


BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # numbers that say nothing, from before 2023
SLOTS = (  # of optimizers, as a part of a name between slashes; Google's LAMB calls its own adam_m, too
    "adam_m", "adam_v", "lamb_m", "lamb_v", "Adam", "Adam_1", "AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1",
)  # fmt: skip
COUNTERS = ("global_step", "beta1_power", "beta2_power", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH")
SQUAD2 = ("start_logits/", "end_logits/", "answer_class/")


def why_no_part(plain_name: str) -> str:
    """Why a tensor has no part in the model, or "" when nothing is known of it."""
    if set(plain_name.split("/")) & set(SLOTS):
        return "an optimizer's slot"
    if plain_name.split("/")[0] in COUNTERS:
        return "a counter of the training"
    if plain_name in BUFFERS:
        return "a buffer of old versions"
    if plain_name.startswith(SQUAD2):
        return "the answer head of Google's SQuAD 2.0 program, which no class here has"
    return "" if plain_name.startswith(TRUNK) else "not part of the model: somebody's own head"
