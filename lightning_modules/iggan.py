"""Inverse Graphics GAN: 3D shapes from images through an off-the-shelf, non-differentiable renderer."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import batch_images, check_optimizers, forward_precision, frozen
from lightning_modules.gan_step import adam_gan, check_proxy_images, check_same_shape, logits_of_both
from lightning_modules.losses import (
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    image_loss,
    output_matching_loss,
    relative_error,
    to_float32,
)
from lightning_modules.neural_renderer import load_proxy
from lightning_modules.voxel_generative import VoxelGenerativeModule, as_grid, check_channels, check_image_sizes
from renderers import InputError, Renderer, ViewDistribution, VoxelGrid
from renderers.opengl.overlap import start_render
from utils.errors import check_choice, check_number


def adam_proxy(params: Any) -> torch.optim.Optimizer:
    """Adam with learning rate 2e-5 (supplement B.1)."""
    return torch.optim.Adam(params, lr=2e-5, betas=(0.5, 0.999))


class IGGANModule(VoxelGenerativeModule):
    """IG-GAN (arXiv 2002.12674). Each training step updates D, G and R once::

        x_c = G(z)                          continuous occupancy
        x_d = x_c > t,  t ~ U[0, 1]         one threshold per sample
        y_gl = OpenGL(x_d, view)            no gradient
        y_nn = R(x_c, view)                 neural proxy
        D:  softplus(-D(real)) + softplus(D(y_gl))
        G:  softplus(-D(y_nn))              gradient through R
        R:  ||y_nn - y_gl||² + λ (log D(y_gl) - log D(y_nn))²

    The generator's gradient flows through the neural renderer R. R is trained at the same time to render the continuous
    occupancy as OpenGL renders the thresholded one, in pixels and in the discriminator's output.

    With ``augment``, D sees T(image) everywhere above. A sample's renders by OpenGL and by R have the same T, so output
    matching compares the renders and not two transforms, and ``gradient_at: renderer`` gives the gradient of
    ``softplus(-D(T(y_gl)))`` with respect to y_gl. R's squared error compares images without T.

    The defaults are the paper's. ``proxy_input`` and ``gradient_at`` change G's gradient; neither is in the paper:

    - ``proxy_input``: the grid that R renders. ``continuous`` is x_c. ``soft_threshold`` is
      ``sigmoid((logit x_c - logit t) / temperature)``, close to x_d and differentiable. ``thresholded`` is x_d; its
      gradient is passed to x_c unchanged (straight-through, Bengio et al. 2013).
    - ``gradient_at``: the image at which D is differentiated. ``proxy`` is y_nn. ``renderer`` is y_gl, the image that D is
      trained on: G minimizes ``softplus(-D(y_gl))``, and R supplies only the Jacobian,
      ``dL/dx = (dy_nn/dx)^T dL/dy (y_gl)``.

    With ``views_per_shape`` V, a step of B images generates only B / V shapes. Each is rendered from V viewpoints, with a
    threshold for each. G then takes less of a step's time; the paper has V = 1. With ``proxy_every`` N, R is updated in
    every Nth step only; the paper has N = 1.

    With colour (not in the paper, whose supplement leaves it as future work), G generates occupancy and RGB, ``renderer``
    and ``neural_renderer`` render both, and the threshold applies to occupancy only.

    Args:
        generator: G, maps latents to occupancy, and to colour if the renderers render it: 3 more channels for RGB images.
        discriminator: D, maps images to logits.
        renderer: non-differentiable renderer, such as :class:`renderers.OpenGLRenderer`.
        neural_renderer: R, the differentiable proxy of ``renderer``: :class:`renderers.NeuralRenderer` (the paper's),
            :class:`renderers.DeferredNeuralRenderer`, or any differentiable renderer of voxel grids, such as
            :class:`renderers.LitAbsorptionRenderer`.
        views: viewpoints of the real images.
        generator_optimizer, discriminator_optimizer, proxy_optimizer: default to learning rates of 2e-4, 2e-4 and 2e-5.
        dom_weight: λ, weight of discriminator output matching relative to the squared error *summed* over pixels; 0
            disables it.
        proxy: whether R is trained (``retrained``) or stays as pre-trained, in evaluation mode (``fixed``; the only choice
            for an R without weights, or whose weights are frozen).
        discriminator_sees: whether D's fakes are rendered by ``renderer`` (``opengl``) or by R (``neural``).
        proxy_checkpoint: checkpoint of :class:`NeuralRendererModule` to initialize R from, or the config that trains one,
            such as ``proxy_tables.yaml``. None starts from random weights.
        proxy_input: ``continuous``, ``soft_threshold`` or ``thresholded``, see above.
        temperature: of ``soft_threshold``, in units of the logit; smaller is closer to x_d.
        gradient_at: ``proxy`` or ``renderer``, see above.
        views_per_shape: V, a divisor of the batch size, see above.
        proxy_every: N, see above.
        **evaluation: see :class:`VoxelGenerativeModule`.

    Raises:
        InputError: see :func:`check_parts`; options that R does not have weights for; a temperature that is not positive.
            In training: a batch that ``views_per_shape`` does not divide; a fixed R of random weights; images of R of
            another size.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        renderer: Renderer,
        neural_renderer: Renderer,
        views: ViewDistribution,
        generator_optimizer: OptimizerCallable = adam_gan,
        discriminator_optimizer: OptimizerCallable = adam_gan,
        proxy_optimizer: OptimizerCallable = adam_proxy,
        dom_weight: float = 100.0,
        proxy: Literal["retrained", "fixed"] = "retrained",
        discriminator_sees: Literal["opengl", "neural"] = "opengl",
        proxy_checkpoint: str | None = None,
        proxy_input: Literal["continuous", "soft_threshold", "thresholded"] = "continuous",
        temperature: float = 0.5,
        gradient_at: Literal["proxy", "renderer"] = "proxy",
        views_per_shape: int = 1,
        proxy_every: int = 1,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, renderer, views, **evaluation)
        check_parts(generator, discriminator, renderer, neural_renderer)
        has_weights = any(p.requires_grad for p in neural_renderer.parameters())
        name = type(neural_renderer).__name__
        if proxy == "retrained" and not has_weights:
            raise InputError(f"{name} has no weights to train; set proxy to fixed")
        if proxy_checkpoint and not has_weights:
            raise InputError(f"{name} has no weights to load; set proxy_checkpoint to null")
        check_choice("proxy", proxy, ["retrained", "fixed"])
        check_choice("discriminator_sees", discriminator_sees, ["opengl", "neural"])
        check_choice("proxy_input", proxy_input, ["continuous", "soft_threshold", "thresholded"])
        check_choice("gradient_at", gradient_at, ["proxy", "renderer"])
        check_number("temperature", temperature, above=0)
        check_number("dom_weight", dom_weight, at_least=0)
        check_number("views_per_shape", views_per_shape, at_least=1)
        check_number("proxy_every", proxy_every, at_least=1)
        self.discriminator, self.neural_renderer = discriminator, neural_renderer
        self.optimizer_factories = check_optimizers(
            discriminator=discriminator_optimizer, generator=generator_optimizer
        )
        if has_weights:
            self.optimizer_factories |= check_optimizers(neural_renderer=proxy_optimizer)
        self.dom_weight, self.proxy, self.discriminator_sees = dom_weight, proxy, discriminator_sees
        self.proxy_checkpoint = proxy_checkpoint
        self.proxy_input, self.temperature, self.gradient_at = proxy_input, temperature, gradient_at
        self.views_per_shape, self.proxy_every = views_per_shape, proxy_every

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.restored:  # a resumed run does not need the file
            if self.proxy_checkpoint:
                load_proxy(self.neural_renderer, self.proxy_checkpoint)
            elif self.proxy == "fixed" and any(p.requires_grad for p in self.neural_renderer.parameters()):
                raise InputError(
                    "with proxy fixed, neural_renderer would keep its random weights; set proxy_checkpoint, or, if you have "
                    "loaded weights, call neural_renderer.requires_grad_(False)"
                )
        if self.proxy == "fixed":
            self.neural_renderer.eval()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch_images(batch)
        n, total = len(real), len(real) * self.world_size
        retrained = self.proxy == "retrained" and self.step % self.proxy_every == 0
        d_optimizer, g_optimizer, *r_optimizer = cast(list[Any], self.optimizers())

        self.check_batch(total)
        z = self.training_latents(n // self.views_per_shape)
        t = self.rank_slice(torch.rand(total, generator=self.random("thresholds")), n)
        samples = self.rank_samples(n)
        host_views = self.views.sample(total, self.random("views"))[samples.start : samples.stop]
        views = host_views.to(self.device)
        x_continuous = as_grid(to_float32(self.generator(z)).repeat_interleave(self.views_per_shape, 0))
        x_discrete = x_continuous.binarize(t)

        # OpenGL renders on the host while a GPU computes R.
        opengl = start_render(self.renderer, x_discrete, host_views)
        # R renders once. The graph from the detached `r_input` to y_neural gives the gradients of both G and R.
        proxy_grid = self._proxy_grid(x_continuous, x_discrete, t)
        r_input = proxy_grid.detach().requires_grad_()
        y_neural = to_float32(self.neural_renderer(as_grid(r_input), views).image)
        y_opengl = opengl().image
        check_same_shape(real, y_opengl)
        check_proxy_images(y_opengl, y_neural)

        # D: real images against renders of the thresholded grids, and R1.
        real = self.prepare_r1(real)
        fake = y_opengl if self.discriminator_sees == "opengl" else y_neural.detach()
        pair = self.augmented(real, "real"), self.augmented(fake, "generated")
        real_logits, fake_logits = logits_of_both(self.discriminator, *pair)
        d_loss = discriminator_loss(real_logits, fake_logits)
        self.step_optimizer(d_optimizer, self.add_r1(d_loss, real_logits, real))

        # G: through R.
        with frozen(self.discriminator):
            if self.gradient_at == "proxy":
                proxy_logits = self.discriminator(self.augmented(y_neural, "generated"))
                g_loss = generator_loss(proxy_logits)
                with forward_precision(self.device):
                    (gradient,) = torch.autograd.grad(g_loss, r_input, retain_graph=retrained)
            else:
                image = y_opengl.detach().requires_grad_()
                g_loss = generator_loss(self.discriminator(self.augmented(image, "generated")))
                with forward_precision(self.device):
                    (image_gradient,) = torch.autograd.grad(g_loss, image)
                    (gradient,) = torch.autograd.grad(y_neural, r_input, image_gradient, retain_graph=retrained)
        self.step_optimizer(g_optimizer, proxy_grid, gradient)

        # R: match OpenGL's image and D's output for it.
        r_loss = None
        if retrained:
            r_loss = image_loss(y_neural, y_opengl)
            if self.dom_weight:
                with frozen(self.discriminator):
                    with torch.no_grad():
                        opengl_logits = self.discriminator(self.augmented(y_opengl, "generated"))
                    if self.gradient_at == "renderer":
                        proxy_logits = self.discriminator(self.augmented(y_neural, "generated"))
                r_loss = r_loss + self.dom_weight * output_matching_loss(proxy_logits, opengl_logits)
            weights = [p for p in self.neural_renderer.parameters() if p.requires_grad]
            self.step_optimizer(r_optimizer[0], r_loss, inputs=weights)
        self.log_extra(proxy_error=relative_error(y_neural.detach(), y_opengl))
        self.adapt_augment(real_logits)  # after the last use of T, which D, G and R share

        self.advance_step(n)
        self.update_ema(total)
        self.log_step(d=d_loss, g=g_loss, r=r_loss)
        self.log_extra(
            **discriminator_accuracy(real_logits, fake_logits), occupancy_train=x_continuous.occupancy.detach().mean()
        )

    def check_batch(self, total: int) -> None:
        super().check_batch(total)
        n = total // self.world_size
        if n % self.views_per_shape:
            raise InputError(
                f"views_per_shape must divide the images of a step; it is {self.views_per_shape}, and a step has {n} images "
                "per process; change views_per_shape or the data's batch_size"
            )

    def _proxy_grid(
        self, continuous: VoxelGrid, discrete: VoxelGrid, t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C D D D"]:
        """Return the occupancy and, if any, the colour that R renders, with G's graph."""
        occupancy = self._proxy_occupancy(continuous.occupancy, discrete.occupancy, t)
        return occupancy if continuous.color is None else torch.cat([occupancy, continuous.color], 1)

    def _proxy_occupancy(
        self, occupancy: Float[Tensor, "B 1 D D D"], discrete: Float[Tensor, "B 1 D D D"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B 1 D D D"]:
        if self.proxy_input == "soft_threshold":
            # Near 0 and 1 the logit of t would give no voxel a gradient.
            threshold = t.clamp(0.02, 0.98).logit().view(-1, 1, 1, 1, 1)
            return torch.sigmoid((occupancy.logit(eps=1e-6) - threshold) / self.temperature)
        if self.proxy_input == "thresholded":
            return occupancy + (discrete - occupancy).detach()
        return occupancy


def check_parts(generator: nn.Module, discriminator: nn.Module, renderer: Renderer, neural_renderer: Renderer) -> None:
    """Check that the parts fit together. Parts without the attributes that are compared pass.

    Raises:
        InputError: a neural renderer that is not differentiable or does not render voxel grids; sizes of images or grids
            that differ; a generator with colour, and a renderer without it or a discriminator of other channels.
    """
    name = type(neural_renderer).__name__
    if not neural_renderer.differentiable or VoxelGrid not in neural_renderer.accepts:
        raise InputError(
            f"neural_renderer must be a differentiable renderer of voxel grids, {name} is not; use NeuralRenderer, "
            "DeferredNeuralRenderer or LitAbsorptionRenderer"
        )
    check_colors(generator, discriminator, renderer, neural_renderer)
    network = getattr(neural_renderer, "network", None)
    parts = {"discriminator": discriminator, "neural_renderer": neural_renderer, "neural_renderer.network": network}
    check_image_sizes(renderer, {name: part for name, part in parts.items() if part is not None})
    voxel_size = getattr(generator, "voxel_size", None)
    lattice_size = getattr(neural_renderer, "lattice_size", None) or (2 * voxel_size if voxel_size else None)
    network_size = getattr(network, "lattice_size", lattice_size)
    if lattice_size is not None and network_size != lattice_size:
        raise InputError(
            f"grids of {voxel_size}³ voxels are rotated in a lattice of {lattice_size}³, but "
            f"neural_renderer.network.lattice_size is {network_size}; set it to {lattice_size}"
        )


def check_colors(generator: nn.Module, discriminator: nn.Module, renderer: Renderer, neural_renderer: Renderer) -> None:
    """Check that all parts are grey or all are coloured. Parts without ``out_channels`` or ``channels`` pass.

    Raises:
        InputError: naming the option to change.
    """
    out_channels = getattr(generator, "out_channels", 1)
    if out_channels > 1:
        name = type(neural_renderer).__name__
        if not getattr(neural_renderer, "colored", True):
            raise InputError(
                f"{name} does not render colour, but generator.out_channels is {out_channels}; use DeferredNeuralRenderer "
                "or LitAbsorptionRenderer, or set out_channels to 1"
            )
        if not getattr(renderer, "colored", True):
            raise InputError(
                f"generator.out_channels is {out_channels}, but the renderer renders voxels white; set renderer.colored to "
                "true, or out_channels to 1"
            )
        if out_channels not in (2, 4):
            raise InputError(f"generator.out_channels must be 1, 2 (grey) or 4 (RGB), got {out_channels}")
    check_channels(out_channels, discriminator)
