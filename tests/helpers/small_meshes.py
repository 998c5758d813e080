"""Small meshes and textures, written to files."""

import io
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from renderers.mesh_files import read_mesh
from utils.errors import InputError

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
UV = "vt 0 0\nvt {0} 0\nvt {0} {0}\nvt 0 {0}\n"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


CHECKERS = np.kron([[255, 0], [0, 255]], np.ones((8, 8)))[..., None] * [1, 0, 0] + [0, 60, 0]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_mesh(path)
    assert str(path) in str(caught.value)
    return caught.value.message


def box(twice: bool = False, flipped: bool = False) -> trimesh.Trimesh:
    mesh = trimesh.creation.box((0.6, 0.8, 0.4))
    if twice:
        mesh.faces = np.concatenate([mesh.faces, mesh.faces[:, ::-1]])
    if flipped:
        mesh.faces[::2] = mesh.faces[::2, ::-1]
    return mesh
