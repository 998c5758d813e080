"""Mixed precision: every module trains with losses in float32."""

import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from small_iggan import trainer
from two_ranks import Losses, modules

from renderers import InputError

NAMES = ("iggan", "voxel", "image", "mesh", "proxy", "classifier")


def losses(name: str, folder, steps: int = 3, callbacks: list[pl.Callback] | None = None, **options) -> list[dict]:
    torch.manual_seed(0)
    module, data = modules()[name]
    recorder = Losses(folder)
    run = trainer(folder, callbacks=[*(callbacks or []), recorder], limit_train_batches=steps, **options)
    run.fit(module, data)
    assert all(v.dtype == torch.float32 for v in run.callback_metrics.values())
    return [{k: v for k, v in step.items() if k in ("d", "g", "r", "loss", "r1")} for step in recorder.values]


class Types(pl.Callback):
    """Records the output types of convolutions."""

    def setup(self, trainer, module, stage):
        self.seen = set()
        for layer in (getattr(module, "discriminator", None) or module).modules():
            if isinstance(layer, torch.nn.modules.conv._ConvNd):
                layer.register_forward_hook(lambda layer, args, output: self.seen.add(output.dtype))


@pytest.mark.parametrize("name", NAMES)
def test_bf16_trains_with_losses_in_float32(name, tmp_path):
    types = Types()
    mixed = losses(name, tmp_path, precision="bf16-mixed", callbacks=[types])
    plain = losses(name, tmp_path)
    assert name == "mesh" or types.seen == {torch.bfloat16}
    for key, value in plain[0].items():
        assert mixed[0][key] == pytest.approx(value, rel=0.05, abs=0.02), key
        assert mixed[0][key] != value or key == "r1"
    assert all(math.isfinite(value) for step in mixed for value in step.values())


@pytest.mark.parametrize("name", ["iggan", "iggan at the renderer", "voxel", "image", "mesh", "proxy", "classifier"])
def test_backward_passes_run_outside_of_autocast(name, tmp_path, monkeypatch):
    """Within it, the gradients of what the forward pass computes in float32, such as renderers, would be rounded."""
    module, data = modules()[name.partition(" ")[0]]
    if name == "iggan at the renderer":
        module.gradient_at = "renderer"
    autocast = []

    def recorded(function):
        def call(*args, **options):
            if not options.get("create_graph"):  # of R1, whose graph belongs to the forward pass
                autocast.append(torch.is_autocast_enabled("cpu"))
            return function(*args, **options)

        return call

    for owner, attribute in ((torch.autograd, "grad"), (torch.autograd, "backward")):
        monkeypatch.setattr(owner, attribute, recorded(getattr(owner, attribute)))
    inside = []
    module.training_step = lambda *args, step=module.training_step: (
        inside.append(torch.is_autocast_enabled("cpu")),
        step(*args),
    )[1]
    trainer(tmp_path, limit_train_batches=1, precision="bf16-mixed").fit(module, data)
    assert inside == [True] and autocast and not any(autocast)


def setup_with(strategy: object, precision: str, ranks: int = 1) -> pl.LightningModule:
    module = modules()["image"][0]
    module._trainer = SimpleNamespace(strategy=strategy, precision=precision, world_size=ranks)
    module.setup("fit")
    return module


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "bf16-true", "64-true"])
def test_other_precisions_are_refused(precision):
    with pytest.raises(
        InputError,
        match=rf"^trainer\.precision {precision} is not supported; use 32-true, or bf16-mixed to compute in bfloat16$",
    ):
        setup_with(SingleDeviceStrategy("cpu"), precision)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_shard_networks_are_refused_on_any_number_of_devices(strategy, ranks):
    with pytest.raises(
        InputError, match=rf"^trainer\.strategy must be ddp, or auto on one device, not {strategy.__name__};"
    ):
        setup_with(object.__new__(strategy), "32-true", ranks)


def test_a_single_device_in_bf16_is_accepted_and_keeps_its_batch_norm():
    module = setup_with(SingleDeviceStrategy("cpu"), "bf16-mixed")
    names = [type(layer).__name__ for layer in module.modules()]  # spectral norm makes a class for each layer
    assert names == [type(layer).__name__ for layer in modules()["image"][0].modules()]
    assert any(name.startswith("BatchNorm") for name in names)
