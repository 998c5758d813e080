"""A GAN with a few dozen weights and its data, to test the command line in milliseconds."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from utils.errors import InputError


class Blur(nn.Module):
    """A component that a config names by class path."""

    def __init__(self, width: int = 3, strength: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.strength = strength


class SharpBlur(Blur):
    """Another component, with an argument that the first lacks."""

    def __init__(self, width: int = 3, edge: float = 1.0) -> None:
        super().__init__(width)
        self.edge = edge


class Demanding(Blur):
    """A component with a required argument."""

    def __init__(self, amount: int, width: int = 3) -> None:
        super().__init__(width)
        self.amount = amount


@dataclass(frozen=True)
class Views:
    """A dataclass, which is a plain mapping in a config.

    Args:
        azimuth: Degrees.
        fov: Degrees.
    """

    azimuth: tuple[float, float] = (0.0, 360.0)
    fov: float | None = None


class ToyGAN(LightningModule):
    """Two networks with two optimizers and manual optimization.

    Args:
        latent_size: Size of the latent.
        image_size: Size of a 1D image.
        optimizer_g: The generator's optimizer.
        optimizer_d: The discriminator's optimizer.
        renderer: A component by class path.
        cameras: A dataclass.
        proxy_checkpoint: A checkpoint, or the config that trains it.
        step_seconds: Duration of a step.
    """

    def __init__(
        self,
        latent_size: int = 4,
        image_size: int = 8,
        optimizer_g: OptimizerCallable = torch.optim.Adam,
        optimizer_d: OptimizerCallable = torch.optim.Adam,
        renderer: Blur | None = None,
        cameras: Views = Views(),
        proxy_checkpoint: str | None = None,
        step_seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if latent_size < 1:
            raise InputError(f"latent_size must be at least 1, not {latent_size}")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.optimizers_of = (optimizer_g, optimizer_d)
        self.renderer = renderer or Blur()
        self.cameras = cameras
        self.proxy_checkpoint = proxy_checkpoint
        self.step_seconds = step_seconds
        self.seed = seed
        self.generator = nn.Linear(latent_size, image_size)
        self.discriminator = nn.Linear(image_size, 1)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> list:
        g, d = self.optimizers_of
        return [g(self.generator.parameters()), d(self.discriminator.parameters())]

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        time.sleep(self.step_seconds)
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.steps_done))
        real = torch.rand(4, self.discriminator.in_features, generator=random)
        z = torch.randn(4, self.generator.in_features, generator=random)
        opt_g, opt_d = self.optimizers()
        fake = self.generator(z)
        for optimizer, loss in (
            (opt_d, lambda: (self.discriminator(fake.detach()) - self.discriminator(real)).mean()),
            (opt_g, lambda: -self.discriminator(fake).mean()),
        ):
            optimizer.zero_grad()
            diverges = os.environ.get("TOY_NAN") == str(int(self.steps_done) + 1)
            self.manual_backward(loss() * float("nan") if diverges else loss())
            optimizer.step()
        self.steps_done += 1
        self.step = int(self.steps_done)
        self.losses = {"d": torch.zeros(()), "g": -self.discriminator(fake).mean().detach()}
        self.log("loss/generator", -self.discriminator(fake).mean().detach())
        if when := os.environ.get("TOY_SIGNALS"):  # such as "3:SIGTERM"; several signals are sent in order
            step, *names = when.split(":")
            for name in names if int(self.steps_done) == int(step) else ():
                os.kill(os.getpid(), signal.Signals[name])
        if progress := os.environ.get("TOY_PROGRESS"):
            Path(progress).write_text(str(int(self.steps_done)))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if os.environ.get("TOY_VALIDATION_SIGNAL") and not self.trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)
        self.log("mean_weight", self.generator.weight.mean())

    test_step = validation_step

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.generator(torch.zeros(1, self.generator.in_features))


class Numbers(Dataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.length:
            raise IndexError
        return torch.tensor(float(index))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.length))


class ToyData(LightningDataModule):
    """Numbers from 0 on.

    Args:
        size: Size of a 1D image.
        batches: Steps per epoch.
        views: An argument with a nested type.
        order: An argument with two choices.
        cameras: A dataclass.
    """

    def __init__(
        self,
        size: int = 8,
        batches: int = 4,
        views: list[float] | None = None,
        order: Literal["random", "given"] = "random",
        cameras: Views = Views(),
    ) -> None:
        super().__init__()
        self.cameras = cameras
        self.size = size
        self.batches = batches
        self.views = views

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Numbers(self.batches))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Numbers(2))

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


class WriteShapes(Callback):
    """Writes predictions into the trainer's default_root_dir."""

    def __init__(self, name: str = "shape") -> None:
        self.name = name

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.txt").write_text(str(outputs.tolist()))


class StopAfter(Callback):
    """Ends ``Trainer.fit`` after a training step, as early stopping does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if int(pl_module.steps_done) == self.step:
            trainer.should_stop = True
