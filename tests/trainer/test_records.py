"""Records say which options made them, and files of an earlier command do not stay among new ones."""

import csv
from pathlib import Path

import pytest
from ddp.test_cluster_scripts import CONFIG

from callbacks.metrics_log import METRICS, read_metrics
from trainer.__main__ import main
from trainer.cli.config_yaml import load_yaml
from utils.errors import InputError

CALLBACKS = """
  callbacks: [{class_path: callbacks.ValidationRecord}, {class_path: callbacks.ShapeWriter}]
"""


@pytest.fixture
def run(workplace) -> Path:
    (workplace / "small.yaml").write_text(CONFIG.rstrip() + CALLBACKS)
    assert main(["fit", "--config", "small.yaml", "--run_dir", "run", "--data.total_kimg=0.008"]) == 0
    return Path("run")


def test_a_record_holds_the_options_that_differ_from_the_run(run, capsys):
    validate = ["validate", "--run_dir", "run"]
    for options in ([], ["--data.views.fov=40"], ["--data.views.fov=40"], ["--data.num_workers=0"]):
        assert main([*validate, *options]) == 0
    changed = {"data.init_args.views.init_args.fov": 40}
    lines = read_metrics(run / "validate")
    assert [line["options"] for line in lines] == [changed, {}]
    assert lines[0]["note"] == lines[1]["note"] and lines[0]["fid"] != lines[1]["fid"]
    assert ", data.init_args.views.init_args.fov 40.0; written to" in capsys.readouterr().out
    assert main([*validate, "--trainer.limit_val_batches=1"]) == 0
    assert read_metrics(run / "validate")[-1]["options"] == {"trainer.limit_val_batches": 1}


def test_another_checkpoint_is_in_the_record(run):
    Path("other.ckpt").write_bytes((run / "checkpoints/last.ckpt").read_bytes())
    assert main(["validate", "--run_dir", "run", "--ckpt_path", "other.ckpt"]) == 0
    assert read_metrics(run / "validate")[-1]["options"] == {"ckpt_path": "other.ckpt"}


def test_files_of_an_earlier_command_are_replaced(run):
    for samples in (5, 2):
        assert main(["predict", "--run_dir", "run", f"--model.samples={samples}"]) == 0
        assert len(list((run / "predict" / "images").iterdir())) == samples
    for _ in range(2):
        assert main(["validate", "--run_dir", "run"]) == 0
    with (run / "validate" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_no_record_is_to_be_removed_because_it_cannot_be_opened(tmp_path):
    """As without permission; a directory in its place fails for root, too."""
    for name, read in (("config.yaml", load_yaml), (METRICS, lambda path: read_metrics(path.parent))):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=rf"{name} cannot be read \(Is a directory\); check .*permissions$"):
            read(tmp_path / name)
