"""What `minialbert bench` measures beside ours: other ways to run the same weights, each made when first asked for.

None of them is needed. One that is not installed, or that fails as it is made, is one line in what was left out. All
are black boxes: a directory in Hugging Face's format goes in, a function comes out. bench_measuring.py says how they
take turns.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minialbert.model import AlbertModel

Forward = Callable[[Tensor, Tensor | None], Tensor]  # ids and mask [B, T] (None: no padding) to vectors [B, T, H]

SDPA, EAGER, COMPILED = "transformers, sdpa", "transformers, eager", "transformers, torch.compile"
ONNX, SENTENCES, OURS_COMPILED = "onnxruntime", "sentence-transformers", "model.py, torch.compile"
PADDED_BATCH = 32  # texts that are padded together
SENTENCE = 28  # tokens of one text: the mean of the corpus


class Peers:
    """peers.get(name) is a Forward (of SENTENCES: from texts to vectors [N, H]), or None after saying why not."""

    def __init__(self, model: AlbertModel, home: Callable[[], Path], leave_out: Callable[[str], None]):
        self.model, self.home, self.leave_out = model, home, leave_out  # home: the same weights, and the tokenizer
        self.made: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = None
            try:
                with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self.made[name] = MAKERS[name](self)
            except ImportError as error:
                self.leave_out(f"{name}: left out, {error.name or error} is not installed")
            except Exception as error:  # a black box: whatever it raises, it is left out
                self.leave_out(f"{name}: left out, {' '.join(str(error).split())[:200] or type(error).__name__}")
        return self.made[name]


def transformers_model(peers: Peers, attention: str) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bert = peers.model.config.model_type == "bert"
    kwargs: Any = {"attn_implementation": attention, "add_pooling_layer": peers.model.pooler is not None}
    cls = transformers.BertModel if bert else transformers.AlbertModel
    return cls.from_pretrained(peers.home(), **kwargs).eval()


def forward_of(model: Any) -> Forward:
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state


def compiled(model: Any) -> Forward:
    """Through torch.compile, which needs a C++ compiler; compiled here, for one text of SENTENCE tokens."""
    forward = forward_of(torch.compile(model))
    with torch.inference_mode():
        forward(torch.ones(1, min(SENTENCE, model.config.max_position_embeddings), dtype=torch.long), None)
    return forward


def onnxruntime(peers: Peers) -> Forward:
    """transformers' model as a graph in a file, run by onnxruntime on as many threads as torch has."""
    import onnx  # noqa: F401  # the exporter needs it
    import onnxruntime as ort

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformers_model(peers, "sdpa")

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state

    file, sizes = str(peers.home() / "model.onnx"), {0: "B", 1: "T"}
    ids = torch.ones(2, 4, dtype=torch.long)
    torch.onnx.export(  # the older exporter: 20 times less to wait for, and no slower a graph
        Hidden().eval(), (ids, ids), file, dynamo=False, input_names=["ids", "mask"], output_names=["hidden"],
        dynamic_axes=dict.fromkeys(["ids", "mask", "hidden"], sizes),
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads must not be in others' way
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def forward(ids: Tensor, mask: Tensor | None) -> Tensor:
        mask = torch.ones_like(ids) if mask is None else mask
        return torch.from_numpy(session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})[0])

    return forward


def sentence_transformers(peers: Peers) -> Callable[[list[str]], np.ndarray]:
    """The mean of all tokens, as its models have it; it sorts texts by length itself. The tokenizer must be there."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    modules = [Transformer(str(peers.home())), Pooling(peers.model.config.hidden_size, "mean")]
    model = SentenceTransformer(modules=modules, device="cpu")
    return lambda texts: model.encode(texts, batch_size=PADDED_BATCH, show_progress_bar=False)


MAKERS: dict[str, Callable[[Peers], Any]] = {
    SDPA: lambda peers: forward_of(transformers_model(peers, "sdpa")),
    EAGER: lambda peers: forward_of(transformers_model(peers, "eager")),
    COMPILED: lambda peers: compiled(transformers_model(peers, "sdpa")),
    ONNX: onnxruntime,
    SENTENCES: sentence_transformers,
    OURS_COMPILED: lambda peers: compiled(peers.model),
}
