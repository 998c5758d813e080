"""The interface that every renderer has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from renderers.cameras import Camera
from renderers.scenes import TriangleMesh, VoxelGrid
from utils.errors import InputError

Scene = VoxelGrid | TriangleMesh


@dataclass(frozen=True)
class Rendering:
    """What a renderer returns. Row 0 is the top row; pixel centres lie at half integers.

    Args:
        image: ``(B, C, H, W)`` in [0, 1], composited over the background.
        alpha: ``(B, 1, H, W)`` in [0, 1], how much of the pixel the object covers.
        depth: ``(B, 1, H, W)`` distance from the camera along its optical axis in world units, ``inf`` where nothing is
            seen; None if the renderer has none.
        normals: ``(B, 3, H, W)`` unit normals in the camera frame (x right, y up, z toward the viewer), 0 where nothing is
            seen; None if the renderer has none.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    normals: Tensor | None = None

    def normal_map(self) -> Float[Tensor, "B 3 H W"]:
        """Normals as an image, ``(n + 1) / 2`` before black.

        Raises:
            ValueError: if the renderer gives no normals.
        """
        if self.normals is None:
            raise ValueError("this rendering has no normals; use a renderer that gives them, such as OpenGLRenderer")
        return (self.normals + 1) / 2 * self.alpha


class Renderer(nn.Module, ABC):
    """Draws a batch of scenes, each from its own camera.

    Subclasses state two facts about themselves, ``differentiable`` and ``accepts``, and implement :meth:`render`. Mixed
    precision does not reach into it: bfloat16 does not hold coordinates. A network that wants it says so.

    Args:
        image_size: height and width of the image in pixels.
    """

    differentiable: ClassVar[bool]
    accepts: ClassVar[tuple[type, ...]]
    full_precision: ClassVar[bool] = True

    def __init__(self, image_size: int) -> None:
        super().__init__()
        if image_size < 1:
            raise InputError(f"image_size must be positive, got {image_size}")
        self.image_size = image_size

    def forward(self, scene: Scene, camera: Camera, background: Tensor | None = None) -> Rendering:
        """Draw ``scene`` as ``camera`` sees it.

        Args:
            scene: one of the types in ``accepts``, batch B.
            camera: batch B.
            background: ``(B, C, H, W)`` behind the object, or None for black.

        Raises:
            TypeError: a scene that this renderer does not accept, or of a dtype that it does not.
            ValueError: batch sizes or devices that do not fit; occupancy or colour outside of [0, 1]; a background that
                is no image of this size.
        """
        if not isinstance(scene, self.accepts):
            names = " or ".join(t.__name__ for t in self.accepts)
            raise TypeError(f"{type(self).__name__} draws {names}, not {type(scene).__name__}")
        if len(scene) != len(camera):
            raise ValueError(f"{len(scene)} scenes need as many cameras, got {len(camera)}")
        if camera.device != scene.device:
            raise ValueError(f"scene and camera must be on one device, got {scene.device} and {camera.device}")
        self.check(scene)
        if background is not None:
            expected = (len(scene), background.shape[1] if background.dim() > 1 else 1, *(self.image_size,) * 2)
            if tuple(background.shape) != expected:
                raise ValueError(f"background must have shape (B, C, H, W) = {expected}, got {tuple(background.shape)}")
            if background.device != scene.device:
                raise ValueError(f"background must be on the scene's device {scene.device}, is on {background.device}")
        with torch.autocast(scene.device.type, enabled=False) if self.full_precision else nullcontext():
            return self.render(scene, camera, background)

    def cache_key(self) -> str:
        """What the image depends on beside scene and camera: the class and its plain public settings."""
        settings = {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_") and k != "training"}
        return f"{type(self).__name__}({settings})"

    def check(self, scene: Scene) -> None:
        """Look at the scene's values; a renderer that meets each of them anyway may do so itself.

        Raises:
            TypeError, ValueError: as :meth:`forward`.
        """
        if isinstance(scene, VoxelGrid):
            scene.check()

    @abstractmethod
    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        """Draw; arguments are checked."""


def composite(
    image: Float[Tensor, "B _ H W"], alpha: Float[Tensor, "B 1 H W"], background: Tensor | None
) -> Float[Tensor, "B _ H W"]:
    """``image + (1 - alpha) background`` for an image that is already multiplied by its alpha; None is black.

    A grey image before a background in colour is grey in all of its channels.
    """
    return image if background is None else image + (1 - alpha) * background
