"""Unpacked ShapeNetCore folders, version 1 or 2."""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from datamodules.shapes.base import (
    Shape,
    ShapeSource,
    Split,
    check_file,
    check_split,
    check_voxel_size,
    digest,
    file_stamp,
    in_split,
    to_voxel_grid,
)
from datamodules.shapes.processing.binvox import read_binvox
from datamodules.shapes.processing.resample import fit_to_cube, occupied_box, resample
from datamodules.shapes.processing.voxelize import normalize, voxelize
from datamodules.shapes.unusable import readable_names, warn_first_process
from renderers.mesh_files import read_mesh
from utils.errors import InputError, check_choice, check_number

VERSION = {"solid": 2, "surface": 2, "obj": 4}  # by kind; increase when the same files give other shapes
SYNSETS = {
    "airplane": "02691156",
    "bathtub": "02808440",
    "bed": "02818832",
    "bench": "02828884",
    "bookshelf": "02871439",
    "cabinet": "02933112",
    "car": "02958343",
    "chair": "03001627",
    "couch": "04256520",
    "display": "03211117",
    "lamp": "03636649",
    "sofa": "04256520",
    "table": "04379243",
    "tub": "02808440",
}
_FILES = {
    "solid": "models/model_normalized.solid.binvox",
    "surface": "models/model_normalized.surface.binvox",
    "obj": "models/model_normalized.obj",
}
_V1_FILE = "model.obj"
_TOLERANCE = 0.02  # how far a model may exceed the cube and still count as normalized
_MIN_DIAGONAL = 0.5  # of a normalized model's box; it is 1 unless parts are not read, such as stray points


class ShapeNetShapes(ShapeSource):
    """Models of one ShapeNetCore category.

    The layout determines the version: ``<root>/<synset>/<model>/models/model_normalized.*`` is version 2 (front -Z),
    ``<root>/<synset>/<model>/model.obj`` is version 1 (front +X, and mirrored left to right, a known fault of that release
    that is not corrected). Both have +Y up and are turned about it to face +z.

    ShapeNet normalizes a model to a bounding box of diagonal 1 around the origin. That size is kept, by the OBJ's vertices
    or the binvox header's ``translate`` and ``scale``: a chair takes about 0.7 of the cube, and relative sizes within a
    category are preserved. Models that are not normalized in this way (they would leave the cube, or the diagonal is less
    than 0.5), and all models if ``refit`` is set, are centred with their longest side at 0.9. The 128³ binvox grids are
    max-pooled, so that thin legs survive.

    The split depends on a hash of the model's id, so it is the same on every machine and in every category that lists the
    model.

    Args:
        root: the unpacked folder, which contains one folder per synset.
        category: a name such as chair, couch, sofa, bathtub or table, or a synset id.
        voxel_size: voxels per edge.
        kind: ``solid`` or ``surface`` binvox files (version 2 only), or ``obj``, which is voxelized (slower).
        split: train, test or all.
        test_fraction: fraction of the models in the test split.
        refit: centre every model with its longest side at 0.9 of the cube.
        models: a text file (UTF-8) of the model ids to use, one per line; None for all.
        on_corrupt: whether a model that cannot be read is an error (raise), or is left out with a warning (skip). ``skip``
            reads all models once; the result is cached.

    Raises:
        InputError: a folder or the list does not exist, an argument is invalid, or the category or the list has no usable
            models.
    """

    def __init__(
        self,
        root: str | Path,
        category: str,
        voxel_size: int = 64,
        kind: Literal["solid", "surface", "obj"] = "solid",
        split: Split = "train",
        test_fraction: float = 0.2,
        refit: bool = False,
        models: str | Path | None = None,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        check_on_corrupt(on_corrupt)
        check_split(split)
        check_number("test_fraction", test_fraction, at_least=0, at_most=1)
        check_voxel_size(voxel_size)
        check_choice("kind", kind, tuple(_FILES))
        self.root = Path(root)
        self.category = category
        self.voxel_size = voxel_size
        self.kind = kind
        self.split: Split = split
        self.test_fraction = test_fraction
        self.refit = refit
        self.on_corrupt = on_corrupt
        self.folder = _category_folder(self.root, category)
        self.version = _version(self.folder)
        if self.version == 1 and kind != "obj":
            raise InputError(
                f"{self.folder} is ShapeNetCore version 1, which has no binvox files; set kind to 'obj' for "
                "shapes and for reference_shapes (--data.shapes.kind=obj --data.reference_shapes.kind=obj)"
            )
        self.models = None if models is None else Path(models)
        if self.models is not None:
            check_file("list of models", self.models, "set models to a text file of model ids")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Shape:
        name = self.name(index)
        path = self._file(name)
        solid = self._from_obj(path) if self.kind == "obj" else self._from_binvox(path)
        if not solid.any():
            raise InputError(f"{path} is empty")
        return Shape(name, to_voxel_grid(solid))

    def check(self, index: int) -> None:
        self._check_file(self._file(self.name(index)))

    def name(self, index: int) -> str:
        return self._names[self._check_index(index)]

    def cache_key(self) -> str:
        files = tuple((name, *file_stamp(self._file(name))) for name in self._names)
        return digest("shapenet", VERSION[self.kind], self.version, self.voxel_size, self.kind, self.refit, files)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_names"}

    @cached_property
    def _names(self) -> list[str]:
        """Sorted ids of the split's usable models."""
        present = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        if self.models is not None:
            present = self._select(present, self.models)
        usable = [name for name in present if self._file(name).is_file()]
        if len(usable) < len(present):
            file = self._file("MODEL").relative_to(self.folder / "MODEL")
            count = len(present) - len(usable)
            warn_first_process(f"skipping {count:,} of {len(present):,} models in {self.folder} that have no {file}")
        names = [name for name in usable if in_split(name, self.split, self.test_fraction)]
        if not names:
            listed = "" if self.models is None else f" listed in {self.models}"
            raise InputError(
                f"{self.folder} has no {self.category} model{listed} in split {self.split!r} with a "
                f"{self._file('MODEL').name}; unpack the category again, or choose another kind or split"
            )
        if self.on_corrupt == "raise":
            return names
        files = {str(self._file(name).relative_to(self.folder)): name for name in names}
        return [files[file] for file in readable_names(list(files), self.folder, VERSION[self.kind], self._check_file)]

    def _check_file(self, path: Path) -> None:
        """Raise an :class:`InputError` if a model cannot be read or is empty, without voxelizing it."""
        if self.kind == "obj":
            read_mesh(path, materials=False)
        elif not read_binvox(path).voxels.any():
            raise InputError(f"{path} is empty")

    def _select(self, present: list[str], models: Path) -> list[str]:
        try:
            text = models.read_text(encoding="utf-8-sig")  # Windows programs begin UTF-8 with a byte order mark
        except UnicodeDecodeError as error:
            raise InputError(f"{models} is not UTF-8 text; write one model id per line") from error
        except OSError as error:
            raise InputError(f"{models} cannot be read ({error.strerror}); check its permissions") from error
        listed = {line.strip() for line in text.splitlines() if line.strip()}
        if not listed.intersection(present):
            raise InputError(f"{models} lists none of the models in {self.folder}; write one model id per line")
        missing = listed - set(present)
        if missing:
            warn_first_process(f"{len(missing)} of {len(listed)} models in {models} are not in {self.folder}")
        return [name for name in present if name in listed]

    def _file(self, name: str) -> Path:
        return self.folder / name / (_V1_FILE if self.version == 1 else _FILES[self.kind])

    def _from_binvox(self, path: Path) -> Bool[np.ndarray, "D D D"]:
        file = read_binvox(path)
        if not file.voxels.any():
            return file.voxels
        # Half a turn about y negates x and z.
        voxels = file.voxels[::-1, :, ::-1]
        x, y, z = file.translate
        low = (-x - file.scale, y, -z - file.scale)
        voxel = file.scale / voxels.shape[0]
        box = np.array(low) + voxel * np.array(occupied_box(voxels))
        if self.refit or not _is_normalized(box):
            return fit_to_cube(voxels, self.voxel_size)
        return resample(voxels, self.voxel_size, low, file.scale)

    def _from_obj(self, path: Path) -> Bool[np.ndarray, "D D D"]:
        file = read_mesh(path, materials=False)
        x, y, z = file.vertices.T
        vertices = np.stack([-z, y, x] if self.version == 1 else [-x, y, -z], axis=1)
        mesh = trimesh.Trimesh(vertices, file.faces, process=False)
        if self.refit or not _is_normalized(mesh.bounds):
            mesh = normalize(mesh)
        return voxelize(mesh, self.voxel_size)


def _is_normalized(box: Float[np.ndarray, "2 3"]) -> bool:
    """Whether a bounding box may be that of a model that ShapeNet has normalized."""
    return bool(np.abs(box).max() <= 0.5 + _TOLERANCE and np.linalg.norm(box[1] - box[0]) >= _MIN_DIAGONAL)


def _category_folder(root: Path, category: str) -> Path:
    if not root.is_dir():
        raise InputError(f"no such folder: {root.absolute()}; set root to the unpacked ShapeNetCore")
    synset = SYNSETS.get(category.lower(), category)
    if not (synset.isdigit() and len(synset) == 8):
        matches = difflib.get_close_matches(category.lower(), SYNSETS, n=3, cutoff=0.5) or sorted(SYNSETS)
        raise InputError(
            f"unknown category {category!r}; did you mean {', '.join(matches)}, or a synset id such as 03001627?"
        )
    folder = root / synset
    if not folder.is_dir():
        names = {synset: name for name, synset in SYNSETS.items()}
        present = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name.isdigit())
        listed = ", ".join(f"{s} ({names[s]})" if s in names else s for s in present[:8]) or "no categories"
        raise InputError(f"{root} has no folder {synset} for {category!r} (it has {listed}); unpack {synset}.zip there")
    return folder


def _version(folder: Path) -> Literal[1, 2]:
    """Return the version by the layout of the first model folder that has one of the two."""
    for model in sorted(folder.iterdir()):
        if (model / "models").is_dir():
            return 2
        if (model / _V1_FILE).is_file():
            return 1
    raise InputError(
        f"{folder} has no models, neither MODEL/models/model_normalized.obj (v2) nor MODEL/model.obj (v1); "
        "unpack the category again"
    )
