"""MeshGAN (Szabó et al. 2019): textured meshes learnt from photographs, through an exact soft rasterizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import frozen, seeded_generator
from lightning_modules.generative import GenerativeModule
from lightning_modules.losses import discriminator_loss, generator_loss, gradient_penalty
from lightning_modules.progressive_growing import Growth, GrowthPhase, Stage
from metrics.depth import measure_depth
from networks import GeneratedScene, MeshGenerator, StyleGANDiscriminator, sample_offsets
from networks.stylegan_layers import StyledLayer, fade_images
from renderers import Camera, InputError, Renderer, Rendering, TriangleMesh, ViewDistribution

TURNS = (-90.0, -45.0, 0.0, 45.0, 90.0)  # the viewpoints of Figure 4, in degrees about the vertical

MEASURED = 256  # samples whose depth is measured


def adam_stylegan(params: Any) -> torch.optim.Optimizer:
    """Adam at 1e-3, betas (0, 0.99): StyleGAN's, whose layers are equalized."""
    return torch.optim.Adam(params, lr=1e-3, betas=(0.0, 0.99))


class MeshGANModule(GenerativeModule):
    """A StyleGAN makes shape and texture, another a background, a soft rasterizer draws them (sections 4 to 8)::

        fake = R(G_o(z_o), view, crop of G_b(z_b))
        D:  softplus(-D(real)) + softplus(D(fake)) + γ/2 |∇D(real)|²
        G:  softplus(-D(fake))                          through R to G_o and G_b, which share an optimizer

    What the paper leaves to StyleGAN is as published there: losses, R1 at every step, style mixing, learning rates, and
    growth, at whose borders (as a fade begins, as it ends) both optimizers begin anew. Ours are:

    - D's fakes of a step are G's as well; published are fresh ones. The generator and R work half as much.
    - While a resolution fades in, generated images go through :func:`fade_images` like real ones: R draws sharp edges
      at any fade, by which D would tell them.
    - The batch is of one size in all phases unless the data's ``batch_changes`` say otherwise; published are larger ones
      at low resolutions.
    - FID is always measured at the last resolution, generated images doubled to it (as StyleGAN's own code does), so
      that its real images, and figures over a run, are the same. A figure says so in its note.

    Evaluation and ``sample_grids`` take the styles as they come; ``predict`` truncates them.

    Args:
        generator: G_o and G_b.
        discriminator: D, of images of each resolution.
        renderer: R, which must pass gradients and draw meshes; drawn at each phase's size, whatever its own.
        views: random views of the object. ±45° about the vertical and ±15° about the horizontal axis.
        growth: phases by images seen; None is the full size from the start. See :class:`GrowthPhase`.
        r1_gamma: γ, of images in [-1, 1] as published.
        r1_every: steps from one R1 to the next, where it weighs so many times as much.
        truncation: of ``predict`` and of figures, psi; None for none.
        truncation_cutoff: the layers of each network below it are truncated; None is all.
        generator_optimizer, discriminator_optimizer: learning rates 1e-3.
        **evaluation: see :class:`GenerativeModule`.

    Raises:
        InputError: parts that do not fit together.
    """

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
        super().__init__(generator, **evaluation)
        self.growth = Growth(growth if growth is not None else [GrowthPhase(generator.image_size, 0)])
        check_parts(generator, discriminator, renderer, self.growth)
        if r1_every < 1 or r1_gamma < 0:
            raise InputError(f"r1_every must be at least 1 and r1_gamma at least 0, got {r1_every} and {r1_gamma}")
        self.discriminator, self.renderer, self.views = discriminator, renderer, views
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.truncation, self.truncation_cutoff = truncation, truncation_cutoff
        self.optimizer_factories = (discriminator_optimizer, generator_optimizer)
        self._true: Rendering | None = None  # what depth is measured against
        self._renderers: dict[tuple[int, bool], Renderer] = {}

    @property
    def stage(self) -> Stage:
        """Where growth stands: a function of the images seen, so that a resume needs nothing else."""
        return self.growth.at(self.images_seen)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.discriminator, self.generator)
        return [make(net.parameters()) for make, net in zip(self.optimizer_factories, networks, strict=True)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        stage, n = self.stage, len(batch[0])
        optimizers = d_optimizer, g_optimizer = self.optimizers()
        for optimizer in optimizers:
            scale_rate(optimizer, stage.lr_factor)
        real = fade_images(self.shrink(batch[0], stage.resolution), stage.fade)
        scene, views = self.draw_scene(n)
        self.share_mean_styles()
        drawn = self.draw(scene.mesh, views, scene.background, normals=False)
        fake = fade_images(drawn.image, stage.fade)

        penalized = self.step % self.r1_every == 0
        real = real.detach().requires_grad_(penalized)
        # One after the other: the minibatch deviation compares samples of one kind.
        real_logits, fake_logits = (self.discriminator(x, stage.fade) for x in (real, fake.detach()))
        d_loss = total = discriminator_loss(real_logits, fake_logits)
        if penalized:
            r1 = gradient_penalty(real_logits, real)
            # D's images are in [0, 1]: gradients are twice those of γ's.
            total = d_loss + self.r1_every * self.r1_gamma / 4 / 2 * r1
            self.log_more(r1=r1.detach())
        self.step_optimizer(d_optimizer, total)

        with frozen(self.discriminator):
            g_loss = generator_loss(self.discriminator(fake, stage.fade))
        self.step_optimizer(g_optimizer, g_loss)

        self.advance_step(n)
        self.update_ema(n * self.world_size)
        if self.stage.segment != stage.segment:
            for optimizer in optimizers:
                optimizer.optimizer.state.clear()
        self.log_step(d=d_loss, g=g_loss)
        self.log_more(
            d_real=(real_logits > 0).float().mean(),
            d_fake=(fake_logits < 0).float().mean(),
            coverage=drawn.alpha.detach().mean(),
        )
        self.log_dict({"resolution": float(stage.resolution), "fade": stage.fade, "lr_factor": stage.lr_factor})

    def draw_scene(self, n: int) -> tuple[GeneratedScene, Camera]:
        """This rank's n scenes of this step, and from where they are seen; drawn for the batch of all ranks."""
        stage, total = self.stage, n * self.world_size
        networks = {"object": self.generator.object, "background": self.generator.background}
        size = stage.resolution
        z, mix = (
            torch.randn(total, self.generator.latent_size, generator=self.random(name))
            for name in ("latents", "mixing")
        )
        offsets = sample_offsets(total, size, self.random("crop"))
        noise = tuple(
            [self.rank_slice(x, n) for x in network.sample_noise(total, 2 * size, self.random(f"{name} noise"))]
            for name, network in networks.items()
        )
        crossover = tuple(
            network.sample_crossover(2 * size, self.random(f"{name} crossover")) for name, network in networks.items()
        )
        scene = self.generator(
            self.rank_slice(z, n),
            size,
            stage.fade,
            offsets=self.rank_slice(offsets, n),
            mix=self.rank_slice(mix, n),
            crossover=crossover,
            noise=noise,
        )
        return scene, self.rank_slice(self.views.sample(total, self.random("views")), n)

    def compilable(self) -> Iterator[nn.Module]:
        """The generator's layers, whose graphs depend on the resolution alone, not on fade and crossover.

        D is none of it: R1 differentiates twice, which ``torch.compile`` refuses.
        """
        return (layer for layer in self.generator.modules() if isinstance(layer, StyledLayer))

    @torch.no_grad()
    def share_mean_styles(self) -> None:
        """Give each rank the mean style of all: gradients keep parameters alike, but this buffer saw one rank's batch."""
        if self.world_size > 1:
            for network in (self.generator.object, self.generator.background):
                mean = self.trainer.strategy.reduce(network.style_average.clone(), reduce_op="mean")
                network.style_average.copy_(mean)

    def shrink(self, images: Float[Tensor, "B C R R"], size: int) -> Float[Tensor, "B C N N"]:
        """Real images at another resolution: means over blocks of pixels.

        Raises:
            InputError: images that are not in colour, or not of the last phase's resolution.
        """
        expected, given = (3, self.growth.resolution, self.growth.resolution), tuple(images.shape[1:])
        if given != expected:
            shapes = [" x ".join(map(str, shape)) for shape in (given, expected)]
            raise InputError(
                f"real images are {shapes[0]}, the last phase of growth is {shapes[1]} (C x H x W); set one to the other"
            )
        return F.avg_pool2d(images, self.growth.resolution // size) if size < self.growth.resolution else images

    def draw(
        self,
        mesh: TriangleMesh,
        camera: Camera,
        background: Tensor | None = None,
        normals: bool = True,
        size: int | None = None,
    ) -> Rendering:
        """Meshes as R draws them, at this stage's size or another."""
        size = self.stage.resolution if size is None else size
        if (size, normals) not in self._renderers:
            renderer = copy.copy(self.renderer)
            renderer.image_size = size
            if not normals and hasattr(renderer, "normals"):
                renderer.normals = False  # training has no use for them
            self._renderers[size, normals] = renderer
        return self._renderers[size, normals](mesh, camera.to(mesh.device), background)

    @torch.no_grad()
    def update_ema(self, batch: int) -> None:
        """The moving average; the mean style is copied, being an average already (as published)."""
        super().update_ema(batch)
        for name in ("object", "background"):
            average, current = (getattr(g, name).style_average for g in (self.generator_ema, self.generator))
            average.copy_(current)

    # What is shown and measured comes from the moving average.

    @torch.no_grad()
    def scenes(self, z: Float[Tensor, "n Z"], **options: Any) -> GeneratedScene:
        """Scenes at this stage of growth; ``options`` of :meth:`networks.MeshGenerator.forward`."""
        return self.generator_ema(z, self.stage.resolution, self.stage.fade, **options)

    def truncated_scenes(self, z: Float[Tensor, "n Z"], truncation: float | None) -> GeneratedScene:
        """Scenes truncated for display, with the same noise for all and the middle of their backgrounds."""
        return self.scenes(z, noise="fixed", truncation=truncation, truncation_cutoff=self.truncation_cutoff)

    def seeded_scenes(self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)) -> GeneratedScene:
        """Scenes whose noise and crop depend on ``key``, ``part`` of those of n latents; not truncated."""
        size = self.stage.resolution
        noise = [[x[part] for x in self._noise(len(z), *key, name)] for name in ("object", "background")]
        offsets = sample_offsets(len(z), size, seeded_generator("crop", *key))[part]
        return self.scenes(z[part], offsets=offsets, noise=(noise[0], noise[1]))

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        scene = self.seeded_scenes(z, "evaluation", *key, part=part)
        camera = self.views.sample(len(z), seeded_generator("evaluation views", *key))[part]
        image = self.draw(scene.mesh, camera, scene.background, normals=False).image
        return F.interpolate(image, size=(self.growth.resolution,) * 2, mode="nearest")

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        stage, last = self.stage, self.growth.resolution
        if stage.resolution < last:
            self.evaluation_note += f", generated at {stage.resolution}² and enlarged to {last}²"
        if "depth_correlation" in self.evaluation:
            self.evaluation_note += f", depth of {len(self._true.image)} against as many true ones from the front"
        if stage.fade < 1:
            self.evaluation_note += f", {stage.resolution}² faded in by {stage.fade:.0%}"

    @torch.no_grad()
    def extra_metrics(self) -> dict[str, float]:
        """Of data that know the truth, as procedural heads do: depth, normals and silhouette from the front, at the last
        resolution; see :func:`metrics.depth.measure_depth`.
        """
        held_out = getattr(self.trainer.datamodule, "held_out", None)
        if not hasattr(held_out, "canonical"):
            return {}
        if self._true is None:
            count = min(MEASURED, self.trainer.datamodule.reference_images)
            self._true = held_out.canonical(list(range(count)))
        mesh = self.seeded_scenes(self.latents(len(self._true.image), "depth"), "depth").mesh
        front = Camera.orbit([0.0] * len(mesh), 0.0, self.views.fov)
        drawn = self.draw(mesh, front, size=self.growth.resolution)
        return measure_depth(*(Rendering(*(x.cpu() for x in vars(r).values())) for r in (drawn, self._true)))

    @torch.no_grad()
    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """As of Figure 4: samples, each row from one viewpoint, their normals, textures and backgrounds; and ``turns``,
        one column for each sample of the first row, from -90° (top) to 90° about the vertical, before black.
        """
        views = self.views.sample(rows, torch.Generator().manual_seed(seed))
        camera = Camera(views.azimuth.repeat_interleave(columns), views.elevation.repeat_interleave(columns), views.fov)
        scene = self.seeded_scenes(self.latents(rows * columns, "grid", seed), "grid", seed)
        drawn = self.draw(scene.mesh, camera, scene.background)
        return {
            "samples": drawn.image,
            **({} if drawn.normals is None else {"normals": drawn.normal_map()}),
            "textures": scene.mesh.texture,
            "backgrounds": scene.full_background,
            "turns": self.turns(first(scene.mesh, columns)),
        }

    @torch.no_grad()
    def turns(self, mesh: TriangleMesh) -> Float[Tensor, "B C h W"]:
        """Meshes from the five viewpoints of Figure 4, one below the other."""
        images = [
            self.draw(mesh, Camera.orbit([azimuth] * len(mesh), 0.0, self.views.fov), normals=False).image
            for azimuth in TURNS
        ]
        return torch.cat(images, 2)

    @torch.no_grad()
    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The batch's samples, truncated, with the same noise for all: ``image`` and ``normal_map (B, 3, N, N)`` from
        random views, ``texture`` and ``background (B, 3, 2N, 2N)``, and the mesh's ``vertices (B, V, 3)``,
        ``faces (F, 3)`` and ``uvs (V, 2)``, (0, 0) at the texture's top left.
        """
        scene = self.truncated_scenes(self.sample_latents(batch), self.truncation)
        views = [self.views.sample(1, seeded_generator("sample view", self.sample_seed, int(i))) for i in batch]
        camera = Camera(torch.cat([v.azimuth for v in views]), torch.cat([v.elevation for v in views]), self.views.fov)
        drawn = self.draw(scene.mesh, camera, scene.background)
        mesh = scene.mesh
        return {
            "image": drawn.image,
            **({} if drawn.normals is None else {"normal_map": drawn.normal_map()}),
            "texture": mesh.texture,
            "background": scene.full_background,
            "vertices": mesh.vertices,
            "faces": mesh.faces,
            "uvs": mesh.uvs,
        }

    def _noise(self, n: int, *key: int | str) -> list[Float[Tensor, "n 1 _ _"]]:
        generator = seeded_generator("noise", *key)
        noise = self.generator_ema.object.sample_noise(n, 2 * self.stage.resolution, generator)
        return [x.to(self.device) for x in noise]


def first(mesh: TriangleMesh, count: int) -> TriangleMesh:
    """The first meshes of a batch."""
    return TriangleMesh(mesh.vertices[:count], mesh.faces, mesh.uvs, mesh.texture[:count])


def scale_rate(optimizer: Any, factor: float) -> None:
    """Set an optimizer's learning rate to ``factor`` times that with which it was made."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def check_parts(generator: nn.Module, discriminator: nn.Module, renderer: Renderer, growth: Growth) -> None:
    """Refuse parts that do not fit together.

    Raises:
        InputError: a renderer that passes no gradient or draws no meshes; networks that do not grow so far.
    """
    name = type(renderer).__name__
    if not renderer.differentiable or TriangleMesh not in renderer.accepts:
        raise InputError(f"renderer must draw meshes and pass gradients, which {name} does not; choose SoftRasterizer")
    sizes = getattr(generator, "sizes", [])
    for phase in growth.phases:
        if phase.resolution not in sizes:
            raise InputError(f"growth has a phase of {phase.resolution}², generator.image_size allows {sizes}")
        if not 4 <= phase.resolution <= discriminator.resolution:
            raise InputError(
                f"growth has a phase of {phase.resolution}², discriminator.resolution is {discriminator.resolution}"
            )
    if getattr(discriminator, "channels", 3) != 3:
        raise InputError(f"images are in colour, discriminator.channels says {discriminator.channels}; set it to 3")
