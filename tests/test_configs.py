"""Every config builds unchanged, and trains two batches and evaluates on the CPU with reduced widths."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml
from masked_photographs import write_photographs
from PIL import Image

from datamodules.shapes import ShapeNetShapes, write_archive, write_binvox
from trainer.__main__ import main
from trainer.cli.config_composition import PROJECT_CONFIGS

# extractor_renders*.yaml: tests/test_extractor_configs.py
EXPERIMENTS = sorted(p.name for p in PROJECT_CONFIGS.glob("*.yaml") if not p.name.startswith("extractor_renders"))
METHODS = ("iggan_deferred", "visual_hull", "absorption", "lit_absorption", "emission_absorption", "dcgan")
SHAPENET = ("chairs.yaml", "chairs_lvp.yaml", "couches.yaml", "bathtubs.yaml")
FULL_SIZE = (*SHAPENET, "chanterelle.yaml")
MESHES = ("heads.yaml", "ffhq.yaml")
CLASSIFIERS = ("extractor.yaml", "extractor_color.yaml")
PHOTOGRAPHS = ("chanterelle.yaml", "chanterelle_32.yaml", "chanterelle_color_32.yaml")
DEFERRED = ("demo.yaml", "meshes.yaml", "chairs_color.yaml", "chanterelle_color_32.yaml")
GRID = 128


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory) -> Path:
    """A small ShapeNetCore.v2 with 24 boxes in each category that the configs use."""
    root = tmp_path_factory.mktemp("shapenet") / "ShapeNetCore.v2"
    for synset in ("03001627", "04256520", "02808440"):
        for i in range(24):
            folder = root / synset / f"model{i}" / "models"
            folder.mkdir(parents=True)
            solid = np.zeros((GRID,) * 3, bool)
            solid[30:90, 20 : 60 + i, 40:80] = True
            write_binvox(folder / "model_normalized.solid.binvox", solid)
            trimesh.creation.box((0.4, 0.5, 0.3)).export(folder / "model_normalized.obj")
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "voxels.npz"
    voxels = np.zeros((6, 32, 32, 32), bool)
    voxels[:, 8:24, 8:24, 8:20] = True
    labels = np.array([0, 0, 0, 1, 1, 1])
    write_archive(path, {"train": voxels, "test": voxels}, {"train": labels, "test": labels}, ["chair", "sofa"])
    return path


@pytest.fixture(scope="module", autouse=True)
def photographs(tmp_path_factory) -> Path:
    """A folder of masked photographs, in the path that ``options`` uses."""
    return write_photographs(tmp_path_factory.getbasetemp() / "photographs")


def options(name: str, shapenet: Path, archive: Path) -> list[str]:
    given = ["--config", name, "--trainer.accelerator=cpu", "--trainer.devices=1"]
    if name in SHAPENET:
        given.append(f"--data.init_args.shapes.init_args.root={shapenet}")
    if name == "chairs_modelnet.yaml":
        given.append(f"--data.init_args.shapes.init_args.path={archive}")
    if name == "meshes.yaml":
        given.append(f"--data.init_args.shapes.init_args.root={write_meshes(shapenet.parents[1] / 'meshes')}")
    if name in PHOTOGRAPHS:
        given.append(f"--data.init_args.root={shapenet.parents[1] / 'photographs'}")
    if name == "ffhq.yaml":
        given.append(f"--data.init_args.root={write_faces(shapenet.parents[1] / 'faces')}")
        given.append("--model.init_args.extractor=renders_color")  # the config's own needs a download
    return given


def write_meshes(folder: Path) -> Path:
    """Write four boxes."""
    folder.mkdir(exist_ok=True)
    for i in range(4):
        trimesh.creation.box((0.2 + 0.2 * i, 1.0, 0.4)).export(folder / f"{i}.obj")
    return folder


def write_faces(folder: Path) -> Path:
    """Write six small photographs of the size that ffhq.yaml requires."""
    folder.mkdir(exist_ok=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((128, 128)).save(folder / f"{i}.png")
    return folder


def smoke_run(name: str, proxy: bool = True) -> list[str]:
    cut = ["--trainer.fast_dev_run=2", "--data.init_args.batch_size=2", "--data.init_args.total_kimg=0.004"]
    if name in CLASSIFIERS:
        return [*cut, "--data.init_args.images_per_class=2", "--data.init_args.validation_images_per_class=2"]
    if name in MESHES:
        networks = ("generator", "discriminator")
        cut += [f"--model.init_args.{part}.init_args.channel_base=64" for part in networks]
        cut += ["--data.init_args.num_workers=0"] if name == "ffhq.yaml" else ["--data.init_args.images=4"]
        return [*cut, "--data.init_args.reference_images=4"]
    if proxy and name not in DEFERRED:  # their network is smaller
        network = "--model.init_args.neural_renderer.init_args.network.init_args"
        cut += [f"{network}.width=16", f"{network}.channels_3d=[2,2,2]"]
    if name.startswith("proxy"):
        return [*cut, "--data.init_args.shapes.init_args.count=4", "--data.init_args.validation_count=2"]
    cut += ["--model.init_args.generator.init_args.width=16", "--model.init_args.discriminator.init_args.width=8"]
    if name in PHOTOGRAPHS:
        return cut
    cut += (
        [] if name == "chairs_lvp.yaml" else ["--data.init_args.images=4"]
    )  # chairs_lvp.yaml renders unlimited images
    return [*cut, "--data.init_args.reference_images=4"]


def test_documented_configs_exist():
    named = {
        *SHAPENET,
        *PHOTOGRAPHS,
        *MESHES,
        *CLASSIFIERS,
        "chairs_modelnet.yaml",
        "chairs_procedural.yaml",
        *DEFERRED,
    }
    named |= {f"proxy_{shapes}{size}.yaml" for shapes in ("tables", "chairs", "cubes") for size in ("", "_32")}
    assert named <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_config_builds_unchanged(name, shapenet, archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *options(name, shapenet, archive), "--print_config"]) == 0
    assert "class_path" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_config_trains_and_evaluates(name, shapenet, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *options(name, shapenet, archive), *smoke_run(name)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chairs.yaml", "demo.yaml", *PHOTOGRAPHS[:2]])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_evaluates(name, method, shapenet, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = f"--model=model/{method}{'' if name in FULL_SIZE else '_32'}.yaml"
    assert main(["fit", *options(name, shapenet, archive), part, *smoke_run(name, proxy=False)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", ["", "_32"])
def test_color_photographs_train_and_evaluate(size, shapenet, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"chanterelle{size}.yaml"
    parts = [f"--model=model/emission_absorption_rgb{size}.yaml", "--data=data/color.yaml"]
    assert main(["fit", *options(name, shapenet, archive), *parts, *smoke_run(name, proxy=False)]) == 0


FIGURE_3 = {"crisp": (0, None, 0), "soft": (1, None, 0), "size": (1, 1.3, 0), "wide": (1, 1.3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("part", FIGURE_3)
def test_figure_3_variants_are_model_parts(part, shapenet, archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [*options("heads.yaml", shapenet, archive), f"--model=model/meshgan_{part}.yaml"]
    assert main(["fit", *given, "--print_config"]) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    generator = model["generator"]["init_args"]
    settings = (model["renderer"]["init_args"]["margin"], generator["max_size"], generator["pyramid_levels"])
    assert settings == FIGURE_3[part]
    assert model["views"]["init_args"]["azimuth"] == ([-120, 120] if part == "wide" else [-45, 45])
    assert main(["fit", *given, *smoke_run("heads.yaml")]) == 0


COLORED = {
    "ffhq.yaml": "imagenet",
    "heads.yaml": "renders_color",
    "chairs_color.yaml": "renders_color",
    "chanterelle_color_32.yaml": "renders_color",
    "chanterelle.yaml --model=model/emission_absorption_rgb.yaml --data=data/color.yaml": "renders_color",
    "chanterelle_32.yaml --model=model/emission_absorption_rgb_32.yaml --data=data/color.yaml": "renders_color",
}


@pytest.mark.parametrize("command", COLORED)
def test_colour_configs_use_an_extractor_that_sees_colour(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", *command.split(), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["extractor"] == COLORED[command]


def test_the_papers_model_undoes_our_recipe(capsys):
    printed = []
    for words in (["demo.yaml", "--model", "model/iggan_32.yaml"], ["chairs_procedural.yaml"]):
        assert main(["fit", "--config", *words, "--print_config"]) == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0]["model"] == printed[1]["model"]


def test_another_method_drops_the_settings_of_the_first(shapenet, archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = options("chairs_lvp.yaml", shapenet, archive)
    assert (
        main(["fit", *given, "--model=model/visual_hull.yaml", "--model.init_args.threshold=0.4", "--print_config"])
        == 0
    )
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["threshold"] == 0.4 and "proxy_checkpoint" not in model
    assert model["views"] == data["views"] and data["views"]["init_args"]["azimuth"] == [-60, 60]
    assert data["reference_views"]["init_args"]["azimuth"] == [0, 360] and data["images"] == "unlimited"


@pytest.mark.parametrize(("words", "training", "reference"), [((), 24, 24), (("--data=data/held_out.yaml",), 13, 11)])
def test_shapenet_trains_on_all_models_unless_some_are_held_out(words, training, reference, shapenet, capsys):
    assert main(["fit", "--config=couches.yaml", *words, f"--data.shapes.root={shapenet}", "--print_config"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    shapes, held_out = (ShapeNetShapes(**data[name]["init_args"]) for name in ("shapes", "reference_shapes"))
    names, others = ({source.name(i) for i in range(len(source))} for source in (shapes, held_out))
    assert (len(names), len(others)) == (training, reference)
    assert names == others if not words else not names & others


ABLATIONS = [  # tables 2 and 3 of the supplement
    *(
        f"dom_weight=0 proxy={proxy} discriminator_sees={seen}".split()
        for proxy, seen in product(("retrained", "fixed"), ("opengl", "neural"))
    ),
    *(
        f"proxy={proxy} proxy_checkpoint=proxy_{shapes}_32.yaml".split()
        for proxy, shapes in product(("retrained", "fixed"), ("chairs", "tables", "cubes"))
    ),
]


@pytest.mark.parametrize("cell", ABLATIONS, ids=" ".join)
def test_ablations_are_overrides(cell, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"--model.init_args.{word}" for word in cell]
    assert main(["fit", "--config=chairs_procedural.yaml", *words, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert all(f"    {word.replace('=', ': ')}\n" in printed.replace("weight: 0.0", "weight: 0") for word in cell)


def test_config_files_have_at_most_60_lines():
    for path in PROJECT_CONFIGS.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 60, path
