"""Shapes as files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import trimesh
from jaxtyping import Bool
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.pictures import save_png
from datamodules.shapes import write_binvox
from renderers.surface import marching_cubes

_NOTHING = b'{"asset":{"version":"2.0"}} '  # padded to a multiple of 4 bytes, as GLB asks
EMPTY = {
    "glb": struct.pack("<4sIIII", b"glTF", 2, 20 + len(_NOTHING), len(_NOTHING), 0x4E4F534A) + _NOTHING,
    "obj": b"# an empty shape\n",
}
Format = Literal["glb", "obj", "binvox"]


class ShapeWriter(pl.Callback):
    """Writes ``shapes/<number>.{glb,obj,binvox,png}``: what ``predict`` gives, and the same at the end of ``fit``.

    Meshes are marching cubes of the thresholded grid, y up, in the cube [-1/2, 1/2]³. A generator of pictures has no
    shapes: its samples are ``pictures/<number>.png``.

    Args:
        formats: of the shapes; pictures (a render and a normal map) come beside them.
    """

    def __init__(self, formats: tuple[Format, ...] = ("glb", "obj", "binvox")) -> None:
        self.formats = formats

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
        kind = "shapes" if (folder / "shapes").is_dir() else "pictures"
        print(f"{module.samples} {kind} in {folder / kind}")

    def _write(self, folder: Path, numbers: list[int], samples: dict[str, Tensor], module: pl.LightningModule) -> None:
        if "occupancy" not in samples:
            for i, number in enumerate(numbers):
                save_png(folder / "pictures" / f"{number:04d}.png", samples["image"][i], 256)
            return
        solids = (samples["occupancy"][:, 0] > module.threshold).cpu().numpy()
        for i, number in enumerate(numbers):
            stem = folder / "shapes" / f"{number:04d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            write_shape(solids[i], stem, self.formats)
            save_png(stem.with_suffix(".png"), samples["image"][i], 256)
            if "normal_map" in samples:
                save_png(stem.with_name(f"{stem.name}_normals.png"), samples["normal_map"][i], 256)


def write_shape(solid: Bool[np.ndarray, "D D D"], stem: Path, formats: tuple[Format, ...]) -> None:
    """One solid ``[z, y, x]`` in each format at ``stem`` with its suffix. An empty solid gives an empty mesh file."""
    for kind in formats:
        path = stem.with_suffix(f".{kind}")
        if kind == "binvox":
            write_binvox(path, solid)
            continue
        vertices, faces, normals = marching_cubes(solid)
        if len(faces):
            trimesh.Trimesh(vertices, faces, vertex_normals=normals, process=False).export(path)
        else:  # trimesh refuses to export nothing
            path.write_bytes(EMPTY[kind])
