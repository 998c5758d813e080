"""Parts of a user: a plain data module, images that are not in [0, 1], and runs loaded in Python."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import trainer
from lightning_modules import ImageGANModule
from networks import DCGANDiscriminator, DCGANGenerator
from trainer.__main__ import main
from trainer.cli.config_errors import _import_failure
from trainer.commands import doctor
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError

DATA = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Plain(LightningDataModule):
    def __init__(self, scale: float = 1.0, shift: float = 0.0, dtype: str = "float32", count: int = 8):
        super().__init__()
        images = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * scale + shift
        self.images = (images * 255).byte() if dtype == "uint8" else images.to(getattr(torch, dtype))

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.images), batch_size=4)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.images), batch_size=4)
"""
CONFIG = """
model:
  class_path: lightning_modules.ImageGANModule
  init_args:
    generator: {class_path: networks.DCGANGenerator, init_args: {image_size: 16, latent_size: 8, width: 16}}
    discriminator: {class_path: networks.DCGANDiscriminator, init_args: {image_size: 16, width: 8}}
data: {class_path: plain.Plain}
trainer: {base: trainer/default.yaml, accelerator: cpu, max_epochs: 2, enable_progress_bar: false}
"""
FIT = ["fit", "--config", "own.yaml", "--run_dir", "run"]


@pytest.fixture(autouse=True)
def own(workplace, monkeypatch):
    monkeypatch.syspath_prepend(str(workplace))
    (workplace / "plain.py").write_text(DATA)
    (workplace / "own.yaml").write_text(CONFIG)
    yield
    for name in ("plain", "variants", "broken"):
        sys.modules.pop(name, None)


def parts() -> dict:
    return {"generator": DCGANGenerator(16, latent_size=8, width=16), "discriminator": DCGANDiscriminator(16, width=8)}


def test_a_plain_data_module_trains_with_the_standard_callbacks_and_the_run_loads(refused):
    assert main(FIT) == 0
    for command in ("fit", "validate"):
        assert "run/config.yaml names plain.Plain; " in refused(command, "--run_dir", "run")
    assert main(FIT) == 0  # the config is named again
    names = {path.name for path in Path("run").iterdir()}
    assert names >= {"report.html", "reals.png", "samples", "sfid.png", "images", "metrics.jsonl"}
    for command in ("validate", "test", "predict"):
        assert main([command, "--run_dir", "run", "--trust"]) == 0
    assert len(list(Path("run/predict/images").iterdir())) == 8

    run = trainer.load_run("run", device="cpu", trust=True)
    samples = run.module.predict_step(torch.arange(3), 0)
    assert samples["image"].shape == (3, 1, 16, 16)
    checkpoint = run.checkpoint
    with pytest.raises(
        InputError, match=r"call trainer.load_run\(run_dir\), or pass them as arguments: generator, discriminator"
    ):
        ImageGANModule.load_from_checkpoint(checkpoint)
    module = ImageGANModule.load_from_checkpoint(checkpoint, **parts())
    assert torch.equal(module.state_dict()["generator.layers.0.weight"], run.module.generator.layers[0].weight)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.dtype=uint8", "the images of the data are uint8; a data module must return float32 numbers in [0, 1]"),
        ("--data.dtype=float64", "the images of the data are float64; a data module must return float32 numbers"),
        ("--data.scale=255", "have values from"),
        ("--data.shift=-0.5", "have values from -0.49"),
    ],
)
@pytest.mark.parametrize("first", ["--trainer.num_sanity_val_steps=-1", "--trainer.num_sanity_val_steps=0"])
def test_images_outside_of_0_to_1_are_refused(refused, option, message, first):
    assert message in refused(*FIT, option, first)


def test_the_error_about_own_data_without_a_renderer_says_what_to_set(refused):
    message = refused(*FIT, "--model", "model/absorption_32.yaml")
    assert "; Plain has no " in message and ": give it one, or set model.init_args." in message


def test_a_training_without_data_is_an_error(refused):
    assert refused(*FIT, "--data.count=0") == "Plain has no training data: its loader has no batches"
    assert RunDirectory("run").status != "finished"


def test_doctor_finds_classes_in_the_current_directory():
    (finding,) = doctor.data("own.yaml")
    assert (finding.state, finding.fact) == ("ok", "own.yaml: Plain finds its files")
    Path("typo.yaml").write_text(CONFIG.replace("plain.Plain", "plain.Plane"))
    (finding,) = doctor.data("typo.yaml")
    assert finding.state == "fail" and "no such class plain.Plane" in finding.fact
    assert finding.fix.startswith("correct the config")


def test_unrender_finds_classes_in_the_current_directory(environment, workplace):
    code = "import sys, trainer.__main__ as m; sys.exit(m.script())"
    words = [sys.executable, "-P", "-c", code, *FIT, "--trainer.fast_dev_run=1"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=workplace, check=False)
    assert done.returncode == 0, done.stderr


def test_load_run_is_imported_when_used():
    assert callable(trainer.load_run)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        trainer.load  # noqa: B018


def test_an_option_that_names_another_class_keeps_the_references_that_it_accepts(capsys):
    """``--model=my.Module`` keeps ``renderer: ${data.init_args.renderer}``, which follows later options."""
    Path("variants.py").write_text(
        "from lightning_modules import IGGANModule, ImageGANModule\n\nclass Variant(IGGANModule):\n    pass\n"
        "\nclass Flat(ImageGANModule):\n    pass\n"
    )
    arguments = {}
    for name in ("Variant", "Flat"):
        words = ["--config", "demo.yaml", f"--model=variants.{name}", "--data.renderer.image_size=32", "--print_config"]
        assert main(["fit", *words]) == 0
        model = yaml.safe_load(capsys.readouterr().out)["model"]
        assert model["class_path"] == f"variants.{name}"
        arguments[name] = model["init_args"]
        assert arguments[name]["generator"]["init_args"]["voxel_size"] == 32
    assert arguments["Variant"]["renderer"]["init_args"]["image_size"] == 32
    assert arguments["Variant"]["views"]["init_args"]["elevation"] == [-30, 60]
    assert not {"renderer", "views"} & set(arguments["Flat"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("\nclass X(:", "line 2: SyntaxError: invalid syntax"),
        ("undefined", "line 1: NameError: name 'undefined' is not defined"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_line(refused, workplace, code, message):
    (workplace / "broken.py").write_text(code)
    importlib.invalidate_caches()
    for option in ("--model.generator=broken.X", "--trainer.callbacks+=broken.X"):
        assert re.fullmatch(rf"broken cannot be imported: \S+broken\.py, {message}", refused(*FIT, option))
    assert "no such class nowhere.X" in refused(*FIT, "--model.generator=nowhere.X")


def test_a_script_with_the_name_of_a_config_is_not_executed(refused, workplace):
    (workplace / "own.py").write_text("open('executed', 'w')")
    assert _import_failure("the value own.yaml is not a class; broken.X is one") is None
    assert not Path("executed").exists()


def test_errors_of_own_classes_say_where_they_are(refused, workplace):
    (workplace / "broken.py").write_text(
        "from renderers import Renderer\nfrom torch import nn\n\nclass Empty(Renderer):\n    pass\n\n"
        "class Fails(nn.Module):\n    def __init__(self):\n        raise RuntimeError('my own mistake')\n"
    )
    importlib.invalidate_caches()
    with pytest.raises(RuntimeError, match=r"^my own mistake$") as raised:  # not jsonargparse's error about it
        main([*FIT, "--model.generator=broken.Fails"])
    assert raised.traceback[-1].path.name == "broken.py"
    volume = ["fit", "--config=demo.yaml", "--model", "model/absorption_32.yaml"]
    message = refused(*volume, "--model.differentiable_renderer=broken.Empty")
    assert message == "--model.init_args.differentiable_renderer: broken.Empty does not implement render"
    message = refused(*FIT, "--model.generator=torch.nn.Identity")
    assert message == "Identity needs an attribute latent_size, the length of its latents"
