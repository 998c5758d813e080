"""The ``figures`` command on a small run."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from trainer.__main__ import main

RUN = "runs/faces/001"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A MeshGAN run of one step, with progressive growing at its first resolution."""
    folder = tmp_path_factory.mktemp("figures")
    narrow = {"channel_base": 64, "channel_max": 8}
    module = {
        "generator": {
            "class_path": "networks.MeshGenerator",
            "init_args": {"image_size": 16, "latent_size": 8, "style_size": 8, "mapping_layers": 2, **narrow},
        },
        "discriminator": {"class_path": "networks.StyleGANDiscriminator", "init_args": {"resolution": 16, **narrow}},
        "renderer": {"class_path": "renderers.SoftRasterizer", "init_args": {"image_size": 16}},
        "views": {"azimuth": [-45, 45], "elevation": [-15, 15], "fov": 10},
        "growth": [{"resolution": 8, "fade_kimg": 0, "stable_kimg": 1}, {"resolution": 16, "fade_kimg": 1}],
        "extractor": "renders_color",
    }
    sizes = {"image_size": 16, "images": 4, "reference_images": 6, "batch_size": 4, "total_kimg": 0.004}
    data = {"class_path": "datamodules.HeadsDataModule", "init_args": {**sizes, "cache_dir": str(folder / "cache")}}
    trainer = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
    }
    model = {"class_path": "lightning_modules.MeshGANModule", "init_args": module}
    (folder / "faces.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    assert main(["fit", "--config", str(folder / "faces.yaml"), "--run_dir", str(folder / RUN)]) == 0
    return folder / RUN


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figures_of_a_run(run, tmp_path, capsys):
    small = ["--run_dir", str(run), "--size", "32"]
    few = [*small, "--rows", "2", "--columns", "3"]
    assert main(["figures", *few]) == 0
    out = capsys.readouterr().out
    assert "data_normals: skipped, the data are images" in out
    rendered = files(run / "figures")
    names = {"samples.png", "random.png", "interpolation.png", "truncation.png", "layers.png", "data.png"}
    assert rendered.keys() == names | {"captions.md"}
    captions = (run / "figures/captions.md").read_text()
    assert captions.count("\n") == 6 and "Run faces 001, last.ckpt at 0.004 kimg, sample seed 0." in captions
    with Image.open(run / "figures/data.png") as grid:
        assert grid.size == (3 * 32 + 2 * 2, 2 * 32 + 2)

    assert main(["figures", *few, "--output", str(tmp_path / "again")]) == 0
    assert files(tmp_path / "again") == rendered  # byte for byte
    other = [*small, "--output", str(tmp_path / "other"), "--only", "truncation,samples", "--numbers", "0,5"]
    more = ["--truncation", "none", "--truncation_cutoff", "none", "--psi=-1,0", "--sample_seed", "3"]
    assert main(["figures", *other, *more]) == 0
    assert files(tmp_path / "other").keys() == {"samples.png", "truncation.png", "captions.md"}
    captions = (tmp_path / "other/captions.md").read_text()
    assert "Samples 0, 5 as picked" in captions and "Not truncated" in captions and "all layers" in captions


def test_figures_of_data_alone(run, refused, tmp_path):
    config = [f"--data.cache_dir={tmp_path}", "--config", str(run / "config.yaml"), "--output", str(tmp_path / "f")]
    few = ["--only=data", "--data.image_size", "32", "--rows=1", "--columns=2"]
    assert main(["figures", *config, *few]) == 0
    assert files(tmp_path / "f").keys() == {"data.png", "captions.md"}

    figure = tmp_path / "f/data.png"
    Image.open(figure).save(tmp_path / "own.png")
    content = figure.read_bytes()
    figure.write_bytes((tmp_path / "own.png").read_bytes())
    assert "data.png exists and is not a file written by unrender" in refused("figures", *config, *few)
    figure.write_bytes(content)

    captions = tmp_path / "f/captions.md"
    written = captions.read_text()
    captions.write_text(f"# Mine\n\n- `z.png`: last\nb\na\n{written}")
    assert main(["figures", *config, *few]) == 0
    assert captions.read_text() == f"# Mine\n\nb\na\n{written}- `z.png`: last\n"  # other lines keep their order
    captions.write_bytes(b"\xff")
    assert "captions.md is not a text in UTF-8" in refused("figures", *config, *few)
    assert captions.read_bytes() == b"\xff"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "sample"], "no such figure: 'sample'; MeshGANModule has samples, random, interpolation"),
        (["--only", "data_normals"], "no figure could be rendered"),
        (["--only", "interpolation", "--numbers", "3"], "no figure could be rendered"),
        (["--numbers", "a"], "'a' is not a list such as 0-7 or 1,5"),
        (["--psi", "1,x"], "'1,x' is not a list of numbers"),
        (["--rows", "0"], "'0' is not an integer from 1"),
        (["--rows", "100", "--columns", "100"], "exceed 4096 images per figure"),
        (["--azimuth", "30"], "--azimuth is for models of voxels; MeshGANModule has fixed viewpoints; omit it"),
        (["--zoom", "2"], "--zoom is for models of voxels"),
        (["--only", "random", "--numbers", "3"], "--numbers is for figures with one sample per row"),
        (["--only", "samples", "--numbers", "3", "--rows", "6"], "--rows is for figures without --numbers; omit it"),
        (["--only", "samples", "--columns", "3"], "--columns is for grids and interpolations"),
        (["--only", "samples", "--psi", "1"], "--psi is for MeshGAN's figure truncation; omit it"),
        (["--only", "data", "--truncation", "none"], "--truncation is for MeshGAN's samples; omit it"),
        (["--only", "data", "--azimuth", "3"], "--azimuth is for grids of voxels"),
        (["--elevation", "91"], "'91' is not a number from -90 to 90"),
        (["--zoom", "0.5"], "'0.5' is not a number of at least 1"),
        (["--ckpt_path", "best"], "has no best checkpoint"),
        (["--ckpt_path", "gone.ckpt"], "checkpoint gone.ckpt does not exist"),
        (["--config", "demo.yaml"], "pass either --run_dir of a run, or --config"),
        (["--model.truncation=1"], "unrecognized arguments: --model.truncation=1"),
        (["--data.size=3"], "datamodules.HeadsDataModule has no argument 'size'"),
        (["--data.image_size=4", "--only", "data"], "image_size of heads must be at least 8"),
        (["--data.image_size=4"], "not 4; --only samples,random,interpolation,truncation,layers excludes the data"),
    ],
)
def test_invalid_options_are_rejected(run, refused, tmp_path, options, message):
    assert message in refused("figures", "--run_dir", str(run), "--output", str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--only=samples --psi=0.3", "--psi is for MeshGAN's figure truncation; omit it"),
        ("--only=samples --numbers=7", "--numbers is for figures with one sample per row, which are not selected"),
        ("--only=views,view_normals --azimuth=3", "--azimuth is for grids of voxels, which are not selected"),
    ],
)
def test_options_without_effect_on_voxels_are_rejected(refused, options, message):
    assert message in refused("figures", "--run_dir=pretrained/chairs", "--output=out", *options.split())
    assert not Path("out").exists()


def test_invalid_runs_are_rejected(run, refused, tmp_path):
    assert "is not a run directory: it has no config.yaml" in refused("figures", "--run_dir", str(tmp_path))
    assert "pass either --run_dir" in refused("figures")
    assert "--ckpt_path is for --run_dir" in refused("figures", "--config=demo.yaml", "--ckpt_path=last")
    assert "a config without a run has data, data_normals" in refused("figures", "--config=demo.yaml", "--only=samples")
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert "has no last checkpoint" in refused("figures", "--run_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    del content["state_dict"]["generator.object.synthesis.constant"]
    torch.save(content, tmp_path / "checkpoints/last.ckpt")
    assert "generator.object.synthesis.constant is missing there" in refused("figures", "--run_dir", str(tmp_path))
    (tmp_path / "file").write_text("")
    message = refused("figures", "--run_dir", str(run), "--output", str(tmp_path / "file"))
    assert "file cannot be created: File exists; pass another --output" in message
