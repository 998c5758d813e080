"""Mesh files of generated meshes look like the generated meshes."""

import json
import struct

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import trimesh

from callbacks import ShapeWriter
from callbacks.shape_export import write_mesh, write_sample, write_shape
from datamodules.shapes import read_binvox
from networks import MeshGenerator
from renderers import Camera, OpenGLRenderer, SoftRasterizer, TriangleMesh, VoxelGrid
from trainer.export.samples import Sample

SIZE = 64


@pytest.fixture(scope="module")
def mesh() -> TriangleMesh:
    """A curved surface with a smooth texture that looks different from every side and in every orientation."""
    torch.manual_seed(0)
    generator = MeshGenerator(32, 8, initial_radius=0.7, initial_bulge=0.3, shape_scale=0.01, channel_max=8).eval()
    with torch.no_grad():
        mesh = generator(torch.randn(1, 16), noise="zero").mesh
    v, u = torch.meshgrid(*[(torch.arange(SIZE) + 0.5) / SIZE] * 2, indexing="ij")
    texture = torch.stack([u, v, 0.5 + 0.5 * torch.sin(9 * u + 5 * v)])[None]
    return TriangleMesh(mesh.vertices, mesh.faces, mesh.uvs, texture)


def load(path) -> TriangleMesh:
    """Load a file with trimesh and convert its v coordinate, which is 0 at the bottom."""
    loaded = trimesh.load(path, force="mesh", process=False)
    material = loaded.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    texture = torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    uvs = torch.tensor(np.array(loaded.visual.uv)).float() * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
    return TriangleMesh(torch.tensor(np.array(loaded.vertices)).float()[None], torch.tensor(loaded.faces), uvs, texture)


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_opengl_render_of_mesh_file_matches_soft_rasterizer(mesh, tmp_path, kind):
    arrays = [mesh.vertices[0], mesh.faces, mesh.uvs, mesh.texture[0]]
    write_mesh(*(x.numpy() for x in arrays), tmp_path / "0007", (kind, "binvox"))
    assert not (tmp_path / "0007.binvox").exists()
    read = load(tmp_path / f"0007.{kind}")
    used = mesh.faces.unique()
    assert torch.allclose(read.vertices[0], mesh.vertices[0, used], atol=1e-6)  # y up, not moved, no unused vertices
    for azimuth, elevation in ((0, 0), (35, -15), (-40, 20)):
        camera = Camera.orbit(azimuth, elevation, fov=10)
        soft = SoftRasterizer(SIZE, margin=0)(mesh, camera)
        opengl = OpenGLRenderer(SIZE, lighting="unlit")(read, camera)
        both = (soft.alpha == 1) & (opengl.alpha == 1)
        assert both.sum() > 400
        difference = (soft.image - opengl.image).abs() * both
        assert difference.sum() / both.sum() / 3 < 2 / 255
        assert (soft.alpha - opengl.alpha).abs().mean() < 0.03


def test_glb_is_unlit(mesh, tmp_path):
    arrays = [mesh.vertices[0], mesh.faces, mesh.uvs, mesh.texture[0]]
    write_mesh(*(x.numpy() for x in arrays), tmp_path / "one")
    content = (tmp_path / "one.glb").read_bytes()
    tree = json.loads(content[20 : 20 + struct.unpack("<I", content[12:16])[0]])
    (material,) = tree["materials"]
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"] and material["extensions"] == {"KHR_materials_unlit": {}}
    assert material["doubleSided"] is True and "baseColorTexture" in material["pbrMetallicRoughness"]
    assert tree["textures"][0]["sampler"] == 0
    assert (tmp_path / "one.mtl").exists() and (tmp_path / "one_material.png").exists()


def test_shape_writer_writes_all_files(mesh, tmp_path):
    samples = {
        "image": torch.rand(2, 3, 16, 16),
        "normal_map": torch.rand(2, 3, 16, 16),
        "background": torch.rand(2, 3, 32, 32),
        "texture": mesh.texture.repeat(2, 1, 1, 1),
        "vertices": mesh.vertices.repeat(2, 1, 1),
        "faces": mesh.faces,
        "uvs": mesh.uvs,
    }
    ShapeWriter(("glb", "obj"))._write(tmp_path, [3, 4], samples, pl.LightningModule())
    names = {path.name for path in (tmp_path / "shapes").iterdir()}
    kinds = (".glb", ".obj", ".mtl", "_material.png", ".png", "_normals.png", "_texture.png", "_background.png")
    assert names == {f"{number}{kind}" for number in ("0003", "0004") for kind in kinds}


def test_binvox_files_align_with_their_meshes(tmp_path):
    """``fit`` and ``predict`` write by ``write_sample``, ``export`` by ``Sample.write``."""
    solid = np.zeros((16, 16, 16), bool)
    solid[2:5, 3:12, 1:9] = solid[9:14, 5:8, 10:14] = True
    occupancy = torch.from_numpy(solid)[None, None].float()
    write_shape(solid, tmp_path / "shape", ("glb", "binvox"))
    write_sample({"occupancy": occupancy}, 0, 0.5, tmp_path / "predict", ("glb", "binvox"))
    Sample(0, VoxelGrid(occupancy), OpenGLRenderer(16), None).write(tmp_path / "export", ("glb", "binvox"))
    for stem in ("shape", "predict", "export"):
        grid = read_binvox(tmp_path / f"{stem}.binvox")
        mesh = trimesh.load(tmp_path / f"{stem}.glb", force="mesh")
        z, y, x = np.nonzero(grid.voxels)
        centres = np.array(grid.translate) + grid.scale * (np.stack([x, y, z], 1) + 0.5) / 16
        # A surface of marching cubes lies between the centres of the outer voxels and those of their empty neighbours.
        assert (grid.voxels == solid).all()
        bounds = np.array([centres.min(0) - 0.25 / 16, centres.max(0) + 0.25 / 16])
        assert mesh.bounds == pytest.approx(bounds, abs=0.25 / 16 + 1e-6), stem
