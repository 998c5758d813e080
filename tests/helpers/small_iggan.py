"""A small IG-GAN: 8³ grids, 16² images."""

import json
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml

from datamodules import ShapeDataModule, ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from lightning_modules import IGGANModule, NeuralRendererModule
from networks import DCGANDiscriminator, RenderNet, VoxelGenerator
from renderers import NeuralRenderer, OpenGLRenderer, ViewDistribution

VIEWS = ViewDistribution()

RENDERER = {"class_path": "renderers.OpenGLRenderer", "init_args": {"image_size": 16, "backend": "moderngl"}}
NETWORK = {
    "class_path": "networks.RenderNet",
    "init_args": {"lattice_size": 16, "image_size": 16, "width": 16, "channels_3d": [2, 4, 4]},
}
CONFIG = {  # iggan() as in a config.yaml
    "class_path": "lightning_modules.IGGANModule",
    "init_args": {
        "generator": {
            "class_path": "networks.VoxelGenerator",
            "init_args": {"voxel_size": 8, "latent_size": 8, "width": 16},
        },
        "discriminator": {
            "class_path": "networks.DCGANDiscriminator",
            "init_args": {"image_size": 16, "width": 8},
        },
        "renderer": RENDERER,
        "neural_renderer": {
            "class_path": "renderers.NeuralRenderer",
            "init_args": {"network": NETWORK, "image_size": 16, "lattice_size": 16},
        },
        "views": {"class_path": "renderers.ViewDistribution", "init_args": {}},
        # Missing weights: an export does not evaluate, so it must not load them.
        "extractor": "imagenet",
        "extractor_weights": "nowhere.pth",
    },
}


def proxy() -> NeuralRenderer:
    return NeuralRenderer(RenderNet(16, 16, width=16, channels_3d=(2, 4, 4)), 16, lattice_size=16)


def iggan(**options) -> IGGANModule:
    torch.manual_seed(0)
    parts = {
        "generator": VoxelGenerator(8, latent_size=8, width=16),
        "discriminator": DCGANDiscriminator(16, width=8),
        "renderer": OpenGLRenderer(16),
        "neural_renderer": proxy(),
        "views": VIEWS,
    }
    return IGGANModule(**{**parts, **options})


def proxy_module(**options) -> NeuralRendererModule:
    torch.manual_seed(0)
    return NeuralRendererModule(proxy(), OpenGLRenderer(16), VIEWS, **options)


def renders(steps: int = 4, **options) -> ShapeNetRenderDataModule:
    settings = {"batch_size": 4, "total_kimg": steps * 4 / 1000, "reference_images": 8, **options}
    return ShapeNetRenderDataModule(
        shapes=ProceduralShapes("chair", count=12, voxel_size=16),
        reference_shapes=ProceduralShapes("chair", count=8, voxel_size=16, split="test"),
        renderer=OpenGLRenderer(16),
        views=VIEWS,
        **settings,
    )


def grids(steps: int = 4) -> ShapeDataModule:
    return ShapeDataModule(
        ProceduralShapes("table", count=12, voxel_size=16),
        ProceduralShapes("table", count=4, voxel_size=16, split="test"),
        batch_size=4,
        total_kimg=steps * 4 / 1000,
    )


class StopAt(pl.Callback):
    """Saves a checkpoint after a training step and stops."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        self.step, self.checkpoint = step, checkpoint

    def on_train_batch_end(self, trainer, module, *_):
        if module.step == self.step:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True


def trainer(folder, **options) -> pl.Trainer:
    settings = {"devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    settings |= {"enable_progress_bar": False, **options}
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **settings,
    )


def write_run(folder: Path) -> Path:
    """Write a run of the small IG-GAN, saved before its first step."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3, "model": CONFIG}))
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    saver = trainer(folder)
    saver.strategy.connect(iggan())
    saver.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    lines = [{"kimg": k, "step": k, "fid": 90.0 - k, "note": "extractor x", "seconds": 60.0} for k in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
