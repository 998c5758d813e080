"""Shapes as files."""

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

from callbacks.loggers.guarded import clock_of, guarded_loggers
from datamodules.shapes import write_binvox
from renderers.meshes.marching_cubes import marching_cubes
from visualization.images import save_png
from visualization.mesh_io import write_surface

IMAGES = {"image": "", "normal_map": "_normals", "texture": "_texture", "background": "_background"}
Format = Literal["glb", "obj", "binvox"]


class ShapeWriter(pl.Callback):
    """Writes ``shapes/<number>.{glb,obj,binvox,png}``: what ``predict`` gives, and the same at the end of ``fit``.

    Of voxels, meshes are marching cubes of the thresholded grid, y up, in the cube [-1/2, 1/2]³. Generated meshes keep
    their texture (:func:`write_mesh`) and are open, so there is no binvox of them. A generator of images has no shapes:
    its samples are ``images/<number>.png``.

    At each evaluation the first few go to the guarded_loggers that can turn them.

    Args:
        formats: of the shapes; images (a render, a normal map, texture and background) come beside them.
        shown: how many go to the guarded_loggers.
    """

    def __init__(self, formats: tuple[Format, ...] = ("glb", "obj", "binvox"), shown: int = 4) -> None:
        self.formats, self.shown = formats, shown

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        boards = [board for board in guarded_loggers(trainer) if board.takes_shapes]
        if trainer.fast_dev_run or trainer.state.fn != "fit" or not boards:
            return
        samples = module.predict_step(torch.arange(min(self.shown, module.samples)), 0)
        if not {"occupancy", "vertices"} & samples.keys():
            return
        with tempfile.TemporaryDirectory(prefix="unrender-") as folder:
            files = [Path(folder) / f"{i:04d}.glb" for i in range(len(samples["image"]))]
            for i, file in enumerate(files):
                write_sample(samples, i, getattr(module, "threshold", 0.5), file.with_suffix(""), ("glb",))
            for board in boards:
                board.log_shapes("samples", files, clock_of(module))

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        for index, batch in enumerate(module.predict_dataloader()):
            self._write(Path(trainer.default_root_dir), batch.tolist(), module.predict_step(batch, index), module)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, **_: Any
    ) -> None:
        self._write(Path(trainer.default_root_dir), batch.tolist(), outputs, module)

    @rank_zero_only
    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        kind = "shapes" if (folder / "shapes").is_dir() else "images"
        print(f"{module.samples} {kind} in {folder / kind}")

    def _write(self, folder: Path, numbers: list[int], samples: dict[str, Tensor], module: pl.LightningModule) -> None:
        if not {"occupancy", "vertices"} & samples.keys():
            for i, number in enumerate(numbers):
                save_png(folder / "images" / f"{number:04d}.png", samples["image"][i], 256)
            return
        (folder / "shapes").mkdir(parents=True, exist_ok=True)
        for i, number in enumerate(numbers):
            stem = folder / "shapes" / f"{number:04d}"
            write_sample(samples, i, getattr(module, "threshold", 0.5), stem, self.formats)
            for kind, suffix in IMAGES.items():
                if kind in samples:
                    save_png(stem.with_name(f"{stem.name}{suffix}.png"), samples[kind][i], 256)


def write_sample(samples: dict[str, Tensor], i: int, threshold: float, stem: Path, formats: tuple[Format, ...]) -> None:
    """Sample ``i`` of what ``predict_step`` gives, a mesh or voxels, in each format at ``stem`` with its suffix."""
    if "vertices" in samples:
        mesh = [samples["vertices"][i], samples["faces"], samples["uvs"], samples["texture"][i]]
        write_mesh(*(x.detach().cpu().numpy() for x in mesh), stem, formats)
    else:
        write_shape((samples["occupancy"][i, 0] > threshold).cpu().numpy(), stem, formats)


def write_shape(solid: Bool[np.ndarray, "D D D"], stem: Path, formats: tuple[Format, ...]) -> None:
    """One solid ``[z, y, x]`` in each format at ``stem`` with its suffix. An empty solid gives an empty mesh file."""
    for kind in formats:
        path = stem.with_suffix(f".{kind}")
        if kind == "binvox":
            write_binvox(path, solid)
            continue
        write_surface(path, *marching_cubes(solid))


def write_mesh(
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    uvs: Float[np.ndarray, "V 2"],
    texture: Float[np.ndarray, "3 H W"],
    stem: Path,
    formats: tuple[Format, ...] = ("glb", "obj"),
) -> None:
    """One textured mesh at ``stem`` with its suffix: GLB, or OBJ with its material ``.mtl`` and ``_material.png``; y up.

    Light is in the texture already, so the GLB asks for none (``KHR_materials_unlit``; other viewers see a matt surface),
    and for both sides to be drawn. Vertices without a face are left out.

    Args:
        vertices: world frame.
        faces: counter-clockwise seen from outside.
        uvs: in [0, 1], (0, 0) at the texture's top left.
        texture: in [0, 1].
        stem: path without suffix.
        formats: others than GLB and OBJ are left out.
    """
    used, faces = np.unique(faces, return_inverse=True)
    faces, uvs = faces.reshape(-1, 3), uvs[used] * (1, -1) + (0, 1)  # trimesh counts v from below
    image = Image.fromarray((texture.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))
    for kind in set(formats) & {"glb", "obj"}:
        if kind == "glb":
            material = PBRMaterial(
                name="unlit", baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
            )
        else:
            material = SimpleMaterial(image=image, name=f"{stem.name}_material", diffuse=[255] * 4)
        visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
        mesh = trimesh.Trimesh(vertices[used], faces, visual=visual, process=False)
        if kind == "glb":
            content = export_glb(trimesh.Scene(mesh), tree_postprocessor=_unlit)
            stem.with_suffix(".glb").write_bytes(content)
            continue
        text, files = export_obj(mesh, return_texture=True, mtl_name=f"{stem.name}.mtl")
        stem.with_suffix(".obj").write_text(text)
        for name, content in files.items():
            stem.with_name(name).write_bytes(content)


def _unlit(tree: dict[str, Any]) -> None:
    """To glTF's JSON add that the texture is shown as it is, clamped at its border as renderers here do."""
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_unlit": {}}
    tree["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}]
    for texture in tree["textures"]:
        texture["sampler"] = 0
