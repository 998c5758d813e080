"""What a network must know of the other processes that train with it: sums over all of their batches.

Only two layers look at more than one sample, batch norm and the minibatch deviation. Both see the batch of all ranks, so
that the number of ranks changes speed and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.distributed import rank_count, sum_over_ranks, this_rank


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks, which are of one size, on any device.

    torch's ``SyncBatchNorm`` does this on GPUs alone. Running statistics come out the same on every rank, bit for bit.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs a batch and channels, got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        x = input.float()
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *(1,) * (x.dim() - 2))
        count = x.numel() // x.shape[1] * rank_count()
        mean = sum_over_ranks(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        result = centred * scale.view(shape)
        return (result + self.bias.view(shape) if self.affine else result).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def sync_batch_norm(network: nn.Module, on_cpu: bool) -> None:
    """Let every batch norm within a network see all ranks' batches; its weights and their names stay.

    torch's ``SyncBatchNorm`` on GPUs, :class:`SyncedBatchNorm` on CPUs.
    """
    for name, child in network.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            sync_batch_norm(child, on_cpu)
        elif not on_cpu:
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        elif not isinstance(child, SyncedBatchNorm):
            shared = SyncedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            for key, value in [*child._parameters.items(), *child._buffers.items()]:
                setattr(shared, key, value)
            setattr(network, name, shared.train(child.training))


def group_deviation(x: Tensor, group: int) -> Tensor:
    """How much the samples of a group differ, ``(B,)``: the deviation over the group of each channel and pixel, averaged.

    Groups are drawn from the batches of all ranks, rank after rank: sample i of those ``B R`` is in group
    ``i mod (B R / G)``.

    Args:
        x: ``(B, C, H, W)``.
        group: G.
    """
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # small differences need it
    b, r = len(x), rank_count()
    if r == 1:
        deviation = (x.view(group, -1, *x.shape[1:]).var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.repeat(group).to(dtype)
    groups = b * r // group
    member = (torch.arange(b, device=x.device) + this_rank() * b) % groups
    empty = x.new_zeros(groups, *x.shape[1:])
    mean = sum_over_ranks(empty.index_add(0, member, x)) / group
    variance = sum_over_ranks(empty.index_add(0, member, (x - mean[member]).square())) / group
    return (variance + 1e-8).sqrt().mean((1, 2, 3))[member].to(dtype)
