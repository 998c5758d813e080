"""The proxy of a run on ShapeNet or an archive is pre-trained on shapes of the same source (supplement, table 3)."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.shapes import write_archive
from trainer.__main__ import main
from trainer.cli.config_composition import find_config
from trainer.runs.proxy_pretraining import ProxyData, proxy_data, trained_proxy


def archive(path: Path, names: list[str]) -> str:
    voxels = np.zeros((len(names), 32, 32, 32), bool)
    voxels[:, 8:24, 8:24, 8:24] = True
    labels = np.arange(len(names))
    write_archive(path, {"train": voxels, "test": voxels}, {"train": labels, "test": labels}, names)
    return str(path)


def shapenet(**more: object) -> dict:
    init_args = {"root": "net", "category": "chair", "voxel_size": 64, "split": "all", **more}
    return {"class_path": "datamodules.shapes.ShapeNetShapes", "init_args": init_args}


def chosen(data: ProxyData) -> list[dict]:
    """The shapes and validation shapes that the options select."""
    return [json.loads(option.partition("=")[2])["init_args"] for option in data.options]


@pytest.mark.parametrize(("name", "category", "size"), [("tables", "table", 64), ("chairs_32", "chair", 32)])
def test_tables_and_chairs_come_from_shapenet(name, category, size):
    given = shapenet(kind="obj", models="chairs.txt", refit=None)
    data = proxy_data(find_config(f"proxy_{name}.yaml"), given)
    expected = {"root": str(Path("net").absolute()), "category": category, "voxel_size": size, "kind": "obj"}
    assert chosen(data) == [expected | {"split": "train"}, expected | {"split": "test"}]
    assert data.source == ("ShapeNetShapes", str(Path("net").absolute()))


def test_other_shapes_have_procedural_proxies(tmp_path):
    procedural = {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": {"category": "chair"}}
    tables = find_config("proxy_tables_32.yaml")
    for shapes in (None, procedural):
        assert proxy_data(tables, shapes) == ProxyData()
    assert proxy_data(find_config("proxy_cubes.yaml"), shapenet()) == ProxyData()
    own = {"path": archive(tmp_path / "own.npz", ["thing"]), "category": "thing"}
    data = proxy_data(tables, {"class_path": "datamodules.shapes.VoxelArchive", "init_args": own})
    assert data.source is None and not data.options
    assert data.note.endswith("own.npz has no class 'table': the proxy is pre-trained on procedural shapes")


def test_options_compose_with_the_proxy_config(tmp_path, capsys):
    path = archive(tmp_path / "shapes.npz", ["chair", "table"])
    given = {"path": path, "category": "chair", "split": "train", "up": "z", "turns": 1}
    data = proxy_data(
        find_config("proxy_tables_32.yaml"), {"class_path": "datamodules.shapes.VoxelArchive", "init_args": given}
    )
    assert main(["fit", "--config", "proxy_tables_32.yaml", *data.options, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    for key, split in (("shapes", "train"), ("validation_shapes", "test")):
        found = config[key]
        assert found["class_path"] == "datamodules.shapes.VoxelArchive"
        expected = {"path": path, "category": "table", "split": split, "up": "z", "voxel_size": 32, "turns": None}
        assert found["init_args"] == expected
    assert config["total_kimg"] == 20


def finished_run(number: int, settings: dict) -> None:
    run = Path(f"runs/proxy_tables_32/{number:03d}")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").write_text("")
    (run / "run.json").write_text('{"status": "finished"}')
    (run / "config.yaml").write_text(yaml.dump(settings))


def test_runs_on_other_shapes_are_not_taken():
    config = find_config("proxy_tables_32.yaml")
    data = proxy_data(config, shapenet())
    for number, shapes in enumerate((data.shapes["shapes"], None), 1):
        finished_run(number, {"data": {"init_args": {"shapes": shapes}}})
    for wanted, name in ((data, "001"), (ProxyData(), "002")):
        run = trained_proxy(config, wanted, finished=True)
        assert run is not None and run.path.name == name
    assert trained_proxy(config, ProxyData(("ShapeNetShapes", "/elsewhere")), finished=True) is None


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--data.total_kimg=0.1", "its data.init_args.total_kimg is 0.1, not 20"),
        ("--model.optimizer.lr=3e-4", "its model.init_args.optimizer.init_args.lr is 0.0003, not 0.001"),
        ("--data.shapes.up=y", "its data.init_args.shapes.init_args.up is y, not z"),
        ("--data.num_workers=2", ""),
        ("--seed_everything=3", ""),
    ],
)
def test_a_proxy_that_was_trained_otherwise_is_not_taken(tmp_path, monkeypatch, capsys, option, reason):
    """Such as one of a short trial."""
    path = archive(tmp_path / "shapes.npz", ["chair", "table"])
    config = find_config("proxy_tables_32.yaml")
    shapes = {
        "class_path": "datamodules.shapes.VoxelArchive",
        "init_args": {"path": path, "category": "chair", "up": "z"},
    }
    data = proxy_data(config, shapes)
    assert main(["fit", "--config", "proxy_tables_32.yaml", *data.options, option, "--print_config"]) == 0
    finished_run(1, yaml.safe_load(capsys.readouterr().out))
    run = trained_proxy(config, data, finished=True)
    assert (run is None) == bool(reason)
    if reason:
        monkeypatch.setattr("trainer.runs.proxy_pretraining._train", lambda *_: None)
        fit = ["fit", "--config", "chairs_modelnet.yaml", f"--data.shapes.path={path}"]
        assert main(fit) == 2  # nothing was trained
        assert f"001 is not used as proxy: {reason}" in capsys.readouterr().out


def test_fit_asks_for_the_proxy_of_its_source(tmp_path, monkeypatch, capsys):
    path = archive(tmp_path / "shapes.npz", ["chair", "table"])
    commands: list[list[str]] = []

    def train(command: list[str], config: Path) -> None:
        commands.append(command)

    monkeypatch.setattr("trainer.runs.proxy_pretraining._train", train)
    assert main(["fit", "--config", "chairs_modelnet.yaml", f"--data.shapes.path={path}"]) == 2
    assert "did not leave a finished run" in capsys.readouterr().err
    (option, _) = commands[0][3:]
    assert json.loads(option.removeprefix("--data.shapes="))["init_args"]["category"] == "table"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("chanterelle_32.yaml",),
            "no such file or folder: {}/chanterelle; set root to a folder of images or a ZIP file",
        ),
        (("chanterelle_32.yaml", "--data.root=photos"), "1 of 1 images in photos are unusable: 1 without transparency"),
        (("chairs.yaml",), "no such folder: {}/ShapeNetCore.v2; set root to the unpacked ShapeNetCore"),
        (("chairs_modelnet.yaml", "--data.shapes.path=own.npz"), "own.npz has no chair in split 'test'"),
    ],
)
def test_data_are_checked_before_the_proxy_is_trained(workplace, refused, monkeypatch, argv, message):
    (workplace / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(workplace / "photos" / "a.jpg")
    voxels, labels = np.ones((1, 32, 32, 32), bool), np.array([1])
    write_archive("own.npz", {"train": voxels, "test": voxels}, {"train": labels, "test": labels}, ["chair", "sofa"])
    monkeypatch.setattr("trainer.runs.proxy_pretraining._train", lambda *_: pytest.fail("the proxy was trained"))
    assert message.format(workplace) in refused("fit", "--config", *argv)


def test_table_names_the_proxies_to_train_first(tmp_path, capsys):
    path = archive(tmp_path / "shapes.npz", ["chair", "table"])
    assert main(["table", "table3", "--scale=small", "--archive", path, "--commands"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "run this first" in line]
    shapes = {}
    for line in lines:
        words = shlex.split(line.partition("python -m trainer ")[2])
        options = [word for word in words if word.startswith("--data.shapes=")]
        shapes[words[2]] = json.loads(options[0].partition("=")[2])["init_args"]["category"] if options else None
    assert shapes == {"proxy_chairs_32.yaml": "chair", "proxy_cubes_32.yaml": None, "proxy_tables_32.yaml": "table"}
