"""Batch norm over the images of all processes, so that several train as one does."""

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function


class SumOverProcesses(Function):
    """The sum of each process's tensor, on every process; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        """Any shape, the same on all processes."""
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        """As forward: every process's loss depends on every process's values."""
        return SumOverProcesses.apply(gradient)


class JointBatchNorm2d(nn.BatchNorm2d):
    """`nn.SyncBatchNorm`, which exists for GPUs only, in plain operations; each process has as many images."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and dtype; statistics in float32 at least."""
        if not self.training:
            return super().forward(maps)
        values = maps.to(torch.promote_types(maps.dtype, torch.float32))
        count = distributed.get_world_size() * values.numel() // values.shape[1]
        mean = SumOverProcesses.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        # As `nn.BatchNorm2d` makes them by default; the networks here have no others.
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(maps.dtype)


def join_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Replace batch norms that train by joint ones that share their weights; leave frozen ones as they are."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, joined(child, device))


def joined(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    """The joint batch norm with the weights of another."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    joint = JointBatchNorm2d(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        setattr(joint, name, tensor)
    return joint
