"""Layers whose statistics cover the batches of all ranks in distributed training.

Only two layers use more than one sample: batch norm and the minibatch standard deviation. Both use the batches of all
ranks, so that the number of ranks affects only the speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.distributed import rank_count, sum_over_ranks, this_rank


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks, which must have the same size, on any device.

    torch's ``SyncBatchNorm`` supports only GPUs. Running statistics are bit-identical on all ranks.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm requires a batch and channels, got {tuple(input.shape)}")

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
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return  # track_running_stats is False
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def sync_batch_norm(network: nn.Module, on_cpu: bool) -> None:
    """Replace every batch norm in a network by one over all ranks' batches, with the same weights and names.

    This is torch's ``SyncBatchNorm`` on GPUs and :class:`SyncedBatchNorm` on CPUs.
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
    """Return the standard deviation within each sample's group, averaged over channels and pixels, ``(B,)``.

    Groups span the batches of all ranks, concatenated in rank order: sample i of the ``B R`` samples is in group
    ``i mod (B R / G)``.

    Args:
        x: ``(B, C, H, W)``.
        group: G, which divides ``B R``.
    """
    dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # small differences need the precision
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
