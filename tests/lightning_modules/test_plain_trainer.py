"""Modules as a library: a plain Trainer and plain data loaders, without data module, command line or run directory."""

import pytest
import pytorch_lightning as pl
import torch
from small_iggan import VIEWS, iggan, proxy_module, trainer
from torch.utils.data import DataLoader, TensorDataset
from two_ranks import modules

from lightning_modules import ImageGANModule, MeshGANModule, VoxelGANModule
from networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MeshGenerator,
    StyleGANDiscriminator,
    VoxelGenerator,
)
from renderers import AbsorptionRenderer, InputError, OpenGLRenderer, SoftRasterizer, ViewDistribution


def voxel_gan() -> VoxelGANModule:
    discriminator = DCGANDiscriminator(16, width=8)
    return VoxelGANModule(
        VoxelGenerator(8, latent_size=8, width=16), discriminator, OpenGLRenderer(16), AbsorptionRenderer(16), VIEWS
    )


def mesh_gan(**options) -> MeshGANModule:
    sizes = {"channel_base": 64, "channel_max": 8}
    generator = MeshGenerator(8, latent_size=8, style_size=8, pyramid_levels=1, **sizes)
    views = ViewDistribution((-45.0, 45.0), (-15.0, 15.0), 10.0)
    return MeshGANModule(generator, StyleGANDiscriminator(8, **sizes), SoftRasterizer(8), views, **options)


def image_gan() -> ImageGANModule:
    return ImageGANModule(DCGANGenerator(16, latent_size=8, width=16), DCGANDiscriminator(16, width=8))


def images(count: int, size: int = 16, channels: int = 1, brightness: float = 1.0) -> torch.Tensor:
    return brightness * torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [iggan, voxel_gan, image_gan])
def test_batches_may_be_images_or_images_with_labels(tmp_path, make):
    real, labels = images(8), torch.arange(8)
    losses = []
    for data in (TensorDataset(real), real, TensorDataset(real, labels)):
        torch.manual_seed(0)
        module = make()
        trainer(tmp_path).fit(module, DataLoader(data, batch_size=4))
        assert (module.step, module.images_seen) == (2, 8)
        losses.append({name: float(value) for name, value in module.losses.items()})
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(InputError, match="a batch of the data is a dict; a data loader must return images"):
        trainer(tmp_path).fit(make(), DataLoader([{"image": image} for image in real], batch_size=4))


def test_mesh_gan_trains_and_evaluates_on_a_plain_loader(tmp_path):
    data = TensorDataset(images(10, 8, 3), torch.arange(10))
    loader = DataLoader(data, batch_size=8, drop_last=True)
    run = trainer(tmp_path, max_epochs=2, limit_val_batches=1.0)
    module = mesh_gan(extractor="renders_color")
    run.fit(module, loader, loader)
    assert module.step == 2 and module.evaluation["fid"] > 0
    with pytest.raises(InputError, match="the data have colour, which extractor 'renders_small' does not see"):
        run.validate(mesh_gan(), loader)
    with pytest.raises(InputError, match="a batch of 10 images does not divide into groups of 4"):
        trainer(tmp_path).fit(mesh_gan(), DataLoader(data, batch_size=10))


def test_evaluation_compares_with_the_images_of_its_own_loader(tmp_path):
    """Neither those of the sanity check alone nor those of another loader."""
    dark, light = (DataLoader(images(12, brightness=b), batch_size=4) for b in (0.3, 1.0))
    module = image_gan()
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 1}
    trainer(tmp_path, **options).fit(module, dark, dark)
    assert "12 generated against 12 real images" in module.evaluation_note
    found = []
    for loader in (dark, light, dark):
        trainer(tmp_path, **options).validate(module, loader, verbose=False)
        found.append(module.evaluation["fid"])
    assert found[0] == found[2] != found[1]


class Keyed(pl.LightningDataModule):
    """A data module of a user with a key for its reference images, but no count."""

    reference_key = "test_plain_trainer"

    def val_dataloader(self) -> DataLoader:
        return DataLoader(images(12), batch_size=4)


def test_an_incomplete_evaluation_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("UNRENDER_CACHE", str(tmp_path))
    for limit in (1, 0.5, 1.0):
        module = image_gan()
        trainer(tmp_path, limit_val_batches=limit).validate(module, datamodule=Keyed(), verbose=False)
        assert len(list(tmp_path.rglob("fid-*.pt"))) == (limit == 1.0 and isinstance(limit, float))
    assert "against 12 real images" in module.evaluation_note


def test_a_checkpoint_of_a_plain_trainer_generates_the_same_shapes(tmp_path):
    module = voxel_gan()
    run = pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False)
    run.fit(module, DataLoader(images(8), batch_size=4))
    parts = ("generator", "discriminator", "renderer", "differentiable_renderer")
    fresh = voxel_gan()
    loaded = VoxelGANModule.load_from_checkpoint(
        run.checkpoint_callback.best_model_path, **{name: getattr(fresh, name) for name in parts}, views=VIEWS
    )
    z = module.latents(4, "mine")
    assert loaded.step == 2 and torch.equal(loaded.shapes(z).occupancy, module.shapes(z).occupancy)
    assert run.predict(loaded)[0]["image"].shape == (8, 1, 16, 16)


def test_learning_rate_decays_over_all_epochs(tmp_path):
    rates = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    grids = (torch.rand(8, 1, 8, 8, 8) > 0.5).float()
    trainer(tmp_path, max_epochs=2, callbacks=[Recorder()]).fit(proxy_module(), DataLoader(grids, batch_size=4))
    assert rates == pytest.approx([1e-3, 0.8535e-3, 0.5e-3, 0.1464e-3], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "values"),
    [("proxy", {"error": 0.2}), ("classifier", {"accuracy": 0.9, "accuracies": {"": 0.9}})],
)
def test_a_resumed_run_keeps_the_metrics_of_its_last_evaluation(name, values):
    """Its checkpoints contain them, also before its next evaluation; the last one may have none after it."""
    first, resumed = modules()[name][0], modules()[name][0]
    vars(first).update(values)
    checkpoint = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    resumed.on_load_checkpoint(checkpoint)
    assert vars(resumed).items() >= values.items()
    again = {"state_dict": checkpoint["state_dict"]}
    resumed.on_save_checkpoint(again)
    assert again == checkpoint
