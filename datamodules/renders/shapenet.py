"""Pictures of shapes from random viewpoints: IG-GAN's training data (supplement B.2)."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.renders.cache import RenderCache
from datamodules.renders.cached_base import DrawnDataModule
from datamodules.shapes import ShapeSource
from renderers import Camera, OpenGLRenderer, Renderer, ViewDistribution, VoxelGrid
from utils.files import cache_root, fingerprint

RENDERS_VERSION = 3  # raise when a change makes other pictures of the same shapes
KEPT_BYTES = 2**28


class KeptSolids:
    """Solids of a source by number, kept as bits once made: making one takes longer than to draw it.

    Kept are the first that are asked for, up to 256 MiB; those that no longer fit are made each time.
    """

    def __init__(self, shapes: ShapeSource) -> None:
        self.shapes = shapes
        self._bits: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Bool[np.ndarray, "D D D"]:
        bits = self._bits.get(index)
        if bits is not None:
            return (
                np.unpackbits(bits, count=self.shapes.voxel_size**3).view(bool).reshape((self.shapes.voxel_size,) * 3)
            )
        solid = self.shapes[index].voxels.occupancy[0, 0].numpy() > 0.5
        if (len(self._bits) + 1) * solid.size // 8 <= KEPT_BYTES:
            self._bits[index] = np.packbits(solid)
        return solid

    def __getstate__(self) -> dict[str, object]:
        return {"shapes": self.shapes, "_bits": {}}  # workers make their own


def render_shapes(
    solids: KeptSolids, renderer: Renderer, views: ViewDistribution, seed: int, indices: list[int]
) -> UInt8[np.ndarray, "n C H W"]:
    """Pictures i of ``indices``: shape ``i mod len(solids)`` from a viewpoint drawn by (seed, i)."""
    grids = torch.from_numpy(np.stack([solids[i % len(solids)] for i in indices]))[:, None]
    if not isinstance(renderer, OpenGLRenderer):
        grids = grids.float()  # OpenGL draws booleans, with a quarter of the memory to pass through
    cameras = [views.sample(1, torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in indices]
    camera = Camera(torch.cat([c.azimuth for c in cameras]), torch.cat([c.elevation for c in cameras]), views.fov)
    image = renderer(VoxelGrid(grids), camera).image
    return (image * 255).round().to(torch.uint8).cpu().numpy()


def shape_renders(
    shapes: ShapeSource,
    renderer: Renderer,
    views: ViewDistribution,
    count: int,
    seed: int,
    cache_dir: str | None,
    description: str,
) -> RenderCache:
    """The cache of ``count`` pictures ``(1, S, S)`` by :func:`render_shapes`, in a folder named by all they depend on."""
    key = fingerprint(RENDERS_VERSION, shapes.fingerprint(), renderer.fingerprint(), views, seed, count)
    solids = KeptSolids(shapes)
    return RenderCache(
        cache_root(cache_dir) / "renders" / key,
        count,
        (1, renderer.image_size, renderer.image_size),
        lambda indices: render_shapes(solids, renderer, views, seed, indices),
        description,
    )


class EndlessRenders(Dataset):
    """Renders made as they are asked for, never the same view twice ("unlimited" in the supplement's tables)."""

    def __init__(self, shapes: ShapeSource, renderer: Renderer, views: ViewDistribution, seed: int) -> None:
        self.solids, self.renderer, self.views, self.seed = KeptSolids(shapes), renderer, views, seed

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor]]:
        pictures = render_shapes(self.solids, self.renderer, self.views, self.seed, indices)
        return [(picture,) for picture in torch.from_numpy(pictures)]

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return self.__getitems__([index])[0]


class ShapeNetRenderDataModule(DrawnDataModule):
    """Renders of a shape source: ShapeNet, a voxel archive or procedural shapes.

    Batches are ``[pictures (B, C, H, W)]``, floats in [0, 1] on the device.

    Args:
        shapes: what is drawn for training.
        reference_shapes: held-out shapes whose renders are the reference of FID; the training shapes if None.
        renderer: draws them; give the module the same one.
        views: where they are seen from.
        reference_views: where the reference of FID is seen from; ``views`` if None. Generated shapes are drawn from there
            as well: the limited viewpoints of the supplement's tables are evaluated all around (table 1, footnote).
        pictures: a fixed number (500 in the supplement's tables), ``unlimited`` (drawn as training goes), or None for
            ``pictures_per_model``.
        pictures_per_model: 1, or 4 for bathtubs in the supplement.
        reference_pictures: how many pictures FID compares, of each kind.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of real pictures.
        cache_dir: where renders are kept; default $UNRENDER_CACHE or ~/.cache/unrender.
        num_workers: processes that load, and for ``unlimited`` draw, the pictures.
        seed: of views and order.
    """

    def __init__(
        self,
        shapes: ShapeSource,
        renderer: Renderer,
        views: ViewDistribution,
        reference_shapes: ShapeSource | None = None,
        reference_views: ViewDistribution | None = None,
        pictures: int | Literal["unlimited"] | None = None,
        pictures_per_model: int = 1,
        reference_pictures: int = 10_000,
        batch_size: int = 32,
        total_kimg: float = 1000,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        self.shapes, self.reference_shapes = shapes, reference_shapes or shapes
        self.renderer, self.views, self.reference_views = renderer, views, reference_views or views
        self.pictures = len(shapes) * pictures_per_model if pictures is None else pictures
        self.reference_pictures = reference_pictures
        self.cache_dir = cache_dir

    @cached_property
    def reference_occupancy(self) -> float:
        """Mean occupancy of (64 of) the shapes behind the reference: what a generator's should resemble."""
        shapes = self.reference_shapes
        return float(np.mean([float(shapes[i].voxels.occupancy.mean()) for i in range(min(64, len(shapes)))]))

    def _endless(self) -> Dataset:
        return EndlessRenders(self.shapes, self.renderer, self.views, self.seed)

    def _cache(self, train: bool) -> RenderCache:
        return shape_renders(
            self.shapes if train else self.reference_shapes,
            self.renderer,
            self.views if train else self.reference_views,
            self.pictures if train else self.reference_pictures,
            2 * self.seed + (0 if train else 1),
            self.cache_dir,
            "rendering training pictures" if train else "rendering reference pictures",
        )
