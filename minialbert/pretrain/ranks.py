"""One process, or many that torchrun started; loop.py asks here who it is, and for sums over all."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The processes of a run that torchrun started, or this one alone.

    Gradients are summed once, after the last part of a batch. torch's DistributedDataParallel would sum each as soon as
    it is whole, beside the computation; but the gradient of a block that all layers share is whole only at the end.
    """

    def __init__(self, device: str | torch.device):
        self.device = torch.device(device)
        if "RANK" in os.environ and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        together = dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        if together and self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world == 1:
            return x
        x = x.to(self.device)
        dist.all_reduce(x)
        return x

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def same(self, tensors: list[Tensor]) -> None:
        """Gives all processes the numbers of the first."""
        for x in tensors if self.world > 1 else ():
            dist.broadcast(x, 0)
