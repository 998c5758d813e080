"""Train every module for some steps on one or two ranks, in a separate process.

python two_ranks.py FOLDER RANK RANKS: write losses and states to FOLDER/<ranks>-<rank>.pt. Networks and data are those of
the modules' tests.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import pytorch_lightning as pl
import torch
from small_iggan import VIEWS, grids, iggan, proxy_module, renders
from torch import nn

from benchmarks.budget import budget
from benchmarks.training_runs import StepRecorder
from datamodules.base import RunDataModule
from lightning_modules import GrowthPhase, ImageGANModule, MeshGANModule, RenderClassifierModule, VoxelGANModule
from networks import (
    AdaptiveAugment,
    DCGANDiscriminator,
    DCGANGenerator,
    MeshGenerator,
    RenderClassifier,
    StyleGANDiscriminator,
    VoxelGenerator,
)
from renderers import AbsorptionRenderer, OpenGLRenderer, SoftRasterizer, ViewDistribution
from utils.distributed import RanksDifferError

STEPS = 20
TINY = {"channel_base": 64, "channel_max": 8}


class Images(RunDataModule):
    """Random images, with labels if there are classes."""

    def __init__(self, channels: int, size: int, classes: int = 0) -> None:
        super().__init__(batch_size=4, total_kimg=STEPS * 4 / 1000)
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (12, channels, size, size), dtype=torch.uint8, generator=generator)
        parts = [images] + ([torch.arange(12) % classes] if classes else [])
        self.data, self.reference_images = torch.utils.data.TensorDataset(*parts), 11

    def train_dataloader(self):
        return self.training_loader(self.data, 12)

    def val_dataloader(self):
        return self.evaluation_loader(self.data, self.reference_images)


def sgd(params) -> torch.optim.Optimizer:
    """Not Adam, whose first steps turn rounding errors of a gradient into full-sized updates."""
    return torch.optim.SGD(params, lr=0.01)


GAN = {"generator_optimizer": sgd, "discriminator_optimizer": sgd}


def modules() -> dict:
    """Return modules with their data modules by name."""
    voxels = VoxelGANModule(
        VoxelGenerator(8, latent_size=8, width=16),
        DCGANDiscriminator(16, width=8),
        OpenGLRenderer(16),
        AbsorptionRenderer(16),
        VIEWS,
        **GAN,
    )
    meshes = MeshGANModule(
        MeshGenerator(16, latent_size=8, style_size=8, mapping_layers=2, **TINY),
        StyleGANDiscriminator(16, **TINY),
        SoftRasterizer(16),
        ViewDistribution((-45, 45), (-15, 15), fov=10),
        # 8² for five steps, a fade of five steps, then 16².
        growth=[GrowthPhase(8, 0, 0.02), GrowthPhase(16, 0.02, 0.008)],
        extractor="renders_color",
        **GAN,
    )
    for p in meshes.generator.parameters():  # parameters that start at 0, such as noise strengths, matter too
        p.data += 0.1 * torch.randn_like(p)
    images = ImageGANModule(DCGANGenerator(16, latent_size=8, width=16), DCGANDiscriminator(16, width=8), **GAN)
    adaptive = ImageGANModule(
        DCGANGenerator(16, latent_size=8, width=16),
        DCGANDiscriminator(16, width=8),
        augment=AdaptiveAugment(target=0.1, interval=2, adjust_kimg=0.08),
        **GAN,
    )
    classifier = RenderClassifierModule(RenderClassifier(["a", "b", "c"], width=4, num_features=8), sgd)
    return {
        "iggan": (iggan(proxy_optimizer=lambda p: torch.optim.SGD(p, lr=1e-5), **GAN), renders(STEPS)),
        "voxel": (voxels, renders(STEPS)),
        "image": (images, renders(STEPS)),
        "image, ada": (adaptive, renders(STEPS)),
        "mesh": (meshes, Images(3, 16)),
        "proxy": (proxy_module(optimizer=lambda p: torch.optim.SGD(p, lr=1e-4)), grids(STEPS)),
        "classifier": (classifier, Images(1, 64, classes=3)),
    }


class Losses(StepRecorder):
    """Records the values logged after each step and the bytes that were all-reduced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "steps.json"))
        self.values = []

    def on_train_batch_end(self, trainer, module, *_):
        super().on_train_batch_end(trainer, module)
        self.values.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def train(module: nn.Module, data: RunDataModule, ranks: int, folder: Path, steps: int = STEPS) -> dict:
    """Train with the trainer settings of the command line and evaluate once at the end."""
    losses, computed = Losses(folder), budget(module).all_reduced(4)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        callbacks=[losses],
        num_sanity_val_steps=0,
        limit_train_batches=steps,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / f"{ranks}.ckpt")  # compares the ranks
    figures = {k: float(v) for k, v in trainer.callback_metrics.items()}
    return {
        "losses": losses.values,
        "reduced": losses.reduced[-1],
        "computed": computed,
        "figures": figures,
        "state": {k: v.clone() for k, v in module.state_dict().items()},
    }


def refusal(module: pl.LightningModule, folder: Path, rank: int) -> str:
    """Return the error of a checkpoint when rank 1 has another spectral-norm vector. Nothing must be written."""
    module.discriminator.layers[2].parametrizations.weight[0]._u[0] += 1e-6 * rank
    try:
        module.trainer.save_checkpoint(folder / "refused.ckpt")
    except RanksDifferError as error:
        return str(error)
    return ""


def main(folder: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    torch.manual_seed(0)
    parts = modules()
    results = {name: train(*part, ranks, folder) for name, part in parts.items()}
    if ranks > 1:
        results["refusal"] = refusal(parts["image"][0], folder, rank)
    torch.save(results, folder / f"{ranks}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
