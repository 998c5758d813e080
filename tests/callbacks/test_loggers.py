"""Loggers beside metrics.csv: what a dashboard is given, and that none of them stops a run."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml
from PIL import Image
from pytorch_lightning.loggers import Logger
from small_demo import FIT
from wandb_records import history, read_records, summary, values

from callbacks.loggers.guarded import GuardedLogger
from callbacks.loggers.wandb import group_of
from callbacks.metrics_log import read_metrics
from trainer.__main__ import main

WANDB = ["--config=logger/wandb.yaml", "--trainer.logger.init_args.offline=true"]
BOARDS = """
trainer:
  logger:
  - {class_path: callbacks.WandbRun, init_args: {offline: true}}
"""
TENSORBOARDS = """\
  - {class_path: pytorch_lightning.loggers.TensorBoardLogger, init_args: {save_dir: ., name: tensorboard, version: ""}}
  - {class_path: pytorch_lightning.loggers.TensorBoardLogger, init_args: {save_dir: blocked}}
"""
RUN = Path("runs/demo/001")


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch, tmp_path):
    """A folder of its own, and no settings or keys of the user's."""
    import wandb

    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONSOLE", "off")  # it replaces methods of pytest's stdout
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    yield
    wandb.teardown()


@pytest.fixture
def run(monkeypatch, capsys):
    """A run on Weights & Biases offline, on TensorBoard, and on a TensorBoard whose folder is a file; and what it said."""
    Path("blocked").write_text("")
    known = importlib.util.find_spec("tensorboard") is not None
    Path("boards.yaml").write_text(BOARDS + (TENSORBOARDS if known else ""))
    assert main([*FIT, "--config=boards.yaml"]) == 0
    return capsys.readouterr().err


@pytest.mark.slow
def test_dashboards_have_all_and_read_back(run, capsys):
    check_wandb()
    check_tensorboard(run)
    # What is measured later is no part of the training, and asks for no login.
    assert main(["validate", "--run_dir", str(RUN)]) == 0
    assert len(list(RUN.rglob("*.wandb"))) == 1
    capsys.readouterr()
    assert main(["fit", "--run_dir", str(RUN), *WANDB]) == 0
    assert "finished already" in capsys.readouterr().out


def check_wandb():
    (folder,) = (RUN / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    records = read_records(file)
    rows, end, lines = history(records), summary(records), read_metrics(RUN)

    judged = [row for row in rows if "fid" in row]
    assert [row["kimg"] for row in judged] == pytest.approx([line["kimg"] for line in lines]) == [0, 0.008, 0.016]
    assert [row["fid"] for row in judged] == pytest.approx([line["fid"] for line in lines], rel=1e-5)
    assert end["fid"]["min"] == pytest.approx(min(line["fid"] for line in lines), rel=1e-5)
    assert all("kimg" in row for row in rows)
    logged = {key for row in rows for key in row}
    assert logged >= {"d", "g", "r", "d_real", "d_fake", "occupancy", "occupancy_train", "images_per_s"}

    grids = [row for row in rows if "images/samples" in row]
    assert [row["kimg"] for row in grids] == pytest.approx([0, 0.008, 0.016])
    for kind, ours in (("samples", "samples"), ("normals", "normals")):
        shown = [row[f"images/{kind}"] for row in rows if f"images/{kind}" in row]
        images = [np.asarray(Image.open(folder / "files" / image["path"])) for image in shown]
        assert len(images) == 3
        kept = np.asarray(Image.open(sorted((RUN / ours).glob("*.png"))[-1]))
        factor = kept.shape[0] // images[-1].shape[0]
        assert np.array_equal(kept[::factor, ::factor], images[-1])
    turning = [row["shapes/samples"] for row in rows if "shapes/samples" in row]
    assert len(turning) == 3
    for item in turning:
        objects = item["filenames"] if "filenames" in item else [item["path"]]
        assert len(objects) == 4
    glbs = sorted((folder / "files" / "media" / "object3D").rglob("*.glb"))
    assert glbs and all(glb.read_bytes()[:4] == b"glTF" for glb in glbs)
    assert any(len(trimesh.load(glb, force="mesh").faces) for glb in glbs)

    (begun,) = [record.run for record in records if record.HasField("run")][:1]
    assert (begun.project, begun.display_name, begun.run_group) == ("unrender", "demo/001", "demo")
    config = {}
    for record in records:
        config |= values(record.run.config.update) | values(record.config.update)
    assert config["model"] == yaml.safe_load((RUN / "config.yaml").read_text())["model"]
    axes = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["fid"] == axes["*"] == "kimg"


def check_tensorboard(said):
    if importlib.util.find_spec("tensorboard") is None:
        return  # the fixture has left it out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(RUN / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Images("images/samples")] == [0, 2, 4]
    assert [event.step for event in events.Scalars("fid")] == [0, 2, 4]
    assert {"d", "d_real", "images_per_s"} <= set(events.Tags()["scalars"])
    assert said.count("warning: TensorBoardLogger failed") == 1  # the other one, and the run went on


def test_wandb_without_login_or_without_wandb_is_one_sentence(capsys, monkeypatch):
    assert main([*FIT, WANDB[0]]) == 2
    said = capsys.readouterr().err
    assert "nobody is logged in" in said and "wandb login" in said and said.count("\n") == 1
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    assert main([*FIT, *WANDB]) == 2
    said = capsys.readouterr().err
    assert "pip install wandb" in said and said.count("\n") == 1
    assert not Path("runs").exists()


def test_a_server_that_does_not_answer_leaves_an_offline_run(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert (
        main(
            [
                *FIT,
                WANDB[0],
                "--trainer.logger.init_args.answer_seconds=2",
                "--trainer.limit_val_batches=0",
                "--data.total_kimg=0.004",
            ]
        )
        == 0
    )
    said = capsys.readouterr().err
    assert said.count("warning: wandb does not answer") == 1 and "wandb sync" in said
    assert len(list(RUN.rglob("offline-run-*/*.wandb"))) == 1
    assert json.loads((RUN / "run.json").read_text())["status"] == "finished"


class Broken(Logger):
    """Fails at everything, as on a full disk."""

    name = version = None

    def log_metrics(self, metrics, step=None):
        raise OSError(28, "No space left on device")

    log_hyperparams = log_metrics

    @property
    def experiment(self):
        raise ConnectionError("no network")


def test_a_logger_that_fails_says_so_once(capsys):
    board = GuardedLogger(Broken())
    board.log_metrics({"d": 1.0}, 1)
    board.log_hyperparams({"model": 1})
    board.log_image("samples", torch.zeros(1, 4, 4), {"kimg": 0.0, "step": 0.0})
    assert board.experiment is None and not board.takes_shapes
    board.close("finished")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Broken failed" in said and "No space left" in said


def test_groups():
    assert group_of(Path("/a/runs/demo/001")) == "demo"
    assert group_of(Path("/a/runs/tables/table1_small/iggan-chairs")) == "table1_small/iggan-chairs"
    assert group_of(Path("/a/runs/tables/table1/iggan-chairs-seed12")) == "table1/iggan-chairs"
