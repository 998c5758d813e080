"""The CUDA backend of the soft rasterizer, float32: Triton kernels for coverage, fragments and textures.

Vertex attributes and normals use the plain-torch code. :mod:`renderers.soft_rasterizer.reference` and
:mod:`renderers.soft_rasterizer.shading` are the specification. With ``TRITON_INTERPRET=1`` in the environment Triton
interprets the kernels on the CPU, slowly: this tests them without a GPU.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import triton
from jaxtyping import Bool, Float, Int
from torch import Tensor

from renderers.meshes.vertex_normals import vertex_normals
from renderers.soft_rasterizer import triton_coverage, triton_fragments
from renderers.soft_rasterizer.autograd import EvaluationKernels, SplatKernels
from renderers.soft_rasterizer.reference import (
    CRISP,
    NEAR,
    THIN,
    Fragments,
    RasterSettings,
    covers_more,
    project,
)
from renderers.soft_rasterizer.shading import splat_attributes
from renderers.triton_launch import launch
from utils.transfer import HostCopy

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]

FACES, FRAGMENTS = 32, 128  # lanes per program
EMPTY = (0x7F800000 << 32) | 0x7FFFFFFF  # depth inf, the largest face index

log = logging.getLogger(__name__)
_capacities: dict[tuple[torch.device, int], FragmentCapacity] = {}  # by device and pixels in the batch


class FragmentCapacity:
    """Room for the soft fragments of renders of one size, kept from render to render.

    How many fragments a render has is known only on the device. A training step need not wait for it: it allocates twice
    the number of the previous render, which has arrived by then. See :meth:`renderers.SoftRasterizer.without_waiting`.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count: HostCopy | None = None  # of the last render

    def reserve(self) -> int:
        """Return the capacity for the next render."""
        if self.count is not None:
            count = int(self.count.wait())
            if count > self.capacity:
                log.warning(
                    "a training step rendered only %d of %d soft fragments: there were more than twice as many as in the "
                    "step before",
                    self.capacity,
                    count,
                )
            self.capacity = max(self.capacity, 2 * count)
        return self.capacity


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """Compute :func:`renderers.soft_rasterizer.reference.find_fragments`, followed by padding with pixel -1.

    The depth test packs depth and face into one integer and keeps the minimum, so the result does not depend on the order
    of triangles.

    """
    screen, faces = screen.detach().contiguous(), faces.contiguous()
    batch, vertices, pixels = screen.shape[0], screen.shape[1], settings.size**2
    grid = (triton.cdiv(len(faces), FACES), batch)
    packed = torch.full((batch * pixels,), EMPTY, dtype=torch.int64, device=screen.device)
    shared = (screen, faces, packed, vertices, len(faces), settings.size)
    constants = {
        "NEAR": NEAR,
        "THIN": THIN,
        "CULL": settings.cull_backfaces,
        "PERSPECTIVE": settings.perspective,
        "BLOCK": FACES,
        "num_warps": 1,
        "enable_fp_fusion": False,  # adjacent triangles must get bit-identical values at their shared edge
    }
    if len(faces):
        launch(triton_coverage.crisp, grid, *shared, **constants)
    pixel = torch.arange(batch * pixels, device=screen.device)
    covered, face, edge = packed != EMPTY, packed & 0x7FFFFFFF, torch.full_like(packed, CRISP)
    if settings.margin == 0 or len(faces) == 0:
        return _compact(covered, pixel, face, edge)

    room = _capacities.setdefault((screen.device, len(packed)), FragmentCapacity(len(packed)))
    exact = settings.exact or room.count is None or not torch.is_grad_enabled()
    capacity = room.capacity if settings.exact else room.reserve()
    while True:
        integers = torch.empty(3, capacity, dtype=torch.int64, device=screen.device)
        floats = torch.empty(2, capacity, device=screen.device)
        counter = torch.zeros(1, dtype=torch.int32, device=screen.device)
        launch(
            triton_coverage.soft,
            grid,
            *shared,
            settings.margin,
            settings.depth_slope,
            integers,
            floats,
            counter,
            capacity,
            **constants,
        )
        count = HostCopy(counter)
        if not settings.exact:
            room.count = count
        if not exact or int(count.wait()) <= capacity:
            break
        room.capacity = capacity = int(count.wait())
    stored = torch.arange(capacity, device=screen.device) < counter
    return _select_visible(
        torch.cat([stored, covered]),
        torch.cat([integers[0], pixel]),
        torch.cat([integers[1], face]),
        torch.cat([integers[2], edge]),
        torch.cat([floats[0], torch.full_like(pixel, torch.inf, dtype=floats.dtype)]),
        torch.cat([floats[1] / settings.margin, torch.zeros_like(pixel, dtype=floats.dtype)]),
    )


def _select_visible(
    valid: Bool[Tensor, " M"],
    pixel: Int[Tensor, " M"],
    face: Int[Tensor, " M"],
    edge: Int[Tensor, " M"],
    z: Float[Tensor, " M"],
    normalized_distance: Float[Tensor, " M"],
) -> Fragments:
    """Compute :func:`renderers.soft_rasterizer.reference.select_visible` for the valid entries, with padding.

    The bits of positive floats order like the floats, so two sorts by integers suffice.
    """
    order = torch.argsort((_bits(normalized_distance) << 32) | face, stable=True)
    nearness = torch.where(valid, (pixel << 32) | _bits(z), torch.iinfo(torch.int64).max)
    order = order[torch.argsort(nearness[order], stable=True)]  # by pixel, depth, distance and face; then invalid ones
    valid, pixel, face, edge, normalized_distance = (x[order] for x in (valid, pixel, face, edge, normalized_distance))
    return _compact(valid & covers_more(pixel, normalized_distance), pixel, face, edge)


def _bits(x: Float[Tensor, " M"]) -> Int[Tensor, " M"]:
    return x.contiguous().view(torch.int32).long()


def _compact(kept: Bool[Tensor, " M"], pixel: Tensor, face: Tensor, edge: Tensor) -> Fragments:
    """Move the kept fragments to the front, in order, and pad. An index by ``kept`` would wait for the device."""
    count = len(kept)
    target = torch.where(kept, kept.cumsum(0) - 1, count)  # others go to an element that is cut off
    columns = [
        x.new_full((count + 1,), padding).scatter(0, target, x)[:count]
        for x, padding in ((pixel, -1), (face, 0), (edge, CRISP))
    ]
    return Fragments(*columns)


def _evaluate_forward(
    screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings, *outputs: Tensor
) -> None:
    if len(fragments.pixel):
        arguments, constants = _evaluation_arguments(screen, faces, fragments, settings)
        launch(triton_fragments.evaluate, _grid(fragments.pixel), *arguments, *outputs, **constants)


def _evaluate_backward(
    screen: Tensor,
    faces: Tensor,
    fragments: Fragments,
    settings: RasterSettings,
    grads: list[Tensor | None],
    grad_screen: Tensor,
) -> None:
    if len(fragments.pixel):
        arguments, constants = _evaluation_arguments(screen, faces, fragments, settings)
        present = {f"HAS_{n}": g is not None for n, g in zip(("W", "B", "A", "D"), grads, strict=True)}
        pointers = [grad_screen if g is None else g for g in grads]  # an absent gradient is not read
        launch(
            triton_fragments.evaluate_backward,
            _grid(fragments.pixel),
            *arguments,
            *pointers,
            grad_screen,
            **present,
            **constants,
        )


def _evaluation_arguments(
    screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = (screen, faces, fragments.pixel, fragments.face, fragments.edge)
    scalars = (screen.shape[1], len(fragments.pixel), settings.size, settings.margin or 1.0)
    return (*tensors, *scalars), {"PERSPECTIVE": settings.perspective, "BLOCK": FRAGMENTS}


def _grid(fragments: Tensor) -> tuple[int]:
    """Launch one lane per fragment."""
    return (triton.cdiv(len(fragments), FRAGMENTS),)


def _texture_forward(
    indices: tuple[Tensor, ...], weights: Tensor, barycentric: Tensor, texture: Tensor, image: Tensor
) -> None:
    if len(weights):
        arguments = (*indices, weights, barycentric, texture, len(weights), image.shape[-1], *texture.shape[1:])
        launch(triton_fragments.texture_splat, _grid(weights), *arguments, image, BLOCK=FRAGMENTS)


def _texture_backward(
    indices: tuple[Tensor, ...],
    weights: Tensor,
    barycentric: Tensor,
    texture: Tensor,
    grad: Tensor,
    grad_weights: Tensor,
    grad_barycentric: Tensor,
    grad_texture: Tensor | None,
) -> None:
    if len(weights):
        arguments = (*indices, weights, barycentric, texture, len(weights), grad.shape[-1], *texture.shape[1:])
        pointer = grad_weights if grad_texture is None else grad_texture  # an absent gradient is not written
        launch(
            triton_fragments.texture_backward,
            _grid(weights),
            *arguments,
            grad,
            grad_weights,
            grad_barycentric,
            pointer,
            NEEDS_TEXTURE=grad_texture is not None,
            BLOCK=FRAGMENTS,
        )


evaluate_fragments = EvaluationKernels(_evaluate_forward, _evaluate_backward).evaluate_fragments
splat_texture = SplatKernels(_texture_forward, _texture_backward).splat_texture
