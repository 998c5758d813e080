"""Write docs/renderers.png: one chair and one head from every renderer.

python scripts/render_comparison.py --proxy runs/proxy_tables_32/001/checkpoints/last.ckpt
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.shapes import ProceduralShapes
from lightning_modules.neural_renderer import load_proxy
from networks import RenderNet
from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    LitAbsorptionRenderer,
    NeuralRenderer,
    OpenGLRenderer,
    Rendering,
    SoftRasterizer,
    TriangleMesh,
    VisualHullRenderer,
    VoxelGrid,
)

SIZE, CELL = 128, 160


def head(rings: int = 48) -> TriangleMesh:
    """Return an ellipsoid with nose, brow and chin, and a texture with eyes, mouth and hair."""
    theta, phi = torch.meshgrid(
        torch.linspace(0, math.pi, rings + 1), torch.linspace(-math.pi, math.pi, 2 * rings + 1), indexing="ij"
    )
    x, y, z = theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()

    def bump(cx: float, cy: float, wx: float, wy: float) -> Tensor:
        return torch.exp(-(((x - cx) / wx) ** 2) - ((y - cy) / wy) ** 2) * (z > 0)

    radius = 0.62 + 0.14 * bump(0, -0.05, 0.1, 0.16) + 0.03 * bump(0, 0.3, 0.4, 0.08) + 0.05 * bump(0, -0.6, 0.2, 0.15)
    vertices = torch.stack([0.82 * radius * x, 1.1 * radius * y, 0.95 * radius * z], -1).reshape(1, -1, 3)
    a = (torch.arange(rings)[:, None] * (2 * rings + 1) + torch.arange(2 * rings)).reshape(-1)
    b, c, d = a + 2 * rings + 1, a + 2 * rings + 2, a + 1
    faces = torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)])
    uvs = torch.stack([phi / (2 * math.pi) + 0.5, theta / math.pi], -1).reshape(-1, 2)
    return TriangleMesh(vertices, faces, uvs, face_texture()[None])


def face_texture(height: int = 256) -> Tensor:
    """Return the head's texture ``(3, H, 2 H)``, latitude by longitude."""
    v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, 2 * height), indexing="ij")
    phi, y = (u - 0.5) * 2 * math.pi, (v * math.pi).cos()
    image = torch.tensor([0.85, 0.65, 0.52]).view(3, 1, 1).expand(3, height, 2 * height).clone()

    def fill(mask: Tensor, *rgb: float) -> None:
        image[:, mask] = torch.tensor(rgb)[:, None]

    fill((y > 0.62) | ((phi.abs() > 1.9) & (y > -0.45)), 0.25, 0.15, 0.08)
    for side in (-1, 1):
        eye = ((phi - side * 0.42) / 0.17) ** 2 + ((y - 0.16) / 0.07) ** 2
        fill(eye < 1, 0.95, 0.95, 0.95)
        fill(((phi - side * 0.42) / 0.07) ** 2 + ((y - 0.16) / 0.065) ** 2 < 1, 0.1, 0.2, 0.4)
        fill((((phi - side * 0.42) / 0.24) ** 2 < 1) & ((y - 0.33).abs() < 0.03), 0.25, 0.15, 0.08)
    fill((phi / 0.32) ** 2 + ((y + 0.42) / 0.06) ** 2 < 1, 0.7, 0.2, 0.2)
    return image


def colored(chair: Tensor) -> VoxelGrid:
    """Return the chair with a colour gradient along its height."""
    size = chair.shape[-1]
    height = torch.linspace(0, 1, size).view(1, 1, 1, size, 1).expand(1, 1, size, size, size)
    return VoxelGrid(chair, torch.cat([height, 0.6 * torch.ones_like(height), 1 - height], 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", required=True, help="checkpoint of a run of proxy_tables_32.yaml")
    parser.add_argument("--out", type=Path, default=Path("docs/renderers.png"))
    arguments = parser.parse_args()
    camera = Camera.orbit(35.0, 25.0)
    chair = ProceduralShapes("chair", count=40, voxel_size=64)[13].voxels.occupancy
    small = VoxelGrid(torch.nn.functional.max_pool3d(chair, 2))
    proxy = NeuralRenderer(RenderNet(64, 64, width=64, channels_3d=(8, 16, 16), trunk_size=16), 64)
    load_proxy(proxy, arguments.proxy)
    face, sky = head(), torch.tensor([0.55, 0.7, 0.85]).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    near = Camera.orbit(25.0, 10.0, 10.0)
    gl, volume = OpenGLRenderer(SIZE, backend="moderngl"), VoxelGrid(chair)
    rendering = gl(volume, camera)
    with torch.no_grad():
        cells = {
            "OpenGL, pyrender": OpenGLRenderer(SIZE)(volume, camera),
            "OpenGL, moderngl": rendering,
            "its normals": Rendering(rendering.normal_map(), rendering.alpha),
            "surface: cubes": OpenGLRenderer(SIZE, surface="cubes", backend="moderngl")(small, camera),
            "neural, 32 to 64 pixels": proxy(small, camera),
            "absorption": AbsorptionRenderer(SIZE)(volume, camera),
            "lit absorption": LitAbsorptionRenderer(SIZE)(volume, camera),
            "visual hull": VisualHullRenderer(SIZE)(volume, camera),
            "emission-absorption": EmissionAbsorptionRenderer(SIZE)(colored(chair), camera),
            "OpenGL, unlit": OpenGLRenderer(SIZE, lighting="unlit")(face, near, sky),
            "OpenGL, moderngl, lit": OpenGLRenderer(SIZE, backend="moderngl")(face, near, sky),
            "soft rasterizer": SoftRasterizer(SIZE)(face, near, sky),
            "margin 0 (crisp)": SoftRasterizer(SIZE, margin=0)(face, near, sky),
            "margin 4": SoftRasterizer(SIZE, margin=4)(face, near, sky),
            "soft, no texture": SoftRasterizer(SIZE)(TriangleMesh(face.vertices, face.faces), near),
        }
    columns = 5
    rows = math.ceil(len(cells) / columns)
    grid = Image.new("RGB", (columns * CELL, rows * (CELL + 18)), "white")
    pen = ImageDraw.Draw(grid)
    for i, (name, cell) in enumerate(cells.items()):
        x, y = i % columns * CELL, i // columns * (CELL + 18)
        pixels = (cell.image[0].clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
        grid.paste(Image.fromarray(pixels).resize((CELL - 4, CELL - 4)), (x + 2, y + 2))
        pen.text((x + 4, y + CELL), name, fill="black")
    grid.save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
