"""The ALBERT you can read in one afternoon and trust to six decimals: the public names, in reading order."""

from minialbert.config import AlbertConfig, sharing_plan
from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.errors import MiniAlbertError
from minialbert.heads import (
    IN_ORDER,
    SWAPPED,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
)
from minialbert.hooks import POINTS, Editor, Recorder, chain
from minialbert.model import AlbertModel
from minialbert.sharing import gradient_by_visit, layer_parameters, share, unshare
from minialbert.version import VERSION

__all__ = [  # noqa: RUF022  # in reading order
    "load",
    "Embedder",
    "AlbertConfig",
    "sharing_plan",
    "AlbertModel",
    "AlbertForPreTraining",
    "AlbertForMaskedLM",
    "AlbertForSequenceClassification",
    "AlbertForTokenClassification",
    "AlbertForQuestionAnswering",
    "AlbertForMultipleChoice",
    "IN_ORDER",
    "SWAPPED",
    "POINTS",
    "Recorder",
    "Editor",
    "chain",
    "unshare",
    "share",
    "layer_parameters",
    "gradient_by_visit",
    "MiniAlbertError",
]

__version__ = VERSION
