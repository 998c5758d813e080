"""Loggers other than metrics.csv: what they receive, and that their failures do not stop a run."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

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
from callbacks.loggers.wandb import define_metrics, group_of
from callbacks.metrics_log import read_metrics
from metrics.manifolds import MANIFOLD_METRICS
from trainer.__main__ import main

WANDB = ["--config=logger/wandb.yaml", "--trainer.logger.init_args.offline=true"]
LOGGERS = """
trainer:
  logger:
  - {class_path: callbacks.WandbRun, init_args: {offline: true}}
"""
TENSORBOARD_LOGGERS = """\
  - {class_path: pytorch_lightning.loggers.TensorBoardLogger, init_args: {save_dir: ., name: tensorboard, version: ""}}
  - {class_path: pytorch_lightning.loggers.TensorBoardLogger, init_args: {save_dir: blocked}}
"""
RUN = Path("runs/demo/001")


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    """Work in an empty directory without the user's wandb settings and keys."""
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
    """Train with wandb offline, TensorBoard, and a TensorBoard logger that fails; return stderr."""
    Path("blocked").write_text("")
    installed = importlib.util.find_spec("tensorboard") is not None
    Path("loggers.yaml").write_text(LOGGERS + (TENSORBOARD_LOGGERS if installed else ""))
    assert main([*FIT, "--config=loggers.yaml"]) == 0
    return capsys.readouterr().err


@pytest.mark.slow
def test_loggers_receive_all_metrics_images_and_meshes(run, capsys):
    check_wandb()
    check_tensorboard(run)
    # validate does not log to wandb, so it needs no login.
    assert main(["validate", "--run_dir", str(RUN)]) == 0
    assert len(list(RUN.rglob("*.wandb"))) == 1
    capsys.readouterr()
    assert main(["fit", "--run_dir", str(RUN), *WANDB]) == 0
    assert "already finished" in capsys.readouterr().out


def check_wandb():
    (folder,) = (RUN / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    records = read_records(file)
    rows, end, lines = history(records), summary(records), read_metrics(RUN)

    evaluations = [row for row in rows if "fid" in row]
    assert [row["kimg"] for row in evaluations] == pytest.approx([line["kimg"] for line in lines]) == [0, 0.008, 0.016]
    assert [row["fid"] for row in evaluations] == pytest.approx([line["fid"] for line in lines], rel=1e-5)
    assert end["fid"]["min"] == pytest.approx(min(line["fid"] for line in lines), rel=1e-5)
    assert all("kimg" in row for row in rows)
    logged = {key for row in rows for key in row}
    assert logged >= {"d", "g", "r", "d_real", "d_fake", "occupancy", "occupancy_train", "images_per_s"}

    grids = [row for row in rows if "images/samples" in row]
    assert [row["kimg"] for row in grids] == pytest.approx([0, 0.008, 0.016])
    for kind, ours in (("samples", "samples"), ("normals", "normals")):
        logged_images = [row[f"images/{kind}"] for row in rows if f"images/{kind}" in row]
        images = [np.asarray(Image.open(folder / "files" / image["path"])) for image in logged_images]
        assert len(images) == 3
        kept = np.asarray(Image.open(sorted((RUN / ours).glob("*.png"))[-1]))
        factor = kept.shape[0] // images[-1].shape[0]
        assert np.array_equal(kept[::factor, ::factor], images[-1])
    meshes = [row["shapes/samples"] for row in rows if "shapes/samples" in row]
    assert len(meshes) == 3
    for item in meshes:
        objects = item["filenames"] if "filenames" in item else [item["path"]]
        assert len(objects) == 4
    glbs = sorted((folder / "files" / "media" / "object3D").rglob("*.glb"))
    assert glbs and all(glb.read_bytes()[:4] == b"glTF" for glb in glbs)
    assert any(len(trimesh.load(glb, force="mesh").faces) for glb in glbs)

    (started,) = [record.run for record in records if record.HasField("run")][:1]
    assert (started.project, started.display_name, started.run_group) == ("unrender", "demo/001", "demo")
    config = {}
    for record in records:
        config |= values(record.run.config.update) | values(record.config.update)
    assert config["model"] == yaml.safe_load((RUN / "config.yaml").read_text())["model"]
    axes = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["fid"] == axes["*"] == "kimg"


def check_tensorboard(stderr):
    if importlib.util.find_spec("tensorboard") is None:
        return  # not installed
    from tensorlogger.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(RUN / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Images("images/samples")] == [0, 2, 4]
    assert [event.step for event in events.Scalars("fid")] == [0, 2, 4]
    assert {"d", "d_real", "images_per_s"} <= set(events.Tags()["scalars"])
    assert stderr.count("warning: TensorBoardLogger failed") == 1  # the other logger; training continued


def test_missing_wandb_or_login_is_a_one_line_error(capsys, monkeypatch):
    assert main([*FIT, WANDB[0]]) == 2
    stderr = capsys.readouterr().err
    assert "not logged in" in stderr and "wandb login" in stderr and stderr.count("\n") == 1
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    assert main([*FIT, *WANDB]) == 2
    stderr = capsys.readouterr().err
    assert "pip install wandb" in stderr and stderr.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.slow
def test_unreachable_server_gives_an_offline_run(capsys, monkeypatch):
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
    stderr = capsys.readouterr().err
    assert stderr.count("warning: wandb does not answer") == 1 and "wandb sync" in stderr
    assert len(list(RUN.rglob("offline-run-*/*.wandb"))) == 1
    assert json.loads((RUN / "run.json").read_text())["status"] == "finished"


class Broken(Logger):
    """Fails at every call, as on a full disk."""

    name = version = None

    def log_metrics(self, metrics, step=None):
        raise OSError(28, "No space left on device")

    log_hyperparams = log_metrics

    @property
    def experiment(self):
        raise ConnectionError("no network")


def test_failing_logger_warns_once(capsys):
    logger = GuardedLogger(Broken())
    logger.log_metrics({"d": 1.0}, 1)
    logger.log_hyperparams({"model": 1})
    logger.log_image("samples", torch.zeros(1, 4, 4), {"kimg": 0.0, "step": 0.0})
    assert logger.experiment is None and not logger.supports_shapes
    logger.close("finished")
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and "Broken failed" in stderr and "No space left" in stderr


def test_summaries_are_the_best_values():
    summaries = {}
    define_metrics(SimpleNamespace(define_metric=lambda name, **more: summaries.update({name: more.get("summary")})))
    assert {name: summaries[name] for name in ("kid", "mmd")} == {"kid": "min", "mmd": "min"}
    assert {summaries[name] for name in MANIFOLD_METRICS} == {"max"}


def test_run_groups():
    assert group_of(Path("/a/runs/demo/001")) == "demo"
    assert group_of(Path("/a/runs/tables/table1_small/iggan-chairs")) == "table1_small/iggan-chairs"
    assert group_of(Path("/a/runs/tables/table1/iggan-chairs-seed12")) == "table1/iggan-chairs"
