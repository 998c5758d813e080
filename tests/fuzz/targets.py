"""All parsers, each with a small valid file to mutate."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytorch_lightning
import torch
import trimesh
from masked_photographs import photograph, save
from PIL import Image

from callbacks.metrics_log import read_metrics
from datamodules.ffhq import FFHQDataModule
from datamodules.images.alpha_masked import read_masked
from datamodules.images.image_set import open_images
from datamodules.renders.cache import RenderCache
from datamodules.shapes import ShapeNetShapes, VoxelArchive, read_binvox, write_archive, write_binvox
from lightning_modules.neural_renderer import load_proxy
from lightning_modules.render_classifier import export_extractor
from metrics import ImageFID
from metrics.extractors import FeatureExtractor, _load
from networks import RenderClassifier, RenderNet
from renderers import NeuralRenderer
from renderers.mesh_files import read_mesh
from trainer.cli.config_composition import compose
from trainer.export.scene_io import input_kind, load_scenes
from trainer.runs.checkpoints import check
from trainer.runs.run_directory import RunDirectory
from trainer.tables.spec import load_scale, load_table


@dataclass(frozen=True)
class Target:
    """A parser to fuzz.

    Args:
        prepare: fills a folder and returns the file in it to mutate.
        read: reads that file, or what it belongs to, completely.
        share: number of inputs relative to the other parsers.
        quiet: whether a corrupt file is treated as missing instead of raising an error.
    """

    prepare: Callable[[Path], Path]
    read: Callable[[Path], Any]
    share: float = 1.0
    quiet: bool = False


def solid(size: int = 8) -> np.ndarray:
    grid = np.zeros((size,) * 3, bool)
    grid[1:6, 2:5, 3:7] = True
    return grid


def image(number: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3)).astype(np.uint8))


def encoded(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image(number).save(file, kind)
    return file.getvalue()


def images(folder: Path, suffix: str = "png") -> Path:
    for i in range(2):
        image(i).save(folder / f"{i}.{suffix}")
    return folder / f"0.{suffix}"


def binvox(folder: Path) -> Path:
    write_binvox(folder / "shape.binvox", solid())
    return folder / "shape.binvox"


def shapenet(folder: Path, name: str, write: Callable[[Path], Any]) -> Path:
    models = folder / "03001627" / "model" / "models"
    models.mkdir(parents=True)
    write(models / name)
    return models / name


def read_shapenet(path: Path, kind: str) -> None:
    ShapeNetShapes(path.parents[3], "chair", 16, kind=kind, split="all")[0]


def mesh_file(folder: Path, suffix: str) -> Path:
    """A small box; GLB with a texture, OBJ with a material."""
    box = trimesh.creation.box((0.4, 0.5, 0.3))
    if suffix in ("glb", "obj"):
        material = trimesh.visual.material.SimpleMaterial(image=image(0, 4))
        box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] * 3, material=material)
    box.export(folder / f"x.{suffix}")
    return folder / f"x.{suffix}"


def archive(folder: Path) -> Path:
    voxels, labels = np.stack([solid()] * 3), np.array([0, 1, 0])
    write_archive(
        folder / "a.npz", dict.fromkeys(("train", "test"), voxels), dict.fromkeys(("train", "test"), labels), ["a", "b"]
    )
    return folder / "a.npz"


def read_scene(path: Path) -> None:
    input_kind(str(path))
    list(load_scenes(str(path)))


def exported(folder: Path, **arrays: np.ndarray) -> Path:
    """An NPZ of ``export``."""
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def masked(folder: Path) -> Path:
    for i in range(2):
        save(photograph(i, 16, 20), folder / f"{i}.png")
    return folder / "0.png"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(3):
            file.writestr(f"00000/img{i:08d}.png", encoded(i))
    return folder / "set.zip"


def database(folder: Path) -> Path:
    path, options = str(folder / "set.lmdb"), {"subdir": False, "map_size": 1 << 20, "lock": False}
    with lmdb.open(path, **options) as environment, environment.begin(write=True) as transaction:
        for i in range(8):
            transaction.put(f"16-{i:05d}".encode(), encoded(i) * (1 + 4 * (i == 3)))
        transaction.put(b"length", b"8")
    return folder / "set.lmdb"


def read_photographs(root: Path) -> None:
    reader = FFHQDataModule(root, image_size=8).reader
    for i in range(len(reader)):
        reader[i]


def shard(folder: Path, suffix: str) -> Path:
    RenderCache(folder, 3, (1, 4, 4), lambda i: np.full((len(i), 1, 4, 4), 7, np.uint8), "").prepare()
    return folder / f"00000-of-3.{suffix}"


def saved(folder: Path, state: Any) -> Path:
    torch.save(state, folder / "x.ckpt")
    return folder / "x.ckpt"


def checkpoint(**more: Any) -> dict[str, Any]:
    version = pytorch_lightning.__version__
    return {"state_dict": {"w": torch.arange(6.0)}, "pytorch-lightning_version": version, "global_step": 3, **more}


def proxy() -> NeuralRenderer:
    return NeuralRenderer(RenderNet(8, channels_3d=(1, 1, 1), width=4), image_size=16)


def proxy_file(folder: Path) -> Path:
    state = {f"neural_renderer.{key}": value for key, value in proxy().state_dict().items()}
    return saved(folder, checkpoint(state_dict=state, relative_error=0.2))


def classifier() -> RenderClassifier:
    return RenderClassifier(["a", "b"], width=2, num_features=3)


def weights(folder: Path) -> Path:
    network = classifier()
    return saved(folder, {"classes": network.classes, "sizes": network.sizes, "weights": network.state_dict()})


def trained_classifier(folder: Path) -> Path:
    network = classifier()
    state = {f"classifier.{key}": value for key, value in network.state_dict().items()}
    extractor = {"classes": network.classes, "sizes": network.sizes, "accuracy": 0.5}
    return saved(folder, checkpoint(state_dict=state, extractor=extractor))


def distance(folder: Path) -> ImageFID:
    return ImageFID(FeatureExtractor("renders_small", classifier(), "0"), folder, kid_subset=2)


def statistics(folder: Path) -> Path:
    fid = distance(folder)
    fid.update(torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8), real=True)
    fid.save_real("key")
    return fid._file("key")


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


CONFIG = """\
seed_everything: 0
model: {class_path: a.B, init_args: &args {size: 8, rate: 2.0e-4, views: [0, 360]}}
data: {base: demo.yaml, init_args: {<<: *args, count: 0x10, name: "x", more+: [1, null, true]}}
trainer: {base: [demo.yaml], max_epochs: 1, limit: !!float 3}
"""
TABLE = """\
title: Fuzz
paper: somewhere
rows: {a: {name: A, words: --model.x=1}, b: {name: B, same: {c: table1/iggan-chairs_one}}}
columns: {c: {heads: [C, D], words: "{chairs}", paper: {a: 1.5}}}
"""
EVALUATION = json.dumps({"kimg": 1.0, "step": 8, "fid": 3.0, "note": "extractor x"}) + "\n"

TARGETS: dict[str, Target] = {
    "binvox": Target(binvox, read_binvox),
    "binvox of ShapeNet": Target(
        lambda f: shapenet(f, "model_normalized.solid.binvox", lambda path: write_binvox(path, solid())),
        lambda path: read_shapenet(path, "solid"),
    ),
    "OBJ": Target(
        lambda f: shapenet(f, "model_normalized.obj", trimesh.creation.box((0.4, 0.5, 0.3)).export),
        lambda path: read_shapenet(path, "obj"),
    ),
    **{
        f"{suffix} file": Target(lambda f, suffix=suffix: mesh_file(f, suffix), read_mesh, share=0.5)
        for suffix in ("glb", "obj", "off", "ply", "stl")
    },
    "npz of voxels": Target(
        lambda f: exported(f, occupancy=solid().astype(np.float32), color=np.full((3, 8, 8, 8), 0.5, np.float32)),
        read_scene,
        share=0.5,
    ),
    "npz of a mesh": Target(
        lambda f: exported(
            f, vertices=np.eye(3), faces=np.arange(3)[None], uvs=np.eye(3)[:, :2], texture=np.full((3, 4, 4), 0.5)
        ),
        read_scene,
        share=0.5,
    ),
    "archive": Target(archive, lambda path: list(VoxelArchive(path, "a", "all"))),
    "PNG": Target(images, lambda path: read_photographs(path.parent)),
    "JPEG": Target(lambda f: images(f, "jpg"), lambda path: read_photographs(path.parent)),
    **{
        kind: Target(
            lambda f, kind=kind: images(f, kind.lower()), lambda path: read_photographs(path.parent), share=0.3
        )
        for kind in ("WEBP", "AVIF", "GIF", "BMP", "TIFF", "JP2", "PPM")
    },
    "PNG compared": Target(images, lambda path: list(open_images(path.parent).batches(2))),
    "masked PNG": Target(masked, lambda path: read_masked(path.parent, 8, 0.5)),
    "ZIP": Target(zipped, read_photographs),
    "LMDB": Target(database, read_photographs, share=0.3),
    "shard of renders": Target(lambda f: shard(f, "npy"), lambda path: open_images(path.parent)),
    "checksum of renders": Target(lambda f: shard(f, "json"), lambda path: open_images(path.parent)),
    "checkpoint": Target(lambda f: saved(f, checkpoint()), check),
    "checkpoint of a proxy": Target(proxy_file, lambda path: load_proxy(proxy(), path)),
    "checkpoint of a classifier": Target(
        trained_classifier, lambda path: export_extractor(path, path.with_suffix(".pt"))
    ),
    "weights of an extractor": Target(weights, lambda path: _load.__wrapped__("renders_small", path, True)),
    "statistics": Target(statistics, lambda path: distance(path.parent).load_real("key"), quiet=True),
    "YAML": Target(text("x.yaml", CONFIG), lambda path: compose([path]).text()),
    "table": Target(text("x.yaml", TABLE), lambda path: load_table(str(path)).cells(load_scale("small", "/r", None))),
    "evaluations": Target(text("metrics.jsonl", EVALUATION * 3), lambda path: read_metrics(path.parent)),
    "run_metadata": Target(
        text("run.json", '{"status": "finished", "pid": 3}'),
        lambda path: RunDirectory(path.parent).metadata,
        quiet=True,
    ),
}
