"""How to train when nobody says: epochs, learning rate, batch and dropout, by task, width, and what learns.

Small numbers of examples want many epochs with a warm-up (Mosbach et al. 2021); narrow models want higher rates, and
low-rank adapters or a head alone much higher ones. The rates of wide models are the usual ones (Devlin et al. 2019; Lan
et al. 2020, table 14); those of narrow ones are scaled from them by the square of the width, to 3e-4 at H = 256 and
1e-4 at H = 384. Measured, one seed: similarity of 572 pairs, H = 256, 0.51 at 1e-4, 0.57 at 3e-4, 0.55 at 1e-3; at
H = 384, 0.53 at 3e-5, 0.62 at 1e-4. Entailment of 3,275 pairs, H = 256, 0.69 at 1e-4, 0.65 at 3e-4, and at 1e-3 one
answer for all: --peak is worth a try. Many labels want more (77 of them, 1,000 texts, 20 epochs, bfloat16): H = 256,
0.65 at 3e-4, 0.69 at 1e-3, and of 10,003 texts in 4 epochs 0.87 at 3e-4, 0.90 at 9e-4; H = 384, 0.65 at 1e-4, 0.82 at
3e-4. Adapters of rank 8 on attention and feed-forward: H = 384, 0.67 at 1e-3, 0.80 at 3e-3; H = 256, 0.62 at 3e-3, 0.17
at 1e-2. Wide models could not be tried, and keep the usual rates.
"""

import math
from typing import Any, NamedTuple

from minialbert.config import AlbertConfig

STEPS = {"answer": 300}  # updates at least; a long context makes each of them dear
FEWEST, MOST = 3, 20  # epochs
MANY, WIDE = 20, 768  # labels; H


class Preset(NamedTuple):
    """What the command takes where no option says otherwise."""

    epochs: int
    batch: int
    peak: float


def preset(task: str, config: AlbertConfig, features: int, learns: str = "all", labels: int = 0) -> Preset:
    """features: rows to train on; learns: "all", "lora", or "head" (the encoder frozen); labels: to choose from."""
    batch = 16 if task in ("answer", "choice") else 32
    steps = STEPS.get(task, 1000)
    epochs = min(MOST, max(FEWEST, math.ceil(steps * batch / features)))
    H = config.hidden_size
    peak = 1e-5 if H >= 4096 else 2e-5 if H >= 1024 else 3e-5 * (768 / H) ** 2
    peak = float(f"{peak * {'all': 1, 'lora': 10, 'head': 30}[learns]:.1g}")
    if task == "classification" and labels >= MANY and H < WIDE and learns != "head":
        peak = 3 * peak if learns == "all" else max(peak, 3e-3)
    return Preset(epochs, batch, float(f"{peak:.1g}"))


def dropout_of(config: AlbertConfig, task: str) -> tuple[dict[str, Any], str]:
    """Rates to change for training, and a line that says which rates it has and why.

    v1 was trained with dropout and is tuned with it. v2 was trained without, yet its first published configurations
    said 0.1, with which it does not learn; what has v2's activation in a v1 size is taken for one of these. The
    classifier keeps 0.1, but for v2 on choices, where 0 is Google's setting.
    """
    changes: dict[str, Any] = {}
    why = ""
    second = config.model_type == "albert" and config.hidden_act == "gelu_new"
    if second and (config.hidden_dropout_prob or config.attention_probs_dropout_prob):
        changes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        why = " (ALBERT v2 was trained without dropout and does not learn with it; --dropout says otherwise)"
    if second and task == "choice":
        changes["classifier_dropout_prob"] = 0.0
    hidden = changes.get("hidden_dropout_prob", config.hidden_dropout_prob)
    attention = changes.get("attention_probs_dropout_prob", config.attention_probs_dropout_prob)
    head = changes.get("classifier_dropout_prob", config.head_dropout)
    return changes, f"dropout: hidden {hidden:g}, attention {attention:g}, classifier {head:g}{why}"
