"""MeshGAN configs, and the ablations of Figure 3, train and evaluate with narrow networks."""

import pytest
import torch
import yaml

from trainer.__main__ import main

NARROW = [
    "--trainer.fast_dev_run=2",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--data.init_args.batch_size=2",
    "--data.init_args.total_kimg=0.004",
    "--data.init_args.images=4",
    "--data.init_args.reference_images=4",
    *(f"--model.init_args.{part}.init_args.channel_base=64" for part in ("generator", "discriminator")),
]
SOFT = ["--model", "model/meshgan_soft.yaml"]
ABLATIONS = {
    "crisp": [*SOFT, "--model.renderer.margin=0"],
    "soft": SOFT,
    "soft, size": ["--model.generator.pyramid_levels=0"],
    "soft, size, pyramid": [],
    "±120°": ["--model.views.azimuth=[-120,120]"],
}


@pytest.fixture(autouse=True)
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"model": "model/meshgan_32.yaml", "data": "data/heads.yaml", "trainer": "trainer/default.yaml"}
    (tmp_path / "faces.yaml").write_text(yaml.safe_dump({"seed_everything": 0, **parts}))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_trains(ablation):
    assert main(["fit", "--config", "faces.yaml", *NARROW, *ABLATIONS[ablation]]) == 0


def test_paper_size_trains():
    size = ["--model", "model/meshgan.yaml", "--data.init_args.image_size=128", "--model.extractor=renders_color"]
    assert main(["fit", "--config", "faces.yaml", *size, *NARROW]) == 0


def test_ablations_change_the_intended_options(capsys):
    def resolved(*options: str) -> tuple:
        assert main(["fit", "--config", "faces.yaml", *options, "--print_config"]) == 0
        model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        generator = model["generator"]["init_args"]
        views = model["views"].get("init_args", model["views"])
        margin = model["renderer"]["init_args"]["margin"]
        return margin, generator["max_size"], generator["pyramid_levels"], views["azimuth"], views["fov"]

    narrow, wide = ([-45.0, 45.0], 10.0), ([-120.0, 120.0], 10.0)
    expected = [
        (0, None, 0, *narrow),
        (1, None, 0, *narrow),
        (1, 1.3, 0, *narrow),
        (1, 1.3, 4, *narrow),
        (1, 1.3, 4, *wide),
    ]
    assert [resolved(*options) for options in ABLATIONS.values()] == expected


def test_paper_model_replaces_a_small_one_completely(capsys):
    def model(*options: str) -> dict:
        assert main(["fit", *options, "--print_config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)["model"]

    combined = model("--config", "faces.yaml", "--model", "model/meshgan.yaml", "--data.image_size=128")
    assert combined == model("--config", "ffhq.yaml")


def test_grey_extractor_is_refused_before_data_are_rendered(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UNRENDER_CACHE", str(tmp_path / "cache"))
    assert main(["fit", "--config", "faces.yaml", "--model.extractor=renders_small"]) == 2
    assert "the data have colour, which extractor 'renders_small' does not see" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()


def test_batch_size_changes_by_option(tmp_path):
    options = [word for word in NARROW if "fast_dev_run" not in word and "batch_size" not in word]
    changes = ["--data.batch_size=2", "--data.batch_changes=[[0.002,1]]", "--trainer.limit_val_batches=0"]
    assert main(["fit", "--config", "faces.yaml", *options, *changes, "--run_dir", str(tmp_path / "run")]) == 0
    clock = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["clock"]
    assert (clock["step"], clock["images_seen"]) == (3, 4)


def test_invalid_batch_change_is_rejected(capsys):
    assert main(["fit", "--config", "faces.yaml", *NARROW, "--data.batch_changes=[[0.002,0]]"]) == 2
    assert "batch_changes" in capsys.readouterr().err
