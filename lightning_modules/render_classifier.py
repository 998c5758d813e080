"""Training of the classifier whose features FID and KID compare (supplement B.2: "retrained to classify images")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import ClockedModule, check_optimizers
from renderers import InputError
from utils.files import write_atomically
from utils.torch_io import load_state


def adamw(params: Any) -> torch.optim.Optimizer:
    """AdamW with learning rate 2e-3."""
    return torch.optim.AdamW(params, lr=2e-3)


class RenderClassifierModule(ClockedModule):
    """Cross-entropy on labelled renders. The learning rate decays to 0 along a cosine.

    Classes named ``property/value``, as those of :class:`ColoredRenderClassesDataModule`, form one softmax for each
    property; labels are then ``(B, P)`` and the losses of the P properties are added.

    Args:
        classifier: maps images to logits, such as :class:`networks.RenderClassifier` or :class:`networks.InceptionV3`; has
            ``classes``, the class names in alphabetical order as :class:`RenderClassesDataModule` numbers them, and
            ``sizes``, its other arguments.
        optimizer: optimizer of the weights.
        seed: seed of all random numbers of training.

    Raises:
        InputError: an argument of the optimizer or the seed is invalid.
    """

    decays_over_run = True
    evaluation_note = "held-out renders"

    def __init__(self, classifier: nn.Module, optimizer: OptimizerCallable = adamw, seed: int = 0) -> None:
        super().__init__(seed)
        self.classifier = classifier
        check_optimizers(classifier=optimizer)
        self.make_optimizer = optimizer
        self.accuracy = float("nan")  # mean over the properties
        self.accuracies: dict[str, float] = {}  # by property
        self.evaluation: dict[str, float] = {}  # metrics of the last validation

    @property
    def classes(self) -> list[str]:
        """Class names by logit. The data module checks that they are its own."""
        return cast(list[str], self.classifier.classes)

    @property
    def properties(self) -> dict[str, int]:
        """Number of classes of each property, in the order of the logits; one property without a name for plain classes."""
        return Counter(name.rpartition("/")[0] for name in self.classes)

    def split_logits(self, logits: Float[Tensor, "B K"]) -> tuple[Tensor, ...]:
        """Return the logits of each property."""
        return logits.split(list(self.properties.values()), 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.classifier.parameters())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        labels = labels.view(len(images), -1)
        logits = self.split_logits(self.classifier(images))
        loss = torch.stack([F.cross_entropy(x, y) for x, y in zip(logits, labels.T, strict=True)]).sum()
        optimizer = self.optimizers()
        self.cosine_lr(optimizer)
        self.step_optimizer(optimizer, loss)
        self.advance_step(len(images))
        self.log_step(loss=loss, accuracy=(predictions(logits) == labels).float().mean())

    def on_validation_epoch_start(self) -> None:
        self._counts = torch.zeros(len(self.properties) + 1, device=self.device)  # correct by property, all

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        correct = (predictions(self.split_logits(self.classifier(images))) == labels.view(len(images), -1)).sum(0)
        self._counts += torch.cat([correct, correct.new_tensor([len(images)])])

    def on_validation_epoch_end(self) -> None:
        *correct, count = cast(Tensor, self.all_gather(self._counts)).view(-1, len(self._counts)).sum(0)
        self.accuracies = {name: float(n / count) for name, n in zip(self.properties, correct, strict=True)}
        self.accuracy = sum(self.accuracies.values()) / len(self.accuracies)
        by_property = {f"val_accuracy_{name}": value for name, value in self.accuracies.items() if name}
        self.evaluation = {"val_accuracy": self.accuracy, **by_property}
        self.log_dict({"val_accuracy": self.accuracy}, prog_bar=True, sync_dist=True)
        self.log_dict(by_property, sync_dist=True)
        self.log_clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        network = self.classifier
        checkpoint["extractor"] = {
            "classes": network.classes,
            "sizes": network.sizes,
            "accuracy": self.accuracy,
            "accuracies": self.accuracies,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        extractor = checkpoint.get("extractor", {})  # a resumed run saves checkpoints before its next evaluation
        self.accuracy = extractor.get("accuracy", float("nan"))
        self.accuracies = extractor.get("accuracies", {})


def predictions(logits: Sequence[Float[Tensor, "B _"]]) -> Int[Tensor, "B P"]:
    """Return the most probable value of each property."""
    return torch.stack([x.argmax(1) for x in logits], 1)


def export_extractor(checkpoint: str | Path, file: str | Path, half: bool = False) -> dict[str, float]:
    """Write the weights of a trained classifier as an extractor of FID, with ``half`` in half precision.

    Returns:
        The classifier's accuracy by property; the property of plain classes has no name.

    Raises:
        InputError: the checkpoint does not exist or is not one of a classifier.
    """
    state = _load_classifier(checkpoint)
    accuracies = state["extractor"].get("accuracies") or {"": float(state["extractor"]["accuracy"])}
    prefix = "classifier."
    weights = {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    write_atomically(Path(file), lambda path: torch.save({**state["extractor"], "weights": weights}, path))
    return accuracies


def sees_color(checkpoint: str | Path) -> bool:
    """Return whether a trained classifier sees colour.

    Raises:
        InputError: the checkpoint does not exist or is not one of a classifier.
    """
    return _load_classifier(checkpoint)["extractor"]["sizes"].get("channels", 1) == 3


def _load_classifier(checkpoint: str | Path) -> dict[str, Any]:
    try:
        state = load_state(checkpoint)
    except InputError as error:
        raise InputError(f"{error}; pass a finished run of a classifier") from error
    try:
        float(state["extractor"]["accuracy"])
        state["extractor"]["sizes"].keys()
        state["state_dict"].keys()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{checkpoint} is not a checkpoint of a classifier; pass a finished run of one") from error
    return state
