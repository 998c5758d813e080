"""Parts of a user's own that differ from ours: buffers, frozen submodules, batches that depend on each other."""

import pytest
import torch
from small_iggan import grids, iggan, proxy, proxy_module, renders, trainer
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader

from datamodules.samplers import BatchPlan
from lightning_modules import ImageGANModule
from lightning_modules.voxel_generative import as_grid
from networks import DCGANDiscriminator, DCGANGenerator, RenderNet, StyleGANDiscriminator
from renderers import Camera, InputError, NeuralRenderer, Renderer, VoxelGrid


class SpectralNormGenerator(nn.Module):
    latent_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(spectral_norm(nn.Linear(8, 64)), nn.ReLU(), spectral_norm(nn.Linear(64, 256)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return self.net(z).sigmoid().view(-1, 1, 16, 16)


class PretrainedFeatures(nn.Module):
    """A discriminator with a backbone in evaluation mode, as in projected GANs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout())
        self.features.eval().requires_grad_(False)
        self.head = nn.Conv2d(4, 1, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image)).flatten()


class BatchNormNetwork(nn.Module):
    """A proxy with batch norm, for lattices of 16³ voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1), nn.Sigmoid())

    def forward(self, lattice: torch.Tensor) -> torch.Tensor:
        return self.layers(lattice[:, 0])


def images() -> DataLoader:
    return DataLoader(torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)), batch_size=4)


def test_ema_has_the_buffers_of_the_generator(tmp_path):
    torch.manual_seed(0)
    module = ImageGANModule(SpectralNormGenerator(), DCGANDiscriminator(16, width=8), ema_half_life_kimg=1e-9)
    trainer(tmp_path).fit(module, images())
    average, current = dict(module.generator_ema.named_buffers()), dict(module.generator.named_buffers())
    assert current["steps"] == 4 and len(current) == 5
    assert all(torch.equal(average[name], current[name]) for name in current)
    z = module.latents(4, "test")
    assert torch.allclose(module.generator_ema(z), module.generator.eval()(z), atol=1e-6)


def test_a_part_in_evaluation_mode_stays_in_it(tmp_path):
    discriminator = PretrainedFeatures()
    before = {name: value.clone() for name, value in discriminator.features.state_dict().items()}
    module = ImageGANModule(DCGANGenerator(16, latent_size=8, width=16), discriminator)
    trainer(tmp_path).fit(module, images())
    assert not any(part.training for part in discriminator.features.modules())
    assert discriminator.training and discriminator.head.training
    assert all(torch.equal(value, before[name]) for name, value in discriminator.features.state_dict().items())


def test_a_fixed_proxy_does_not_change(tmp_path):
    neural_renderer = NeuralRenderer(BatchNormNetwork(), 16, lattice_size=16).requires_grad_(False)
    before = {name: value.clone() for name, value in neural_renderer.state_dict().items()}
    trainer(tmp_path).fit(iggan(neural_renderer=neural_renderer, proxy="fixed"), renders(steps=2))
    assert all(torch.equal(value, before[name]) for name, value in neural_renderer.state_dict().items())


def test_a_fixed_proxy_needs_weights(tmp_path):
    with pytest.raises(InputError, match="would keep its random weights; set proxy_checkpoint"):
        trainer(tmp_path).fit(iggan(proxy="fixed"), renders(steps=1))
    module = iggan(neural_renderer=proxy().requires_grad_(False), proxy="fixed")
    trainer(tmp_path).fit(module, renders(steps=1))
    assert module.step == 1


@pytest.mark.parametrize("kind", ["iggan", "image_gan"])
def test_minibatch_deviation_sees_real_and_generated_images_separately(tmp_path, kind):
    sizes = []

    class Recorded(StyleGANDiscriminator):
        def forward(self, image: torch.Tensor, fade: float = 1.0) -> torch.Tensor:
            sizes.append(len(image))
            return super().forward(image, fade)

    discriminator = Recorded(16, 1, channel_base=64, channel_max=8)
    if kind == "iggan":
        module = iggan(discriminator=discriminator)
    else:
        module = ImageGANModule(DCGANGenerator(16, latent_size=8, width=16), discriminator)
    trainer(tmp_path).fit(module, renders(steps=1))
    assert set(sizes) == {4}


def test_batch_sizes_of_the_whole_run_are_checked_at_its_start(tmp_path):
    data = renders(steps=8)
    data.plan = BatchPlan(4, 32, [(16, 6)])
    discriminator = StyleGANDiscriminator(16, 1, channel_base=64, channel_max=8)
    for module, message in (
        (iggan(discriminator=discriminator), "a batch of 6 images does not divide into groups of 4"),
        (iggan(views_per_shape=4), "it is 4, and a step has 6 images per process"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(tmp_path).fit(module, data)
        assert module.step == 0


def test_a_proxy_of_other_images_is_refused(tmp_path):
    network = RenderNet(16, 16, width=16, channels_3d=(2, 4, 4), out_channels=3)
    neural_renderer = NeuralRenderer(network, 16, lattice_size=16)
    message = "the renderer's images are 1 x 16 x 16, those of neural_renderer are 3 x 16 x 16"
    module = proxy_module()
    module.neural_renderer = neural_renderer
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(module, grids(1))
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, limit_val_batches=1.0).validate(module, grids(1), verbose=False)
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(iggan(neural_renderer=neural_renderer, gradient_at="renderer"), renders(steps=1))


@pytest.mark.parametrize("option", ["proxy", "discriminator_sees", "proxy_input", "gradient_at"])
def test_words_are_checked_in_python_too(option, unchecked):
    with pytest.raises(InputError, match=f"{option} must be one of .*, got 'other'"):
        iggan(**{option: "other"})


def test_a_module_that_has_made_all_steps_is_not_trained_in_silence(tmp_path):
    module, run = iggan(), trainer(tmp_path)
    run.fit(module, renders(steps=2))
    run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"has been trained for 2 steps, .* increase total_kimg, or make a new module"):
        trainer(tmp_path).fit(module, renders(steps=2, seed=7))
    trainer(tmp_path).fit(iggan(), renders(steps=2), ckpt_path=tmp_path / "last.ckpt", weights_only=True)  # complete
    trainer(tmp_path).fit(module, renders(steps=3))
    assert module.step == 3


@pytest.mark.parametrize("shape", [(4, 8, 8, 8), (4, 1, 4, 8, 8), (4, 512)])
def test_a_generator_that_returns_no_grids_is_refused(shape, unchecked):
    with pytest.raises(InputError, match=r"a generator of voxels must return \(B, 1, D, D, D\)"):
        as_grid(torch.zeros(shape))


def test_a_renderer_that_returns_an_image_is_named():
    class Plain(Renderer):
        accepts = (VoxelGrid,)
        differentiable = True

        def render(self, scene, camera, background):
            return scene.occupancy.mean(2)

    with pytest.raises(TypeError, match=r"Plain\.render must return a Rendering, not Tensor"):
        Plain(8)(VoxelGrid(torch.ones(1, 1, 8, 8, 8)), Camera.orbit(0.0, 0.0))
