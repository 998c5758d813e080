"""Errors of inverted shapes and viewpoints where the truth is known, and the yardsticks beside them.

Shapes are compared twice. In the *camera frame*, the shape as seen from the found viewpoint is compared with the true shape
as seen from the true one. In the *object frame*, the shapes are compared as they are, whatever the viewpoints.

A generator that was trained on images from all azimuths has no preferred front: as a set, its shapes may be rotated by a
multiple of 90° about the vertical axis, and its viewpoints with them. In the object frame and for viewpoint errors, all
inverted voxel shapes are rotated by the one multiple that brings the set closest to the true set
(:func:`metrics.shape_comparison.find_quarter_turn`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.renders.shapenet import ShapeNetRenderDataModule
from datamodules.shapes.procedural.heads import head_meshes
from datamodules.synthetic_heads import HeadsDataModule
from lightning_modules.voxel_generative import COMPARED_TRAINING_SHAPES, VoxelGenerativeModule
from metrics import ShapeReference, chamfer_matrix, surface_clouds
from metrics.point_clouds import rotate_clouds
from metrics.shape_comparison import find_quarter_turn
from renderers import Camera, SoftRasterizer, TriangleMesh
from renderers.grid_sampling import resample
from trainer.inversion.models import InvertibleGenerator
from trainer.inversion.starts import feature_errors, image_features
from trainer.inversion.targets import Item
from utils.errors import InputError

POINTS = 1024  # on each surface, for Chamfer distances
NEAREST_IMAGES = 4000  # training images that the nearest one is searched in, at most
MEAN_HEADS = 256
VISIBLE_SIZE = 96  # pixels per side of the depth maps whose points are compared
INVERSION_METRICS = ("iou", "chamfer", "camera_iou", "camera_chamfer", "view_error")
YARDSTICKS = ("nearest training image", "mean shape")


class Truth(ABC):
    """True shapes and viewpoints of N held-out images.

    Attributes:
        items: the images.
        camera: the true viewpoints.
        quarter: by how many quarter turns the inverted shapes are rotated, set by :meth:`measure`.
        kind: what the figures mean, for reports.
    """

    items: list[Item]
    camera: Camera
    kind: str
    quarter: int = 0

    @abstractmethod
    def measure(self, shapes: Any, camera: Camera) -> dict[str, Float[Tensor, " N"]]:
        """Return :data:`INVERSION_METRICS` of inverted shapes and viewpoints, one number per image; NaN for empty shapes."""

    @abstractmethod
    def yardsticks(self) -> dict[str, dict[str, Float[Tensor, " N"]]]:
        """Return the figures of the :data:`YARDSTICKS`.

        The first takes shape and viewpoint of the training image that is nearest in pixels
        (:func:`trainer.inversion.starts.feature_errors`). The second is the mean training shape from the true viewpoint.
        """


class VoxelTruth(Truth):
    """Held-out voxel shapes of a run's data module.

    ``iou`` is that of the grids, in the camera frame of grids resampled to twice the resolution; ``chamfer`` is between
    1,024 points on each surface, the sum of both directions' mean squared distances (:func:`metrics.chamfer_matrix`).
    """

    kind = "voxels"

    def __init__(self, module: VoxelGenerativeModule, data: ShapeNetRenderDataModule, count: int) -> None:
        self.module, self.data = module, data
        images, self.solids, self.camera = data.posed_images(False, range(count))
        self.items = []
        for i, image in enumerate(images):
            view = float(self.camera.azimuth[i]), float(self.camera.elevation[i])
            foreground = (image > 0).float().amax(0, keepdim=True)  # ambient light leaves no black on the object
            self.items.append(Item(f"held_out_{i:04d}", image, foreground, view))

    def measure(self, shapes: Bool[Tensor, "N D D D"], camera: Camera) -> dict[str, Float[Tensor, " N"]]:
        some = shapes.flatten(1).any(1)
        if some.any():
            self.quarter = find_quarter_turn(surface_clouds(shapes[some], POINTS), surface_clouds(self.solids, POINTS))
        return self._compare(shapes, camera, self.quarter)

    def _compare(self, shapes: Bool[Tensor, "N D D D"], camera: Camera, quarter: int) -> dict[str, Float[Tensor, " N"]]:
        some = shapes.flatten(1).any(1)
        chamfer, camera_chamfer = (torch.full((len(shapes),), torch.nan) for _ in range(2))
        if some.any():
            found, true = (surface_clouds(x[some], POINTS, seed) for seed, x in enumerate((shapes, self.solids)))
            chamfer[some] = _chamfer(rotate_clouds(found, 90 * quarter), true)
            seen = [c @ v.rotation.to(c).mT for c, v in ((found, camera[some]), (true, self.camera[some]))]
            camera_chamfer[some] = _chamfer(*seen)
        turned = Camera(camera.azimuth + 90 * quarter, camera.elevation, camera.fov)
        return {
            "iou": _iou(shapes.rot90(quarter, (1, 3)), self.solids),
            "chamfer": chamfer,
            "camera_iou": _iou(_seen(shapes, camera), _seen(self.solids, self.camera)),
            "camera_chamfer": camera_chamfer,
            "view_error": view_errors(turned, self.camera),
        }

    def yardsticks(self) -> dict[str, dict[str, Float[Tensor, " N"]]]:
        limit = len(self.data.shapes) if self.data.images == "unlimited" else int(self.data.images)
        images, solids, camera = self.data.posed_images(True, range(min(NEAREST_IMAGES, limit)))
        best = nearest_images(self.items, images)
        reference = ShapeReference.measure(
            self.data.reference_shapes,
            self.data.shapes,
            self.module.shape_metrics or 100,
            training_limit=COMPARED_TRAINING_SHAPES,
            cache_dir=self.module.fid.cache_dir,
        )
        parts = [part.float().sum(0) for part in reference.training.split(256)]
        mean = torch.stack(parts).sum(0) / len(reference.training)
        level = mean.flatten().sort(descending=True).values[int(mean.sum().round())]  # the mean volume
        results = (
            self._compare(solids[best], camera[best], 0),
            self._compare((mean > level).expand_as(self.solids), self.camera, 0),
        )
        return dict(zip(YARDSTICKS, results, strict=True))


class HeadTruth(Truth):
    """Held-out procedural heads.

    Generated heads are open surfaces without a volume, so only what is visible is compared. ``iou`` is that of the
    silhouettes, and ``chamfer`` is between 1,024 points of the depth maps: in the object frame both seen from the front
    (azimuth and elevation 0), in the camera frame each from its own viewpoint. The range of azimuths in training fixes the
    front of the generator's shapes, so no rotation is searched.
    """

    kind = "heads"

    def __init__(self, data: HeadsDataModule, count: int) -> None:
        self.data = data
        numbers = list(range(count))
        images = torch.from_numpy(data.held_out.images(numbers)).float() / 255
        self.camera = data.held_out.camera(numbers)
        angles = zip(self.camera.azimuth.tolist(), self.camera.elevation.tolist(), strict=True)
        self.items = [
            Item(f"held_out_{i:04d}", image, None, view)
            for i, (image, view) in enumerate(zip(images, angles, strict=True))
        ]
        self.meshes = head_meshes([data.held_out.head(i) for i in numbers])

    def measure(self, shapes: TriangleMesh, camera: Camera) -> dict[str, Float[Tensor, " N"]]:
        front = Camera.orbit([0.0] * len(self.items), 0.0, self.camera.fov)
        iou, chamfer = compare_visible(shapes, front, self.meshes, front)
        camera_iou, camera_chamfer = compare_visible(shapes, camera, self.meshes, self.camera)
        figures = (iou, chamfer, camera_iou, camera_chamfer, view_errors(camera, self.camera))
        return dict(zip(INVERSION_METRICS, figures, strict=True))

    def yardsticks(self) -> dict[str, dict[str, Float[Tensor, " N"]]]:
        data = self.data
        numbers = list(range(NEAREST_IMAGES if data.images == "unlimited" else min(NEAREST_IMAGES, int(data.images))))
        images = torch.cat(
            [torch.from_numpy(data.heads.images(numbers[i : i + 64])).float() / 255 for i in range(0, len(numbers), 64)]
        )
        best = [numbers[i] for i in nearest_images(self.items, images).tolist()]
        mean = head_meshes([data.heads.head(i) for i in range(MEAN_HEADS)])
        middle = TriangleMesh(mean.vertices.mean(0, keepdim=True).expand_as(self.meshes.vertices), mean.faces)
        results = (
            self.measure(head_meshes([data.heads.head(i) for i in best]), data.heads.camera(best)),
            self.measure(middle, self.camera),
        )
        return dict(zip(YARDSTICKS, results, strict=True))


def held_out_truth(model: InvertibleGenerator, module: Any, data: Any, count: int) -> Truth:
    """Render the first ``count`` held-out shapes of a run's data from the viewpoints of its reference images.

    Raises:
        InputError: the data have no held-out shapes, or fewer.
    """
    if isinstance(data, ShapeNetRenderDataModule) and isinstance(module, VoxelGenerativeModule):
        if count > len(data.reference_shapes):
            raise InputError(
                f"--held_out {count} is more than the {len(data.reference_shapes)} held-out shapes; reduce it"
            )
        return VoxelTruth(module, data, count)
    if isinstance(data, HeadsDataModule):
        if data.image_size != model.image_size:
            raise InputError(
                f"the run generates images of {model.image_size}² and its data are {data.image_size}²; continue the "
                "run to its last resolution"
            )
        return HeadTruth(data, count)
    raise InputError(f"{type(data).__name__} has no shapes with known geometry for --held_out; pass --images")


def nearest_images(items: list[Item], images: Float[Tensor, "M C S S"]) -> Tensor:
    """Return the index of the image that is nearest to each item's image."""
    targets = torch.stack([item.image for item in items])
    return feature_errors(image_features(targets), image_features(images)).argmin(1)


def view_errors(found: Camera, true: Camera) -> Float[Tensor, " N"]:
    """Return the angle of the rotation between two viewpoints, in degrees."""
    trace = torch.einsum("bij,bij->b", found.rotation.double(), true.rotation.double())
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).arccos()).float()


def compare_visible(
    a: TriangleMesh, a_camera: Camera, b: TriangleMesh, b_camera: Camera
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the IoU of silhouettes and the Chamfer distance of visible points, each mesh from its own camera."""
    a_depth, b_depth = (_depth(mesh, camera) for mesh, camera in ((a, a_camera), (b, b_camera)))
    silhouettes = [depth.isfinite().flatten(1) for depth in (a_depth, b_depth)]
    clouds = [_visible_points(depth, camera) for depth, camera in ((a_depth, a_camera), (b_depth, b_camera))]
    chamfer = torch.full((len(a),), torch.nan)
    some = silhouettes[0].any(1) & silhouettes[1].any(1)
    if some.any():
        chamfer[some] = _chamfer(clouds[0][some], clouds[1][some])
    return _iou(*silhouettes), chamfer


@torch.no_grad()
def _depth(mesh: TriangleMesh, camera: Camera) -> Float[Tensor, "N S S"]:
    bare = TriangleMesh(mesh.vertices, mesh.faces)
    depth = SoftRasterizer(VISIBLE_SIZE, margin=0)(bare, camera.to(mesh.device)).depth
    return cast(Tensor, depth)[:, 0].cpu()


def _visible_points(depth: Float[Tensor, "N S S"], camera: Camera) -> Float[Tensor, "N P 3"]:
    """Return points of depth maps in the camera frame, as many for each map, sampled with a fixed seed."""
    size = depth.shape[-1]
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    clouds = []
    for i, one in enumerate(depth):
        inside = one.isfinite()
        points = torch.stack([x[inside], y[inside], one[inside]], -1)
        if not len(points):
            clouds.append(torch.zeros(POINTS, 3))
            continue
        generator = torch.Generator().manual_seed(i)
        chosen = points[torch.randint(len(points), (POINTS,), generator=generator)]
        scale = camera.half_extent * (chosen[:, 2:] if camera.fov is not None else 1)
        clouds.append(torch.cat([chosen[:, :2] * scale, camera.distance - chosen[:, 2:]], 1))
    return torch.stack(clouds)


def _seen(solids: Bool[Tensor, "N D D D"], camera: Camera) -> Bool[Tensor, "N S S S"]:
    return torch.cat([resample(x[:, None].float(), c)[:, 0] > 0.5 for x, c in _batches(solids, camera)])


def _batches(solids: Tensor, camera: Camera, size: int = 16) -> list[tuple[Tensor, Camera]]:
    return [(solids[i : i + size], camera[slice(i, i + size)]) for i in range(0, len(solids), size)]


def _iou(a: Bool[Tensor, "N *"], b: Bool[Tensor, "N *"]) -> Float[Tensor, " N"]:
    a, b = a.flatten(1), b.flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def _chamfer(a: Float[Tensor, "N P 3"], b: Float[Tensor, "N P 3"]) -> Float[Tensor, " N"]:
    return torch.stack([chamfer_matrix(a[i : i + 1], b[i : i + 1])[0, 0] for i in range(len(a))]).float()
