"""LAMB, the optimizer that ALBERT was trained with, and its learning rate (You et al. 2020, arXiv 1904.00962).

A step takes the gradient g of each weight tensor w and keeps two running means, m and v, as Adam does:

    m = β1 m + (1 - β1) g                where the gradient points, on average
    v = β2 v + (1 - β2) g²               how large it is, on average
    u = m / (sqrt(v) + ε) + λ w          Adam's update; the decay stands beside it, it is not part of g
    w = w - rate · ‖w‖ / ‖u‖ · u         LAMB's own line: the trust ratio ‖w‖ / ‖u‖

The last line moves every tensor by the same share of its own length, ‖Δw‖ = rate · ‖w‖: small weights are not thrown
far off by a large rate, so the rate, and with it the batch, can be large. Without the ratio (trust=False) this is
AdamW. Google's code leaves out Adam's bias correction in both. Biases and LayerNorm have neither decay nor ratio.

Nothing here knows the model or the loop (loop.py). Gradients are clipped before the step, with torch's
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0): it differs from Google's formula by one part in a million.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minialbert.errors import InputError

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch._foreach_ functions take and give

# ---- how far: the learning rate ----


def rate(step: int, *, peak: float, total: int, warmup: int, power: float = 1.0, start: int = 0) -> float:
    """The learning rate after `step` updates: up in a line for `warmup` steps, then down to 0 at step `total`.

    As in Google's code, the decay counts from step 0, not from the end of the warm-up: at its end the rate drops a
    little, from just under peak to peak · (1 - warmup / total) ** power. The very first update is made at rate(0) = 0
    when there is a warm-up: it fills m and v only. `start` moves the warm-up, for training that goes on from a model
    that is done; before it Google's rate is negative, which would climb the loss, and ours is 0.
    Raises InputError for numbers that describe no such curve.

    >>> [rate(step, peak=1.0, total=10, warmup=2) for step in (0, 1, 2, 5, 10, 11)]
    [0.0, 0.5, 0.8, 0.5, 0.0, 0.0]
    """
    if step < 0 or not 0 <= peak < math.inf or not 0 < power < math.inf:
        raise InputError(f"step={step}, peak={peak}, power={power}: expected step and peak >= 0, power > 0, all finite")
    if total < 1 or warmup < 0 or start < 0 or start + warmup > total:
        raise InputError(
            f"the warm-up is steps {start} to {start + warmup}, the training {total} steps: "
            "expected 0 <= start <= start + warmup <= total, total >= 1; train longer or warm up for fewer steps"
        )
    if warmup and step < start + warmup:
        return peak * max(0, step - start) / warmup
    return peak * (1 - min(step, total) / total) ** power


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Gives every group this learning rate. A rate depends on the step alone: a resumed run has nothing to restore."""
    for group in optimizer.param_groups:
        group["lr"] = value


def scaled_rate(batch: int, *, peak: float = 0.00176, reference: int = 4096) -> float:
    """The peak for another batch size by the square-root rule of the paper: half the rate for a quarter of the batch.

    The defaults are ALBERT's. They are the paper's own: its rate is 0.005 at a batch of 32768, so 0.00177 at 4096.

    >>> scaled_rate(1024)
    0.00088
    """
    if batch < 1 or reference < 1:
        raise InputError(f"batch={batch}, reference={reference}: expected at least 1 sequence in each")
    return peak * math.sqrt(batch / reference)


# ---- which way: the optimizer ----


def _ratios(parameters: Tensors, update: Tensors, phi: tuple[float, float], max_trust: float) -> list[Tensor]:
    """φ(‖w‖) / ‖u‖ of each tensor; 1 where either is 0, so that a tensor of zeros can leave zero."""
    w = torch.stack(torch._foreach_norm(parameters)).clamp(*phi)
    u = torch.stack(torch._foreach_norm(update))
    return list(torch.where((w == 0) | (u == 0), 1.0, w / u).clamp(max=max_trust).unbind())


class Lamb(torch.optim.Optimizer):
    """LAMB as in Google's ALBERT code; each option is one way in which published versions differ from it.

    params: parameter_groups(model), or anything torch's optimizers take. A group can override every option.
    trust: False is Google's AdamW, and with bias_correction=True it is torch.optim.AdamW.
    bias_correction: m / (1 - β1^t) and v / (1 - β2^t), as in algorithm 2 of the paper; Google leaves it to the warm-up.
    phi: the paper's φ, bounds for ‖w‖ within the ratio; (0, 10) is common in ports. Google: none.
    max_trust: a bound for the ratio itself (LAMBC, Fong et al. 2020); 1 is common in ports. Google: none.

    The state of a parameter is m, v, the number of its steps, and its last trust ratio. A parameter without gradient
    is left alone, a gradient of NaN makes the parameter NaN.
    Parameters are float32 or float64. In bfloat16 a weight cannot take a step smaller than 0.2 to 0.4 % of itself: at
    ALBERT's highest rate 6 weights in 10 would stay where they are. Keep the model in float32, use torch.autocast.
    Raises InputError for options out of range, and for other dtypes and sparse gradients.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        trust: bool = True,
        bias_correction: bool = False,
        phi: tuple[float, float] = (0.0, math.inf),
        max_trust: float = math.inf,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"trust": trust, "bias_correction": bias_correction, "phi": phi, "max_trust": max_trust}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient. Returns what the closure returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(parameters, group) for group in self.param_groups for parameters in _with_gradients(group)]
        for parameters, group in work:
            self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The four lines at the top of this file, each over all tensors of the list at once."""
        for w in parameters:
            if not self.state[w]:
                self.state[w] = {"step": 0, "m": torch.zeros_like(w), "v": torch.zeros_like(w)}
            self.state[w]["step"] += 1
        states = [self.state[w] for w in parameters]
        gradients: list[Any] = [w.grad for w in parameters]
        m: Tensors = [state["m"] for state in states]
        v: Tensors = [state["v"] for state in states]
        beta1, beta2 = group["betas"]

        torch._foreach_lerp_(m, gradients, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - beta2)

        if group["bias_correction"]:
            m = torch._foreach_div(m, [1 - beta1 ** state["step"] for state in states])
            v = torch._foreach_div(v, [1 - beta2 ** state["step"] for state in states])
        update = torch._foreach_sqrt(v)  # the only copy; from here to the end it is worked on in place
        torch._foreach_add_(update, group["eps"])
        torch._foreach_reciprocal_(update)
        torch._foreach_mul_(update, m)
        if group["weight_decay"]:
            torch._foreach_add_(update, parameters, alpha=group["weight_decay"])

        if group["trust"]:
            ratios = _ratios(parameters, update, group["phi"], group["max_trust"])
            torch._foreach_mul_(update, ratios)
            for state, ratio in zip(states, ratios, strict=True):
                state["trust_ratio"] = ratio
        torch._foreach_add_(parameters, update, alpha=-group["lr"])

    def trust_ratios(self) -> dict[str | int, float]:
        """The ratio of each adapted parameter in its last step, by name, or by number when the groups have no names.

        They were left on the device: reading them waits for it once, the steps in between never do.
        """
        parameters = [w for group in self.param_groups for w in group["params"]]
        return {
            name: self.state[w]["trust_ratio"].item()
            for name, w in zip(_names(self.param_groups), parameters, strict=True)
            if "trust_ratio" in self.state.get(w, {})
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, and it refuses what would train wrongly."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except InputError:
            del self.param_groups[-1]
            raise

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As torch's: options come from the state, and tensors are shared with it where they can be.

        Raises InputError for the state of another optimizer or of parameters with other names.
        """
        if any("trust" not in group for group in state_dict["param_groups"]):
            raise InputError("the state is of another optimizer, expected one that Lamb.state_dict() gave")
        pairs = zip(_names(state_dict["param_groups"]), _names(self.param_groups), strict=False)
        for number, (found, expected) in enumerate(pairs):
            if found != expected:
                raise InputError(
                    f"parameter {number} of the state is {found}, expected {expected}; give Lamb the groups it had then"
                )
        super().load_state_dict(dict(state_dict))


def _names(groups: list[dict[str, Any]]) -> list[str | int]:
    """The names of the parameters of all groups, or their numbers: torch sees to it that all have names or none."""
    names = [name for group in groups for name in group.get("param_names", [])]
    return names or list(range(sum(len(group["params"]) for group in groups)))


def _with_gradients(group: dict[str, Any]) -> list[list[Tensor]]:
    """The parameters of a group that have a gradient, in lists of one device and dtype, which foreach is fast for."""
    lists: dict[Any, list[Tensor]] = {}
    for name, w in zip(_names([group]), group["params"], strict=True):
        if w.grad is not None:
            if w.grad.layout != torch.strided:
                raise InputError(f"the gradient of {name} is {w.grad.layout}; make its embedding with sparse=False")
            lists.setdefault((w.device, w.dtype), []).append(w)
    return list(lists.values())


def _check(group: dict[str, Any]) -> None:
    """Raises InputError for options and parameters that Lamb cannot work with."""
    (beta1, beta2), (low, high) = group["betas"], group["phi"]
    rules = {
        "lr": ("0 <= lr", group["lr"] >= 0),
        "betas": ("0 <= beta < 1 for both", 0 <= beta1 < 1 and 0 <= beta2 < 1),
        "eps": ("0 < eps", group["eps"] > 0),
        "weight_decay": ("0 <= weight_decay", group["weight_decay"] >= 0),
        "phi": ("0 <= low <= high", 0 <= low <= high),
        "max_trust": ("0 < max_trust", group["max_trust"] > 0),
    }
    for name, (expected, holds) in rules.items():
        if not holds:
            raise InputError(f"{name}={group[name]}, expected {expected}")
    for parameter, w in zip(_names([group]), group["params"], strict=True):
        if w.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"parameter {parameter} is {w.dtype}, expected float32: in fewer bits most steps of a weight round to "
                "nothing; keep the model in float32 and compute in torch.autocast"
            )
