"""What a call really does: its FLOPs, the bytes it holds at its peak, the bytes it keeps for the backward pass.

    counted(lambda: model(ids))  # Counted(flops=..., peak_bytes=..., saved_bytes=...)

Nothing here knows about ALBERT; cost.py has the same figures computed from the sizes, and tests hold the two equal.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counted(NamedTuple):
    """Of one call. Only tensors made during the call count: no parameters and no inputs."""

    flops: int  # of matrix products, forward and backward; a multiply-add is two
    peak_bytes: int  # the most that was alive at one time
    saved_bytes: int  # what autograd kept for the backward pass, storages that are shared once


def counted(fn: Callable[[], Any]) -> Counted:
    """Run fn once and count. What a kernel allocates and frees inside itself is not seen.

    FLOPs are those of torch's FlopCounterMode, to which the fused attention of the CPU is added. A call that also runs
    backward() has its FLOPs and its peak counted with that.
    """
    seen = _Seen()
    with seen, saved_tensors_hooks(seen.keep, lambda tensor: tensor):
        fn()
    return Counted(seen.flops, seen.peak, seen.saved)


class _Seen(TorchDispatchMode):
    """Sees every operation, and follows every storage from the operation that makes it to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}  # bytes of what is alive, by the address of the storage
        self.kept: set[int] = set()  # of these, what autograd has kept
        self.flops = self.now = self.peak = self.saved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = _FLOPS.get(func._overloadpacket)
        if formula is None:
            with self:  # an operation made of others, as there are in inference mode: see those instead
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((*args, *kwargs.values()))}
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self.sizes:  # neither a view nor in place
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata).atexit = False
        self.peak = max(self.peak, self.now)
        return out

    def forget(self, address: int) -> None:
        self.now -= self.sizes.pop(address)
        self.kept.discard(address)

    def keep(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address in self.sizes and address not in self.kept:
            self.kept.add(address)
            self.saved += self.sizes[address]
        return tensor


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Scores, and probs times values."""
    (B, A, T, D), S = q.shape, k.shape[2]
    return 2 * B * A * T * S * (D + v.shape[3])


def _attention_backward(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> int:
    """Five products: the scores once more, and the gradients of probs, v, q and k."""
    (B, A, T, D), S = q.shape, k.shape[2]
    return 2 * B * A * T * S * (3 * D + 2 * v.shape[3])


_FLOPS = flop_registry | {  # torch's formulas know the kernels of a GPU and not these (measured: torch 2.13)
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
