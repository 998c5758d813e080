"""Which Weights & Biases run a training belongs to."""

from pathlib import Path

import wandb
from toy_runs import FIT, RUN
from wandb_records import read_records

from trainer.__main__ import main
from trainer.runs.run_directory import RunDirectory


def test_weights_and_biases_resumes_its_run():
    logger = ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true"]
    ids = []
    for argv in (["--data.batches=2"], ["--data.batches=2", "--fresh"]):
        assert main([*FIT, *logger, *argv]) == 0
        wandb.finish()  # wandb allows one run per process
        ids.append(RunDirectory(RUN).metadata["wandb"])
        folders = [path.name for path in (RUN / "wandb").glob("offline-run-*")]
        assert len(folders) == 1 and folders[0].endswith(ids[-1])
    assert ids[0] != ids[1]
    run = RunDirectory(RUN)
    run.start("toy", ["fit"], "seed_everything: 3\n")
    assert run.metadata["wandb"] == ids[1]


def test_weights_and_biases_prefers_options_then_environment_then_config(monkeypatch):
    config = "trainer: {logger: {class_path: WandbLogger, init_args: {project: configured, entity: us, offline: true}}}"
    Path("logger.yaml").write_text(config)
    for name, value in {"PROJECT": "swept", "NAME": "swept", "RUN_ID": "abcd1234"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert main([*FIT, "--config=logger.yaml", "--trainer.logger.name=mine", "--data.batches=2"]) == 0
    wandb.finish()
    run = RunDirectory(RUN)
    expected = {"wandb": "abcd1234", "wandb_settings": {"project": "swept", "name": "mine"}}
    assert expected.items() <= run.metadata.items()
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.delenv("WANDB_PROJECT")
    # A resumed run keeps its own id and project; the command line overrides them.
    settings = run.wandb_settings({"name": "other"}, {"id": "another"})
    assert settings == {"id": "abcd1234", "project": "swept", "name": "other"}


def test_a_run_of_a_sweep_is_the_agents(monkeypatch):
    """The agent of ``wandb agent`` sets these variables; ``configs/sweeps`` shows the command."""
    Path("parameters.yaml").write_text("wandb_version: 1\nmodel.latent_size: {desc: null, value: 6}\n")
    names = {"RUN_ID": "abcd1234", "SWEEP_ID": "sweep1", "SWEEP_PARAM_PATH": "parameters.yaml", "PROJECT": "swept"}
    for name, value in (names | {"MODE": "offline"}).items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # it reads its environment once per process
    logger = "--config=logger/wandb.yaml"
    assert main([*FIT, logger, "--model.latent_size=6", "--data.batches=2"]) == 0
    wandb.finish()
    (file,) = RUN.glob("wandb/offline-run-*/*.wandb")
    started = next(record.run for record in read_records(file) if record.HasField("run"))
    assert (started.run_id, started.sweep_id, started.project) == ("abcd1234", "sweep1", "swept")
    assert RunDirectory(RUN).metadata["wandb"] == "abcd1234"
