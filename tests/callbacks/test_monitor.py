"""The metric that ranks checkpoints: names, directions, and the best of several evaluations."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
from small_iggan import grids, iggan, proxy_module, renders, trainer
from torch.utils.data import DataLoader

from callbacks import EvaluationLog, Report, RunProgress
from callbacks.checkpointing import RunCheckpoint
from callbacks.html_report import write_report
from callbacks.metrics_log import read_metrics
from callbacks.monitor import Monitor, format_metric
from lightning_modules import RenderClassifierModule
from networks import RenderClassifier
from renderers import InputError
from utils.signals import Signals

NOTE = {"note": "extractor x"}


def lines(name: str, *values: float) -> list[dict]:
    return [{"step": step, "kimg": step, name: value, **NOTE} for step, value in enumerate(values)]


def test_default_is_spatial_fid_then_fid_then_kid():
    assert Monitor().name({"fid": 1, "sfid": 2, "kid": 3}) == "sfid"
    assert Monitor().name({"fid": 1, "kid": 3}) == "fid"
    assert Monitor().name({"kid": 3, "kid_std": 1}) == "kid"
    assert Monitor("mmd").name({"fid": 1}) == "mmd"


def test_each_metric_has_its_direction_unless_mode_is_set():
    assert Monitor("mmd").is_better("mmd", 1, 2) and not Monitor("mmd").is_better("mmd", 2, 1)
    assert Monitor("coverage").is_better("coverage", 2, 1)
    assert all(Monitor(name).is_better(name, 2, 1) for name in ("precision", "recall", "density", "image_coverage"))
    assert Monitor("occupancy", "max").is_better("occupancy", 2, 1)
    assert Monitor("coverage", "min").is_better("coverage", 1, 2)
    assert not any(Monitor("mmd").is_better("mmd", value, 1) for value in (1, math.nan, -math.inf))


def test_unknown_metrics_and_modes_alone_are_rejected():
    with pytest.raises(InputError, match=r"monitor sdif is none of the metrics .*sfid.*; use one of them, or set mode"):
        Monitor("sdif")
    with pytest.raises(InputError, match="mode min needs a metric"):
        Monitor(mode="min")
    Monitor("sdif", "min")


def test_best_line_is_finite_comparable_and_has_a_checkpoint():
    assert Monitor().best(lines("fid", 1.0, 9.0, 7.0, math.nan, 8.0))["step"] == 2  # step 0 is before training
    assert Monitor().best(lines("fid", 5.0))["step"] == 0
    assert Monitor().best(lines("fid", math.nan, math.nan)) is None
    assert Monitor("mmd").best(lines("fid", 1.0, 2.0)) is None
    changed = [*lines("sfid", 9.0, 1.0), {"step": 2, "kimg": 2, "sfid": 3.0, "note": "extractor y"}]
    assert Monitor().best(changed)["step"] == 2
    assert Monitor("coverage").best(lines("coverage", 0.0, 0.2, 0.5, 0.3))["step"] == 2


def test_metrics_are_formatted_by_their_scale():
    line = {"fid": 12.34, "kid": 0.01234, "kid_std": 0.0012, "mmd": 0.012345}
    assert [format_metric(name, line) for name in ("fid", "kid", "mmd")] == ["12.3", "0.0123 ± 0.0012", "0.0123"]


def fit(folder, monitor: Monitor, module=None, data=None, **options) -> RunCheckpoint:
    keeper = RunCheckpoint(folder / "checkpoints", 10, 0, Signals(), lambda *_: None, monitor)
    callbacks = [RunProgress(), EvaluationLog(), Report(), keeper]
    settings = {"val_check_interval": 1, "limit_val_batches": 1.0, "enable_progress_bar": True, **options}
    trainer(folder, callbacks=callbacks, **settings).fit(module or iggan(), datamodule=data or renders(2))
    return keeper


def test_a_run_follows_its_monitor_and_shows_the_best_value(tmp_path, capsys):
    keeper = fit(tmp_path, Monitor("occupancy", "max"), num_sanity_val_steps=-1)
    best = max(read_metrics(tmp_path)[1:], key=lambda line: line["occupancy"])
    assert keeper.best == {"metric": "occupancy", "note": best["note"], "value": best["occupancy"]}
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()
    text, page = f"{best['occupancy']:.3g} at {best['kimg']:g} kimg", (tmp_path / "report.html").read_text()
    assert f"Best occupancy: {text}." in page
    printed = capsys.readouterr().out
    assert f", best {text} (extractor" in printed and "OCCUPANCY" in printed
    evaluated = [line for line in printed.splitlines() if line.startswith("evaluated at")]
    assert len(evaluated) == 3 and "best" not in evaluated[0]
    assert evaluated[-1].endswith(f"best occupancy {best['occupancy']:.4g}")


@pytest.mark.parametrize("sanity", [-1, 1, 0])
def test_a_metric_that_is_not_evaluated_stops_at_the_first_evaluation(tmp_path, sanity):
    with pytest.raises(InputError, match=r"monitor val_accuracy is not a metric .*; set monitor to one of fid, .*mmd"):
        fit(tmp_path, Monitor("val_accuracy"), num_sanity_val_steps=sanity)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0 if sanity else 1]


class Counted(pl.LightningDataModule):
    """Images of a user, of which only a complete evaluation tells the number."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.images = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.images[:8], batch_size=4)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.images, batch_size=32)


@pytest.mark.parametrize("options", [{"num_sanity_val_steps": 1}, {"fast_dev_run": 1}])
@pytest.mark.parametrize("known", [True, False])
def test_a_metric_of_the_whole_evaluation_passes_a_shorter_one(tmp_path, options, known):
    """KID is on, and FID needs as many images as features, 128; the first evaluation has a batch."""
    data = renders(1, reference_images=128, batch_size=32) if known else Counted(128)
    keeper = RunCheckpoint(None, 10, 0, Signals(), lambda *_: None, Monitor("sfid"))
    module = iggan(kid_subset=4, shape_metrics=0)
    trainer(tmp_path, callbacks=[keeper], limit_val_batches=1.0, **options).fit(module, datamodule=data)
    assert "recall" in module.evaluation
    assert "fast_dev_run" in options or (keeper.best["metric"] == "sfid" and math.isfinite(keeper.best["value"]))


def test_a_metric_that_needs_more_images_stops_at_the_first_complete_evaluation(tmp_path):
    with pytest.raises(InputError, match=r"monitor sfid is not a metric .*; set monitor to one of kid, kid_std, occ"):
        fit(tmp_path, Monitor("sfid"), iggan(kid_subset=4), renders(2), num_sanity_val_steps=1)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0]
    with pytest.raises(InputError, match="monitor sfid is not a metric"):
        fit(tmp_path / "unknown", Monitor("sfid"), iggan(kid_subset=4), Counted(12), num_sanity_val_steps=-1)


def test_networks_that_are_not_generators_have_a_best_checkpoint(tmp_path):
    proxy = proxy_module()
    keeper = fit(tmp_path / "proxy", Monitor(), proxy, grids())
    assert keeper.best == {
        "metric": "val_relative_error",
        "note": "held-out shapes",
        "value": min(line["val_relative_error"] for line in read_metrics(tmp_path / "proxy")),
    }

    class Labelled(Counted):
        def train_dataloader(self) -> DataLoader:
            return DataLoader([(image, i % 2) for i, image in enumerate(self.images)], batch_size=4)

        val_dataloader = train_dataloader

    classifier = RenderClassifierModule(RenderClassifier(["a", "b"], width=4, num_features=8))
    keeper = fit(tmp_path / "classifier", Monitor("val_accuracy"), classifier, Labelled(8))
    assert keeper.best["value"] == max(line["val_accuracy"] for line in read_metrics(tmp_path / "classifier"))
    assert all((tmp_path / name / "checkpoints" / "best.ckpt").exists() for name in ("proxy", "classifier"))
    with pytest.raises(InputError, match=r"monitor sfid is not a metric .*; set monitor to one of val_relative_error"):
        fit(tmp_path / "other", Monitor("sfid"), proxy_module(), grids())


@pytest.mark.parametrize(
    ("values", "text"),
    [((25.0, 40.0, 35.0), "best after 0 kimg 35.0"), ((50.0, 40.0, 45.0), "best 40.0"), ((25.0,), "best 25.0")],
)
def test_the_best_value_says_that_it_leaves_out_a_better_one_before_training(tmp_path, capsys, values, text):
    class Run:
        fast_dev_run, default_root_dir, callbacks = False, tmp_path, ()

    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines("fid", *values)))
    EvaluationLog().on_fit_end(Run(), iggan())
    assert f", {text} at {values.index(float(text.split()[-1]))} kimg" in capsys.readouterr().out
    assert f"Best fid{text[4:-5]}: {text[-4:]} at" in write_report(tmp_path, Monitor()).read_text()
