"""Training of the classifier whose features FID and KID compare (supplement B.2: "retrained to classify images")."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import ClockedModule
from renderers import InputError
from utils.files import write_atomically
from utils.torch_io import load_state


def adamw(params: Any) -> torch.optim.Optimizer:
    """AdamW with learning rate 2e-3."""
    return torch.optim.AdamW(params, lr=2e-3)


class RenderClassifierModule(ClockedModule):
    """Cross-entropy on labelled renders. The learning rate decays to 0 along a cosine.

    Args:
        classifier: maps images to logits, such as :class:`networks.RenderClassifier` or :class:`networks.InceptionV3`; has
            ``classes``, the class names in alphabetical order as :class:`RenderClassesDataModule` numbers them, and
            ``sizes``, its other arguments.
        optimizer: optimizer of the weights.
        seed: seed of all random numbers of training.
    """

    def __init__(self, classifier: nn.Module, optimizer: OptimizerCallable = adamw, seed: int = 0) -> None:
        super().__init__(seed)
        self.classifier = classifier
        self.make_optimizer = optimizer
        self.accuracy = float("nan")

    @property
    def classes(self) -> list[str]:
        """Class names by logit. The data module checks that they are its own."""
        return cast(list[str], self.classifier.classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.classifier.parameters())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.classifier(images)
        loss = F.cross_entropy(logits, labels)
        optimizer = self.optimizers()
        self.cosine_lr(optimizer)
        self.step_optimizer(optimizer, loss)
        self.advance_step(len(images))
        self.log_step(loss=loss, accuracy=(logits.argmax(1) == labels).float().mean())

    def on_validation_epoch_start(self) -> None:
        self._counts = torch.zeros(2, device=self.device)  # correct, all

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        correct = (self.classifier(images).argmax(1) == labels).sum()
        self._counts += torch.stack([correct, torch.tensor(len(labels), device=correct.device)])

    def on_validation_epoch_end(self) -> None:
        correct, count = cast(Tensor, self.all_gather(self._counts)).view(-1, 2).sum(0)
        self.accuracy = float(correct / count)
        self.log_dict({"val_accuracy": self.accuracy}, prog_bar=True, sync_dist=True)
        self.log_clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        network = self.classifier
        checkpoint["extractor"] = {"classes": network.classes, "sizes": network.sizes, "accuracy": self.accuracy}


def export_extractor(checkpoint: str | Path, file: str | Path, half: bool = False) -> float:
    """Write the weights of a trained classifier as an extractor of FID, with ``half`` in half precision.

    Returns:
        The classifier's accuracy.

    Raises:
        InputError: the checkpoint does not exist or is not one of a classifier.
    """
    try:
        state = load_state(checkpoint)
    except InputError as error:
        raise InputError(f"{error}; pass a finished run of a classifier") from error
    try:
        accuracy = float(state["extractor"]["accuracy"])
        state["state_dict"].keys()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{checkpoint} is not a checkpoint of a classifier; pass a finished run of one") from error
    prefix = "classifier."
    weights = {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    write_atomically(Path(file), lambda path: torch.save({**state["extractor"], "weights": weights}, path))
    return accuracy
