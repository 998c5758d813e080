"""The table of supported trainer options: each value in it is refused before data and networks are built."""

import pytest
import pytorch_lightning as pl
from ddp.test_cluster_scripts import CONFIG

from trainer.cli import trainer_options
from trainer.cli.config_composition import PROJECT_CONFIGS
from trainer.cli.lightning_cli import UnrenderCLI

BUILD = UnrenderCLI.instantiate_classes
DOCS = PROJECT_CONFIGS.parent / "docs" / "trainer.md"
FIT = ["fit", "--config", "small.yaml", "--run_dir", "run"]
CASES = {
    "--trainer.strategy=ddp_spawn": "ranks must run the same command; use ddp",
    "--trainer.strategy=fsdp": "use ddp",
    "--trainer.strategy=pytorch_lightning.strategies.FSDPStrategy": "FSDPStrategy",
    "--trainer.precision=bf16-true": "trainer.precision cannot be bf16-true for ImageGANModule",
    "--trainer.precision=16-true": "use bf16-mixed or 32-true",
    "--trainer.precision=16-mixed": "trainer.precision cannot be 16-mixed for ImageGANModule",
    "--trainer.precision=16": "use bf16-mixed or 32-true",
    "--trainer.precision=64-true": "use bf16-mixed or 32-true",
    "--trainer.accumulate_grad_batches=2": "set a larger data.batch_size",
    "--trainer.gradient_clip_val=1.0": "unset it",
    "--trainer.gradient_clip_algorithm=norm": "unset it",
    "--trainer.sync_batchnorm=true": "already",
    "--trainer.overfit_batches=2": "data.images",
    "--trainer.max_epochs=2": "set its length by data.total_kimg",
    "--trainer.max_epochs=-1": "set its length by data.total_kimg",
    "--trainer.default_root_dir=here": "--run_dir",
    "--trainer.barebones=true": "unset it",
    "--trainer.val_check_interval=1000": "1,000 is more than the 150 steps of the run",
    "--trainer.val_check_interval=1e3": "1,000 is more than the 150 steps of the run",
    "--trainer.val_check_interval=1.5": "val_check_interval",
    "--trainer.limit_train_batches=-1": "limit_train_batches",
    "--trainer.accelerator=tpu": "trainer",
    "--trainer.accelerator=gpu": "no GPU is available: CUDA_VISIBLE_DEVICES hides all; set --trainer.accelerator=cpu",
    "--trainer.devices=0": "trainer.devices cannot be 0: ",
    "--trainer.devices=two": "trainer.devices cannot be two: ",
    "--trainer.max_steps=-5": "max_steps",
    "--trainer.val_check_interval=0": "set trainer.limit_val_batches to 0 for none",
    "--trainer.limit_val_batches=-1": "limit_val_batches",
    "--trainer.check_val_every_n_epoch=0": "it is a number of epochs",
    "--trainer.log_every_n_steps=-1": "it is a number of steps",
}
CALLBACKS = {
    "GradientAccumulationScheduler": "{scheduling: {0: 2}}",
    "StochasticWeightAveraging": "{swa_lrs: 0.1}",
    "WeightAveraging": "{}",
    "EMAWeightAveraging": "{}",
    "LearningRateFinder": "{}",
    "BatchSizeFinder": "{}",
    "ModelPruning": "{pruning_fn: l1_unstructured}",
    "BackboneFinetuning": "{}",
}


@pytest.fixture(autouse=True)
def nothing_is_built(workplace, monkeypatch):
    def build(*_, **__):
        raise AssertionError("a part was built")

    monkeypatch.setattr(UnrenderCLI, "instantiate_classes", build)
    (workplace / "small.yaml").write_text(CONFIG)
    yield
    assert not (workplace / "run").exists()


@pytest.mark.parametrize("option", CASES)
def test_options_are_refused_before_anything_is_built(refused, option, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert CASES[option] in refused(*FIT, option)


@pytest.mark.parametrize(("limit", "steps"), [("4", 4), ("5.0", 5), ("0.1", 15)])
def test_evaluations_are_not_further_apart_than_the_batches_of_training(refused, limit, steps):
    options = [f"--trainer.limit_train_batches={limit}", "--trainer.val_check_interval=20"]
    assert f"20 is more than the {steps} steps of the run" in refused(*FIT, *options)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_are_refused_before_anything_is_built(refused, name):
    value = f"{{class_path: pytorch_lightning.callbacks.{name}, init_args: {CALLBACKS[name]}}}"
    message = refused(*FIT, f"--trainer.callbacks+={value}")
    assert f"trainer.callbacks: {name} does not work with ImageGANModule: " in message


def test_constructors_of_lightning_that_refuse_are_reported(refused, monkeypatch):
    monkeypatch.setattr(UnrenderCLI, "instantiate_classes", BUILD)
    assert refused(*FIT, "--trainer.logger=pytorch_lightning.loggers.CometLogger").startswith(
        "CometLogger: Requirement 'comet-ml"
    )
    stopping = "{class_path: EarlyStopping, init_args: {monitor: g, mode: up}}"
    assert "EarlyStopping: `mode` can be min, max" in refused(*FIT, f"--trainer.callbacks+={stopping}")


def test_every_limit_is_tested():
    tested = {option.partition("=")[0].removeprefix("--trainer.") for option in CASES}
    assert {limit.option for limit in trainer_options.LIMITS} <= tested
    for refused in trainer_options.REFUSED_CALLBACKS:
        assert any(issubclass(getattr(pl.callbacks, name), refused) for name in CALLBACKS)


def test_the_docs_show_the_table():
    assert trainer_options.markdown() in DOCS.read_text(encoding="utf-8")
