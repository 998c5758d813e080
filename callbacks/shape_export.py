"""Generated shapes as mesh, voxel and image files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import trimesh
from jaxtyping import Bool, Float, Integer
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from callbacks.evaluations import is_fit_evaluation, kimg_and_step
from callbacks.loggers.guarded import guarded_loggers
from datamodules.shapes import write_binvox
from renderers.meshes.marching_cubes import marching_cubes
from renderers.opengl.voxel_color import surface_colors
from utils.errors import check_number
from visualization.images import save_png
from visualization.mesh_io import write_surface

IMAGE_SUFFIXES = {"image": "", "normal_map": "_normals", "texture": "_texture", "background": "_background"}
Format = Literal["glb", "obj", "binvox"]


class ShapeWriter(pl.Callback):
    """Writes ``shapes/<number>.{glb,obj,binvox,png}``: the samples of ``predict``, also at the end of ``fit``.

    Voxel grids are exported as marching-cubes meshes of the thresholded grid, y up, in the cube [-1/2, 1/2]³. Generated
    meshes keep their texture (:func:`write_mesh`) and are open, so they have no binvox file. Generators of images have no
    shapes: their samples are ``images/<number>.png``.

    At each evaluation the first samples are passed to the loggers that support meshes.

    Args:
        formats: formats of the shapes. Images (a render, a normal map, texture and background) are always written.
        shown: number of samples for the loggers.
    """

    def __init__(self, formats: tuple[Format, ...] = ("glb", "obj", "binvox"), shown: int = 4) -> None:
        check_number("shown", shown, at_least=1)
        self.formats, self.shown = formats, shown

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        loggers = [logger for logger in guarded_loggers(trainer) if logger.supports_shapes]
        if not loggers or not is_fit_evaluation(trainer):
            return
        samples = pl_module.predict_step(torch.arange(min(self.shown, pl_module.samples)), 0)
        if not _has_shapes(samples):
            return
        with tempfile.TemporaryDirectory(prefix="unrender-") as folder:
            files = [Path(folder) / f"{i:04d}.glb" for i in range(len(samples["image"]))]
            for i, file in enumerate(files):
                write_sample(samples, i, getattr(pl_module, "threshold", 0.5), file.with_suffix(""), ("glb",))
            for logger in loggers:
                logger.log_shapes("samples", files, kimg_and_step(pl_module))

    @rank_zero_only
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run:
            return
        for index, batch in enumerate(pl_module.predict_dataloader()):
            samples = pl_module.predict_step(batch, index)
            self._write(Path(trainer.default_root_dir), batch.tolist(), samples, pl_module)

    @rank_zero_only
    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Remove the samples of an earlier ``predict``, which may have been more."""
        folder = Path(trainer.default_root_dir)
        if folder.name == "predict":  # not in a directory that a user may have files in
            for file in [*folder.glob("shapes/[0-9]*"), *folder.glob("images/[0-9]*")]:
                file.unlink()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self._write(Path(trainer.default_root_dir), batch.tolist(), outputs, pl_module)

    @rank_zero_only
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        kind = "shapes" if (folder / "shapes").is_dir() else "images"
        print(f"{pl_module.samples} {kind} in {folder / kind}")

    def _write(self, folder: Path, numbers: list[int], samples: dict[str, Tensor], module: pl.LightningModule) -> None:
        if not _has_shapes(samples):
            for i, number in enumerate(numbers):
                save_png(folder / "images" / f"{number:04d}.png", samples["image"][i], 256)
            return
        (folder / "shapes").mkdir(parents=True, exist_ok=True)
        for i, number in enumerate(numbers):
            stem = folder / "shapes" / f"{number:04d}"
            write_sample(samples, i, getattr(module, "threshold", 0.5), stem, self.formats)
            for kind, suffix in IMAGE_SUFFIXES.items():
                if kind in samples:
                    save_png(stem.with_name(f"{stem.name}{suffix}.png"), samples[kind][i], 256)


def _has_shapes(samples: dict[str, Tensor]) -> bool:
    return not samples.keys().isdisjoint({"occupancy", "vertices"})


def write_sample(samples: dict[str, Tensor], i: int, threshold: float, stem: Path, formats: tuple[Format, ...]) -> None:
    """Write sample ``i`` of ``predict_step``, a mesh or a voxel grid, in each format to ``stem`` with its suffix."""
    if "vertices" in samples:
        vertices, faces, uvs, texture = (
            x.detach().cpu().numpy()
            for x in (samples["vertices"][i], samples["faces"], samples["uvs"], samples["texture"][i])
        )
        write_mesh(vertices, faces, uvs, texture, stem, formats)
    else:
        color = samples["color"][i].cpu() if "color" in samples else None
        write_shape((samples["occupancy"][i, 0] > threshold).cpu().numpy(), stem, formats, color)


def write_shape(
    solid: Bool[np.ndarray, "D D D"],
    stem: Path,
    formats: tuple[Format, ...],
    color: Float[Tensor, "C D D D"] | None = None,
) -> None:
    """Write a solid ``[z, y, x]`` in each format to ``stem`` with its suffix. An empty solid gives an empty mesh file.

    Each vertex has the ``color`` of its solid voxel; binvox has no colours.
    """
    if "binvox" in formats:
        write_binvox(stem.with_suffix(".binvox"), solid)
    if meshes := [kind for kind in formats if kind != "binvox"]:
        vertices, faces, normals = marching_cubes(solid)
        colors = None if color is None else surface_colors(solid, color, vertices)
        for kind in meshes:
            write_surface(stem.with_suffix(f".{kind}"), vertices, faces, normals, colors)


def write_mesh(
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    uvs: Float[np.ndarray, "V 2"],
    texture: Float[np.ndarray, "3 H W"],
    stem: Path,
    formats: tuple[Format, ...] = ("glb", "obj"),
) -> None:
    """Write a textured mesh to ``stem`` with its suffix: GLB, or OBJ with ``.mtl`` and ``_material.png``; y up.

    The texture includes the lighting, so the GLB is marked as unlit (``KHR_materials_unlit``; viewers without this
    extension show a matt surface) and double-sided. Vertices without a face are dropped.

    Args:
        vertices: vertices in the world frame.
        faces: vertex indices, counter-clockwise seen from outside.
        uvs: texture coordinates in [0, 1], (0, 0) at the top left of the texture.
        texture: RGB in [0, 1].
        stem: path without suffix.
        formats: formats other than GLB and OBJ are ignored.
    """
    used, faces = np.unique(faces, return_inverse=True)
    faces, uvs = faces.reshape(-1, 3), uvs[used] * (1, -1) + (0, 1)  # trimesh has v = 0 at the bottom
    image = Image.fromarray((texture.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))

    def textured(material: PBRMaterial | SimpleMaterial) -> trimesh.Trimesh:
        visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
        return trimesh.Trimesh(vertices[used], faces, visual=visual, process=False)

    if "glb" in formats:
        material = PBRMaterial(
            name="unlit", baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
        )
        scene = trimesh.Scene(textured(material))
        stem.with_suffix(".glb").write_bytes(export_glb(scene, tree_postprocessor=_mark_unlit))
    if "obj" in formats:
        name = f"{stem.name}_material"
        mesh = textured(SimpleMaterial(image=image, name=name, diffuse=[255] * 4))
        text, files = export_obj(mesh, return_texture=True, mtl_name=f"{stem.name}.mtl")
        stem.with_suffix(".obj").write_text(text, encoding="utf-8")
        for name, content in files.items():
            stem.with_name(name).write_bytes(content)


def _mark_unlit(tree: dict[str, Any]) -> None:
    """Mark the materials in glTF's JSON as unlit and their textures as clamped at the border, as the renderers do."""
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_unlit": {}}
    tree["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}]
    for texture in tree["textures"]:
        texture["sampler"] = 0
