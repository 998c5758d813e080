"""The interface of all renderers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from renderers.cameras import Camera
from renderers.scenes import TriangleMesh, VoxelGrid
from utils.errors import check_number

Scene = VoxelGrid | TriangleMesh


@dataclass(frozen=True)
class Rendering:
    """Output of a renderer. Row 0 is the top row; pixel centres are at half-integer coordinates.

    Args:
        image: ``(B, C, H, W)`` in [0, 1], composited over the background.
        alpha: ``(B, 1, H, W)`` in [0, 1], the fraction of the pixel that the object covers.
        depth: ``(B, 1, H, W)`` distance from the camera along its optical axis in world units, ``inf`` on the background;
            None if the renderer does not provide it.
        normals: ``(B, 3, H, W)`` unit normals in the camera frame (x right, y up, z toward the viewer), 0 on the
            background; None if the renderer does not provide them.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor | None = None
    normals: Tensor | None = None

    def normal_map(self) -> Float[Tensor, "B 3 H W"]:
        """Return the normals as an image, ``(n + 1) / 2`` on black.

        Raises:
            ValueError: if the renderer does not provide normals.
        """
        if self.normals is None:
            raise ValueError("this rendering has no normals; use a renderer that provides them, such as OpenGLRenderer")
        return (self.normals + 1) / 2 * self.alpha


class Renderer(nn.Module, ABC):
    """Renders a batch of scenes, each from its own camera.

    Subclasses define ``differentiable`` and ``accepts`` and implement :meth:`render`.

    Args:
        image_size: height and width of the image in pixels.

    Attributes:
        differentiable: whether gradients flow from the image to the scene.
        accepts: types of scenes.
        full_precision: whether autocast is disabled in :meth:`render`. bfloat16 is too coarse for coordinates.

    Raises:
        InputError: ``image_size`` is less than 1.
    """

    differentiable: ClassVar[bool]
    accepts: ClassVar[tuple[type, ...]]
    full_precision: ClassVar[bool] = True

    def __init__(self, image_size: int) -> None:
        super().__init__()
        check_number("image_size", image_size, at_least=1)
        self.image_size = image_size

    def forward(self, scene: Scene, camera: Camera, background: Tensor | None = None) -> Rendering:
        """Render ``scene`` from ``camera``.

        Args:
            scene: one of the types in ``accepts``, batch B.
            camera: batch B.
            background: ``(B, C, H, W)`` image behind the object, or None for black.

        Raises:
            TypeError: unsupported type or dtype of the scene.
            ValueError: batch sizes or devices that do not match; occupancy or colour outside [0, 1], vertices or angles of
                the camera that are not finite; a background of another size. Values on a GPU are not checked this way,
                because the host would wait for the device: there invalid values make the whole image NaN.
        """
        if not isinstance(scene, self.accepts):
            names = " or ".join(t.__name__ for t in self.accepts)
            raise TypeError(f"{type(self).__name__} renders {names}, got {type(scene).__name__}")
        if len(scene) != len(camera):
            raise ValueError(f"scene and camera must have the same batch size, got {len(scene)} and {len(camera)}")
        if camera.device != scene.device:
            raise ValueError(f"scene and camera must be on the same device, got {scene.device} and {camera.device}")
        on_cpu = scene.device.type == "cpu"
        if on_cpu and not camera.is_finite():
            raise ValueError("the azimuth and elevation of a camera must be finite")
        self.check(scene)
        if background is not None:
            expected = (len(scene), background.shape[1] if background.dim() > 1 else 1, *(self.image_size,) * 2)
            if tuple(background.shape) != expected:
                raise ValueError(f"background must have shape (B, C, H, W) = {expected}, got {tuple(background.shape)}")
            if background.device != scene.device:
                raise ValueError(f"background must be on the scene's device {scene.device}, got {background.device}")
        with torch.autocast(scene.device.type, enabled=False) if self.full_precision else nullcontext():
            rendering = self.render(scene, camera, background)
        if not isinstance(rendering, Rendering):
            raise TypeError(f"{type(self).__name__}.render must return a Rendering, not {type(rendering).__name__}")
        if on_cpu:
            return rendering
        valid = scene.is_valid() & camera.is_finite()
        return replace(rendering, image=torch.where(valid, rendering.image, torch.nan))

    def cache_key(self) -> str:
        """Return what the image depends on besides scene and camera, as a text for the names of caches.

        These are the class, its public attributes, weights and buffers, and those of its submodules. An attribute that is an
        object of another class counts with its ``repr``.
        """
        return _describe(self)

    def check(self, scene: Scene) -> None:
        """Check the scene's dtypes and, on the CPU, its values. A subclass may override it to check the values while it
        reads them.

        Raises:
            TypeError, ValueError: see :meth:`forward`.
        """
        if isinstance(scene, VoxelGrid):
            scene.check(values=scene.device.type == "cpu")

    @abstractmethod
    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        """Render; :meth:`forward` has checked the arguments."""


def _describe(value: Any) -> str:
    """Return ``repr`` of a value, with the contents of modules, tensors and arrays, which ``repr`` abbreviates."""
    if isinstance(value, nn.Module):
        settings = {k: v for k, v in sorted(vars(value).items()) if not k.startswith("_") and k != "training"}
        members = value._parameters | value._buffers | value._modules
        cls = type(value)
        module = "" if cls.__module__.startswith("renderers.") else f"{cls.__module__}."
        return f"{module}{cls.__qualname__}({_describe(settings | members)})"
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        content = hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        return f"{tensor.dtype}{tuple(tensor.shape)}{content}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {_describe(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_describe, value))})"
    return repr(value)


def composite(
    image: Float[Tensor, "B _ H W"], alpha: Float[Tensor, "B 1 H W"], background: Tensor | None
) -> Float[Tensor, "B _ H W"]:
    """Return ``image + (1 - alpha) background`` for an image premultiplied by alpha. None is a black background.

    Channels broadcast: a grey image is composited over each channel of a colour background.
    """
    return image if background is None else image + (1 - alpha) * background


def normalize_channels(normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return ``n / max(|n|, 1e-12)``; the gradient is finite at zero vectors.

    The same as ``torch.nn.functional.normalize(normals, dim=1)``, whose norm over a strided axis is slow on CPUs.
    """
    return normals * normals.square().sum(1, keepdim=True).clamp(min=1e-24).rsqrt()
