"""MeshGAN (Szabó et al. 2019): textured meshes learned from photographs through an exact soft rasterizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import batch_images, check_optimizers, seeded_generator
from lightning_modules.depth_evaluation import FrontReferences, measure_front
from lightning_modules.gan_step import gan_step
from lightning_modules.generative import GenerativeModule, normal_maps, row_views
from lightning_modules.progressive_growing import Growth, GrowthPhase, GrowthStage
from networks import GeneratedScene, MeshGenerator, StyleGANDiscriminator, sample_offsets
from networks.stylegan_layers import StyledLayer, fade_images
from renderers import Camera, InputError, Renderer, Rendering, SoftRasterizer, TriangleMesh, ViewDistribution
from utils.errors import check_number
from utils.philox import hash_key, keyed_normal

TURNTABLE_AZIMUTHS = (-90.0, -45.0, 0.0, 45.0, 90.0)  # degrees, the viewpoints of Figure 4

MAX_SCENES = 16  # scenes generated at once outside of training: each takes about 125 MB at 128²


def adam_stylegan(params: Any) -> torch.optim.Optimizer:
    """Adam with learning rate 1e-3 and betas (0, 0.99), as StyleGAN uses for its equalized layers."""
    return torch.optim.Adam(params, lr=1e-3, betas=(0.0, 0.99))


class MeshGANModule(GenerativeModule):
    """One StyleGAN generates shape and texture, another the background; a soft rasterizer renders them (sections 4 to 8)::

        fake = R(G_o(z_o), view, crop of G_b(z_b))
        D:  softplus(-D(real)) + softplus(D(fake)) + γ/2 |∇D(real)|²
        G:  softplus(-D(fake))                          through R to G_o and G_b, which share an optimizer

    Losses, R1 at every step, style mixing, learning rates and growth follow the StyleGAN publication where the MeshGAN
    paper refers to it. Both optimizers are reset when a fade begins and when it ends. Deviations:

    - D and G use the same fakes in a step; StyleGAN generates new ones for G. This halves the work of G and R.
    - While a resolution fades in, generated images pass through :func:`fade_images` like real images. R renders sharp
      edges at any fade, which would tell D which images are generated.
    - The batch size is the same in all phases unless the data module's ``batch_changes`` change it; StyleGAN uses larger
      batches at low resolutions.
    - FID is always measured at the last resolution, on generated images upsampled to it (as in StyleGAN's code), so its
      real images are the same over a run. The note of the evaluation states this.

    Evaluation and ``sample_grids`` do not truncate styles; ``predict`` does.

    Args:
        generator: G_o and G_b.
        discriminator: D, for images of each resolution.
        renderer: R, a differentiable renderer of meshes. Renders at the size of each phase instead of its own size.
        views: random viewpoints, ±45° about the vertical and ±15° about the horizontal axis in the paper.
        growth: phases by images seen; None trains at full size from the start. See :class:`GrowthPhase`.
        r1_gamma: γ, for images in [-1, 1] as published.
        r1_every: steps between two R1 penalties; the penalty is multiplied by this number.
        truncation: ψ of ``predict`` and of figures; None disables truncation.
        truncation_cutoff: number of layers of each network that are truncated; None truncates all.
        generator_optimizer, discriminator_optimizer: default to learning rates of 1e-3.
        **evaluation: see :class:`GenerativeModule`.

    Raises:
        InputError: parts that do not fit together.
    """

    generator: MeshGenerator
    generator_ema: MeshGenerator

    def __init__(
        self,
        generator: MeshGenerator,
        discriminator: StyleGANDiscriminator,
        renderer: Renderer,
        views: ViewDistribution,
        growth: list[GrowthPhase] | None = None,
        r1_gamma: float = 10.0,
        r1_every: int = 1,
        truncation: float | None = 0.7,
        truncation_cutoff: int | None = 8,
        generator_optimizer: OptimizerCallable = adam_stylegan,
        discriminator_optimizer: OptimizerCallable = adam_stylegan,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, r1_gamma=r1_gamma, r1_every=r1_every, **evaluation)
        self.growth = Growth(growth if growth is not None else [GrowthPhase(generator.image_size, 0)])
        check_parts(generator, discriminator, renderer, self.growth)
        self.discriminator, self.renderer, self.views = discriminator, renderer, views
        if truncation is not None:
            check_number("truncation", truncation)
        if truncation_cutoff is not None:
            check_number("truncation_cutoff", truncation_cutoff, at_least=0)
        self.truncation, self.truncation_cutoff = truncation, truncation_cutoff
        self.optimizer_factories = check_optimizers(
            discriminator=discriminator_optimizer, generator=generator_optimizer
        )
        self._front_references = FrontReferences()
        self._renderers: dict[tuple[int, bool | None], Renderer] = {}

    @property
    def stage(self) -> GrowthStage:
        """The current stage of growth, a function of the images seen, so a resumed run needs no other state."""
        return self.growth.at(self.images_seen)

    def check_extractor(self, datamodule: Any) -> None:
        check_rgb(datamodule)
        super().check_extractor(datamodule)

    def on_fit_start(self) -> None:
        check_rgb(self.datamodule)
        super().on_fit_start()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        images, stage = batch_images(batch), self.stage
        optimizers = cast(list[Any], self.optimizers())
        for optimizer in optimizers:
            scale_lr(optimizer, stage.lr_factor)

        real = fade_images(self.downsample(images, stage.resolution), stage.fade)
        scene, views = self.sample_scene(len(images))
        self.average_mean_styles()
        rendering = self.render(scene.mesh, views, scene.background, normals=False)
        gan_step(self, real, fade_images(rendering.image, stage.fade), fade=stage.fade)

        if self.stage.segment != stage.segment:
            for optimizer in optimizers:
                optimizer.optimizer.state.clear()
        self.log_extra(coverage=rendering.alpha.detach().mean())
        self.log_dict({"resolution": float(stage.resolution), "fade": stage.fade, "lr_factor": stage.lr_factor})

    def sample_scene(self, n: int) -> tuple[GeneratedScene, Camera]:
        """Generate this rank's n scenes of a step and sample their viewpoints.

        Latents and noise are sampled for these scenes alone; offsets and viewpoints, a few numbers per scene, for those of
        all ranks.
        """
        stage, total = self.stage, n * self.world_size
        networks = {"object": self.generator.object, "background": self.generator.background}
        size = stage.resolution
        offsets = sample_offsets(total, size, self.random("crop"))
        object_noise, background_noise = (
            self.layer_noise(self.rank_samples(n), self.seed, self.step, f"{name} noise") for name in networks
        )
        object_crossover, background_crossover = (
            network.sample_crossover(2 * size, self.random(f"{name} crossover")) for name, network in networks.items()
        )
        scene = self.generator(
            self.training_latents(n),
            size,
            stage.fade,
            offsets=self.rank_slice(offsets, n),
            mix=self.training_latents(n, "mixing"),
            crossover=(object_crossover, background_crossover),
            noise=(object_noise, background_noise),
        )
        return scene, self.rank_slice(self.views.sample(total, self.random("views")), n)

    def training_latents(self, n: int, purpose: str = "latents") -> Float[Tensor, "n Z"]:
        return keyed_normal(
            hash_key(self.seed, self.step, purpose), self.rank_samples(n), self.latent_size, self.device
        )

    def layer_noise(self, samples: Sequence[int], *key: int | str) -> list[Float[Tensor, "n 1 _ _"]]:
        """Sample the noise of each layer, lowest resolution first, of samples by their index in the global batch."""
        network, resolution = self.generator.object, 2 * self.stage.resolution
        numbers = keyed_normal(hash_key(*key), samples, network.noise_count(resolution), self.device)
        return network.split_noise(numbers, resolution)

    def compilable(self) -> Iterator[nn.Module]:
        """Yield the generator's layers, whose graphs depend on the resolution but not on fade and crossover.

        D is excluded: R1 needs second derivatives, which ``torch.compile`` does not support.
        """
        return (layer for layer in self.generator.modules() if isinstance(layer, StyledLayer))

    @torch.no_grad()
    def average_mean_styles(self) -> None:
        """Average the mean styles over ranks. This buffer is updated from the batch of one rank, unlike parameters."""
        if self.world_size > 1:
            for network in (self.generator.object, self.generator.background):
                mean = self.trainer.strategy.reduce(network.style_average.clone(), reduce_op="mean")
                network.style_average.copy_(mean)

    def downsample(self, images: Float[Tensor, "B C R R"], size: int) -> Float[Tensor, "B C N N"]:
        """Downsample real images to ``size`` by averaging blocks of pixels.

        Raises:
            InputError: images that are not RGB, or not of the last phase's resolution.
        """
        expected, given = (3, self.growth.resolution, self.growth.resolution), tuple(images.shape[1:])
        if given != expected:
            shapes = [" x ".join(map(str, shape)) for shape in (given, expected)]
            fix = "use RGB images" if given[1:] == expected[1:] else "set both to the same size"
            raise InputError(f"real images are {shapes[0]}, the last phase of growth is {shapes[1]} (C x H x W); {fix}")
        return F.avg_pool2d(images, self.growth.resolution // size) if size < self.growth.resolution else images

    def render(
        self,
        mesh: TriangleMesh,
        camera: Camera,
        background: Tensor | None = None,
        normals: bool | None = None,
        size: int | None = None,
    ) -> Rendering:
        """Render meshes with R at the size of the current stage, or at ``size``; ``normals`` overrides R's own setting."""
        size = self.stage.resolution if size is None else size
        if (size, normals) not in self._renderers:
            r = self.renderer
            renderer: Any = r.without_waiting() if isinstance(r, SoftRasterizer) else copy.copy(r)
            renderer.image_size = size
            if normals is not None and hasattr(renderer, "normals"):
                renderer.normals = normals
            self._renderers[size, normals] = renderer
        return self._renderers[size, normals](mesh, camera.to(mesh.device), background)

    # Images that are shown and evaluated come from the EMA.

    @torch.no_grad()
    def scenes(self, z: Float[Tensor, "n Z"], **options: Any) -> GeneratedScene:
        """Generate scenes at the current stage; ``options`` of :meth:`networks.MeshGenerator.forward`."""
        return self.generator_ema(z, self.stage.resolution, self.stage.fade, **options)

    def truncated_scenes(self, z: Float[Tensor, "n Z"], truncation: float | None) -> GeneratedScene:
        """Generate scenes for display: truncated, with the same noise for all, backgrounds cropped at the centre."""
        return self.scenes(z, noise="fixed", truncation=truncation, truncation_cutoff=self.truncation_cutoff)

    def seeded_scenes(self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)) -> GeneratedScene:
        """Generate ``part`` of n scenes whose noise and crop depend on ``key``; not truncated."""
        size = self.stage.resolution
        samples = range(len(z))[part]
        noise = [self.layer_noise(samples, "noise", *key, name) for name in ("object", "background")]
        offsets = sample_offsets(len(z), size, seeded_generator("crop", *key))[part]
        return self.scenes(z[part], offsets=offsets, noise=(noise[0], noise[1]))

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        scene = self.seeded_scenes(z, "evaluation", *key, part=part)
        camera = self.views.sample(len(z), seeded_generator("evaluation views", *key))[part]
        image = self.render(scene.mesh, camera, scene.background, normals=False).image
        return F.interpolate(image, size=(self.growth.resolution,) * 2, mode="nearest")

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        stage, last = self.stage, self.growth.resolution
        if stage.resolution < last:
            self.evaluation_note += f", generated at {stage.resolution}² and enlarged to {last}²"
        if count := self._front_references.count:
            self.evaluation_note += f", depth of {count} against as many true ones from the front"
        if stage.fade < 1:
            self.evaluation_note += f", {stage.resolution}² faded in by {stage.fade:.0%}"

    def discriminate(self, images: Float[Tensor, "B C R R"]) -> Float[Tensor, " B"]:
        stage = self.stage
        return self.discriminator(fade_images(self.downsample(images, stage.resolution), stage.fade), stage.fade)

    @torch.no_grad()
    def extra_metrics(self) -> dict[str, float]:
        """Measure depth, normals and silhouettes from the front at the last resolution, see :func:`measure_front`.

        Only for data with known geometry, such as procedural heads.
        """
        references = self._front_references.of(self.datamodule)
        if references is None:
            return {}
        z = self.latents(self._front_references.count, "depth")
        parts = []
        for first in range(0, len(z), MAX_SCENES):
            mesh = self.seeded_scenes(z, "depth", part=slice(first, first + MAX_SCENES)).mesh
            front = Camera.orbit([0.0] * len(mesh), 0.0, self.views.fov)
            parts.append(self.render(mesh, front, normals=True, size=self.growth.resolution))
        return measure_front(parts, references, self.renderer, self.datamodule)

    @torch.no_grad()
    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Return grids as in Figure 4: samples with one viewpoint per row, their normals, textures and backgrounds; and
        ``turns``, one column per sample of the first row, from -90° (top) to 90° about the vertical, on black.
        """
        camera = row_views(self.views, rows, columns, seed)
        scene = self.seeded_scenes(self.latents(rows * columns, "grid", seed), "grid", seed)
        rendering = self.render(scene.mesh, camera, scene.background)
        texture = scene.mesh.texture
        assert texture is not None
        first_row = TriangleMesh(scene.mesh.vertices[:columns], scene.mesh.faces, scene.mesh.uvs, texture[:columns])
        return {
            "samples": rendering.image,
            **normal_maps(rendering, "normals"),
            "textures": texture,
            "backgrounds": scene.full_background,
            "turns": self.turntable(first_row),
        }

    @torch.no_grad()
    def turntable(self, mesh: TriangleMesh) -> Float[Tensor, "B C h W"]:
        """Render meshes from the five viewpoints of Figure 4, one below the other."""
        images = [
            self.render(mesh, Camera.orbit([azimuth] * len(mesh), 0.0, self.views.fov), normals=False).image
            for azimuth in TURNTABLE_AZIMUTHS
        ]
        return torch.cat(images, 2)

    @torch.no_grad()
    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return samples by number, truncated, with the same noise for all: ``image`` and ``normal_map (B, 3, N, N)`` from
        random viewpoints, ``texture`` and ``background (B, 3, 2N, 2N)``, and the mesh's ``vertices (B, V, 3)``,
        ``faces (F, 3)`` and ``uvs (V, 2)``, (0, 0) at the top left of the texture.
        """
        scene = self.truncated_scenes(self.sample_latents(batch), self.truncation)
        mesh = scene.mesh
        assert mesh.texture is not None and mesh.uvs is not None
        rendering = self.render(mesh, self.sample_camera(self.views, batch), scene.background)
        return {
            "image": rendering.image,
            **normal_maps(rendering, "normal_map"),
            "texture": mesh.texture,
            "background": scene.full_background,
            "vertices": mesh.vertices,
            "faces": mesh.faces,
            "uvs": mesh.uvs,
        }


def scale_lr(optimizer: Any, factor: float) -> None:
    """Set an optimizer's learning rate to ``factor`` times its initial value."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def check_rgb(datamodule: Any) -> None:
    """Check that the images are RGB. Data modules that do not state ``channels`` pass.

    Raises:
        InputError: they are grey.
    """
    if getattr(datamodule, "channels", 3) != 3:
        raise InputError("MeshGAN needs RGB images, and these data are grey; use data such as those of heads.yaml")


def check_parts(generator: nn.Module, discriminator: nn.Module, renderer: Renderer, growth: Growth) -> None:
    """Check that the parts fit together.

    Raises:
        InputError: a renderer that is not differentiable or does not accept meshes; phases that the networks do not
            support.
    """
    if not renderer.differentiable or TriangleMesh not in renderer.accepts:
        name = type(renderer).__name__
        raise InputError(
            f"renderer must be differentiable and render meshes, {name} is not suitable; use SoftRasterizer"
        )
    sizes = getattr(generator, "sizes", [])
    largest: Any = discriminator.resolution
    for phase in growth.phases:
        if phase.resolution not in sizes:
            raise InputError(
                f"growth has a phase of {phase.resolution}², generator.image_size allows {sizes}; change one of them"
            )
        if not 4 <= phase.resolution <= largest:
            raise InputError(
                f"growth has a phase of {phase.resolution}², discriminator.resolution is {largest}; change one of them"
            )
    channels = getattr(discriminator, "channels", 3)
    if channels != 3:
        raise InputError(f"images are RGB, but discriminator.channels is {channels}; set it to 3")
