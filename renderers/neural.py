"""The neural renderer: a network trained to imitate another renderer, which makes that one differentiable."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.grid_sampling import resample
from renderers.scenes import VoxelGrid
from utils.errors import check_number


class NeuralRenderer(Renderer):
    """Resamples the grid into the camera frame and maps it to an image by a trainable network (IG-GAN, supplement B.1).

    Args:
        network: maps ``(B, 1, S, S, S)``, indexed ``[b, c, depth, row, column]``, to an image ``(B, C, H, W)`` in
            [0, 1]; see :class:`networks.RenderNet`.
        image_size: height and width of the network's image in pixels.
        lattice_size: S, the size of the resampled grid; None for twice the voxel grid's size (64³ in 128³).

    Raises:
        InputError: ``image_size`` or ``lattice_size`` is less than 1.
        ValueError: when rendering, if the network's image has another size than ``image_size``.
    """

    differentiable: ClassVar[bool] = True
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid,)
    full_precision: ClassVar[bool] = False
    colored: ClassVar[bool] = False

    def __init__(self, network: nn.Module, image_size: int, lattice_size: int | None = None) -> None:
        super().__init__(image_size)
        if lattice_size is not None:
            check_number("lattice_size", lattice_size, at_least=1)
        self.network = network
        self.lattice_size = lattice_size

    def rotate(self, scene: VoxelGrid, camera: Camera) -> Float[Tensor, "B 1 S S S"]:
        """Return the grid in the camera frame, the network's input."""
        occupancy = scene.occupancy
        if occupancy.dtype not in (torch.float32, torch.float64):  # half precision does not hold the coordinates
            occupancy = occupancy.float()
        with torch.autocast(occupancy.device.type, enabled=False):
            return resample(occupancy, camera, self.lattice_size)

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, VoxelGrid)
        rotated = self.rotate(scene, camera)
        image = self.network(rotated).to(rotated.dtype)
        if image.shape[-1] != self.image_size:
            raise ValueError(
                f"the network's image has {image.shape[-1]} pixels per side, image_size is {self.image_size}"
            )
        # The network does not predict alpha. Use the maximum occupancy along each ray.
        alpha = rotated.detach().amax(2)
        if alpha.shape[-1] != self.image_size:
            alpha = nn.functional.interpolate(alpha, size=(self.image_size,) * 2, mode="area")
        # The network renders on a black background, so its image is premultiplied by alpha.
        return Rendering(composite(image, alpha, background), alpha)
