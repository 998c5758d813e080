"""Mistakes in options, configs and checkpoints: one sentence that names them, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.__main__ import main
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError

FIT = ["fit", "--config", "toy.yaml"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "fit needs --config NAME"),
        (["--trust", "--model.latent_size", "3"], "fit needs --config NAME"),
        (["--confg", "toy.yaml"], "no such option --confg; did you mean --config?"),
        (["--trust", "toy.yaml"], "toy.yaml is not an option; did you mean --config toy.yaml?"),
        (["--model.latent_size", "3", "model"], "model is not an option; did you mean --run_dir model?"),
        (
            ["--config", "toy.yaml", "--run_dir=toy.yaml/x"],
            "cannot be created: Not a directory; pass another --run_dir",
        ),
        (["--config"], "--config needs the name"),
        (["--config", "toi.yaml"], "no such config 'toi.yaml'; did you mean toy.yaml"),
        (["--config", "model/gam.yaml"], "did you mean model/gan.yaml"),
        (["--config", "toy.yaml", "--model.latent_sise=1"], "no argument 'latent_sise'; did you mean latent_size?"),
        (["--config", "toy.yaml", "--model.latent_size=big"], "--model.init_args.latent_size must be int, not big"),
        (["--config", "toy.yaml", "--model.renderer.widht=1"], "toy.Blur has no argument 'widht'; did you mean width?"),
        (
            ["--config", "toy.yaml", "--model.optimizer_g.lrr=1"],
            "torch.optim.Adam has no argument 'lrr'; did you mean lr",
        ),
        (["--config", "toy.yaml", "--model.optimizer_g.lr=fast"], "optimizer_g.init_args.lr must be float"),
        (["--config", "toy.yaml", "--model.renderer=toy.Blurr"], "no such class toy.Blurr; did you mean toy.Blur"),
        (
            ["--config", "toy.yaml", "--model.renderer=toy.Demanding"],
            "renderer.init_args.amount must be given",
        ),
        (["--config", "toy.yaml", "--model=toy.ToyData"], "--model must be LightningModule or null, not toy.ToyData"),
        (["--config", "toy.yaml", "--model=model"], "--model names a YAML file, such as model/iggan.yaml, not model"),
        (
            ["--config", "toy.yaml", "--data", "data"],
            "--data names a YAML file, such as data/ffhq.yaml; pass the folder by --data.root=data",
        ),
        (["--config", "toy.yaml", "--trainer=short"], "--trainer names a YAML file, such as trainer/default.yaml, not"),
        (
            ["--config", "heads.yaml", "--model", "model/absorption_32.yaml"],
            "HeadsDataModule has no renderer: this method needs data that render shapes, such as those of demo.yaml",
        ),
        (
            ["--config", "demo.yaml", "--model", "model/meshgan_32.yaml"],
            "MeshGAN needs RGB images, and these data are grey",
        ),
        (["--config", "toy.yaml", "--data.views=3"], "--data.init_args.views must be list[float] or null, not 3"),
        (
            ["--config", "toy.yaml", "--data.order=up"],
            "--data.init_args.order must be one of 'random', 'given', not up",
        ),
        (["--config", "toy.yaml", "--modl.x=1"], "no such option --modl.x"),
        (["--config", "toy.yaml", "--trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["--config", "toy.yaml", "--trainer.max_epochs=x"], "--trainer.max_epochs must be int or null, not x"),
        (["--config", "toy.yaml", "--trainer.max_epochs="], "--trainer.max_epochs must be int or null, not an empty"),
        (
            ["--config", "toy.yaml", "--model="],
            "--model names a YAML file, such as model/iggan.yaml, not an empty value",
        ),
        (["--config", "toy.yaml", "--trainer.max_epochs"], "--trainer.max_epochs needs a value"),
        (["--config", "toy.yaml", "--model.latent_size"], "--model.latent_size needs a value"),
        (["--config", "."], ". is a directory, not a config; if it is a run, pass --run_dir ."),
        (["--config", "toy.yaml", "stray"], "no such option stray"),
        (["--model=toy.ToyGAN"], "data must be given"),
        (["--config", "toy.yaml", "--model.latent_size=0"], "latent_size must be at least 1, not 0"),
        (["--config", "toy.yaml", "--trainer.accelerator=nope"], "accelerator"),
        (["--config", "toy.yaml", "--ckpt_path=gone.ckpt"], "checkpoint gone.ckpt does not exist"),
        (["--config", "toy.yaml", "--run_dir=new", "--ckpt_path=last"], "in new, which holds no run yet; pass a file"),
        (["--run_dir=new", "--model.latent_size=3"], "fit needs --config NAME for a new run, since new holds none"),
        (["--config", "toy.yaml", "--ckpt_path=toy.yaml"], "toy.yaml is not a readable checkpoint"),
        (["--config", "toy.yaml", "--model.proxy_checkpoint=toi.yaml"], "did you mean toy.yaml"),
    ],
)
def test_invalid_options_are_named(refused, argv, message):
    assert message in refused("fit", *argv)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {init_args: {cameras: {azimut: [0, 1]}}}", "did you mean azimuth"),
        ("data: {init_args: {cameras: {fov: wide}}}", "data.init_args.cameras.init_args.fov must be float or null"),
        ("dta: {}\nmodel: {init_args: {seed: '${dta.size}'}}", "mistake.yaml: no such key 'dta'; did you mean data?"),
        ("model: {base: null}", "mistake.yaml: base must name YAML files, such as demo.yaml, not None"),
        ("modle: {class_path: toy.ToyGAN}", "mistake.yaml: no such key 'modle'; did you mean mode or model?"),
        (
            "model: {init_args: {latent_sise: 1}}",
            "mistake.yaml: model.init_args.latent_sise: toy.ToyGAN has no argument",
        ),
        (
            "model: {class_path: toy.ToyGAN, latent_size: 4}",
            "mistake.yaml: model has no key 'latent_size'; arguments of toy.ToyGAN belong under init_args",
        ),
        (
            "model: {init_arg: {latent_size: 4}}",
            "mistake.yaml: model has no key 'init_arg'; did you mean init_args or dict_kwargs?",
        ),
        (
            "trainer: {callbacks: [{class_path: toy.WriteShapes, name: a}]}",
            "mistake.yaml: trainer.callbacks has no key 'name'; arguments of toy.WriteShapes belong under init_args",
        ),
        (
            "data: null",
            "mistake.yaml: data has no keys, but model.init_args.image_size refers to ${data.init_args.size}; "
            "remove data or the reference",
        ),
        ("model: {init_args: {seed: one}}", "mistake.yaml: model.init_args.seed must be int, not one"),
        (
            "model: {init_args: {seed: '${data.size}'}}",
            "mistake.yaml: model.init_args.seed refers to ${data.size}, which is not in the config; "
            "did you mean data.init_args.size?",
        ),
        ("model: {init_args: {seed: '${data.init_args.sise}'}}", "did you mean data.init_args.size?"),
        (
            "data: {init_args: {batches: '${data.init_args.sise}'}}",
            "data.init_args.batches refers to ${data.init_args.sise}, which is not in the config; "
            "did you mean data.init_args.size?",
        ),
        (
            "model: {class_path: toy.ToyGAM}",
            "mistake.yaml: model: no such class toy.ToyGAM; did you mean toy.ToyGAN",
        ),
        ("model: {class_path: nowhere.X}", "mistake.yaml: model: no such class nowhere.X"),
        ("model: 3", "mistake.yaml: model must be LightningModule or null, not 3"),
        ("trainer: {max_epoch: 1}", "mistake.yaml: trainer has no key 'max_epoch'; did you mean max_epochs"),
        ("trainer: {callbacks: [{class_path: toy.WriteShapes, init_args: {nme: a}}]}", "did you mean name?"),
        ("trainer: {callbacks: [{class_path: toy.WriteShape}]}", "did you mean toy.WriteShapes"),
    ],
)
def test_invalid_files_are_named(refused, workplace, text, message):
    (workplace / "mistake.yaml").write_text(f"base: toy.yaml\n{text}\n")
    assert message in refused("fit", "--config", "mistake.yaml")


@pytest.mark.parametrize("base", ["toy", "/tmp", "null", "[toy.yaml, 3]"])
def test_a_base_that_names_no_yaml_file_is_refused(refused, workplace, base):
    (workplace / "mistake.yaml").write_text(f"base: {base}\nmodel: {{init_args: {{latent_size: 2}}}}\n")
    message = refused("fit", "--config", "mistake.yaml")
    assert message.startswith("mistake.yaml: base must name YAML files, such as demo.yaml, not ")


@pytest.mark.parametrize(
    "argv",
    [["render", "mistake.yaml"], ["prepare", "--config", "mistake.yaml"], ["doctor", "--config", "mistake.yaml"]],
)
def test_commands_that_only_read_the_data_refuse_unknown_keys(refused, workplace, argv):
    (workplace / "mistake.yaml").write_text("base: toy.yaml\nmodle: {class_path: toy.ToyGAN}\n")
    assert "mistake.yaml: no such key 'modle'; did you mean mode or model?" in refused(*argv)


def test_invalid_checkpoints_are_named(refused, workplace):
    assert main(FIT) == 0
    last = Path("runs/toy/001/checkpoints/last.ckpt")
    message = "was trained with another configuration: generator.weight is [8, 4] there and [12, 4] here"
    for command in ("fit", "validate"):
        assert message in refused(command, "--config", "toy.yaml", "--ckpt_path", str(last), "--data.size=12")
    whole = last.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 10):
        Path("cut.ckpt").write_bytes(whole[:length])
        assert "cut.ckpt is not a readable checkpoint" in refused(
            "validate", "--config", "toy.yaml", "--ckpt_path=cut.ckpt"
        )
    torch.save({"state_dict": {}, "code": print}, "code.ckpt")
    assert "it could run code" in refused("validate", "--config", "toy.yaml", "--ckpt_path=code.ckpt")
    torch.save({"weights": 1}, "other.ckpt")
    assert "has no state_dict" in refused("validate", "--config", "toy.yaml", "--ckpt_path=other.ckpt")


def test_bugs_keep_their_traceback(workplace, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        monkeypatch.setattr("toy.ToyGAN.training_step", lambda *_: 1 / 0)
        main(FIT)
    assert RunDirectory("runs/toy/001").metadata["status"] == "failed"


def test_a_refused_training_leaves_no_directory(monkeypatch, capsys):
    def refuse(_: object) -> None:
        raise InputError("no images")

    with monkeypatch.context() as patch:
        patch.setattr("toy.ToyData.prepare_data", refuse, raising=False)
        assert main(FIT) == main([*FIT, "--run_dir", "mine/own"]) == 2
        assert "error: no images" in capsys.readouterr().err
        assert not Path("runs").exists()
        assert not Path("mine").exists()
    assert main(FIT) == 0
    RunDirectory("runs/toy/001").end("interrupted")
    with monkeypatch.context() as patch:
        patch.setattr("toy.ToyData.prepare_data", refuse, raising=False)
        assert main(["fit", "--run_dir", "runs/toy/001", "--trust"]) == 2
    assert RunDirectory("runs/toy/001").last_checkpoint.is_file()


def test_a_directory_with_other_files_is_refused(refused, workplace):
    (workplace / "mine").mkdir()
    (workplace / "mine/.DS_Store").write_text("")
    shape = workplace / "mine/chair.obj"
    shape.write_text("v 0 0 0")
    for fresh in ([], ["--fresh"]):
        message = refused(*FIT, "--run_dir", "mine", *fresh)
        assert message == "mine is not empty and holds no run (no run.json); pass a new directory for --run_dir"
    assert len(list(Path("mine").iterdir())) == 2
    assert main([*FIT, "--run_dir", "mine", "--trainer.fast_dev_run=1"]) == 0  # it writes nothing there
    shape.unlink()
    assert main([*FIT, "--run_dir", "mine"]) == 0
    for path in (RunDirectory("mine").config, *RunDirectory("mine").checkpoints.iterdir()):
        path.unlink()
    RunDirectory("mine").end("failed")  # before it wrote a config
    assert refused("fit", "--run_dir", "mine").startswith("mine has no config.yaml; pass --config NAME and the options")
    assert main([*FIT, "--run_dir", "mine"]) == 0


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("UNRENDER_TRACEBACK", "1")
    with pytest.raises(Exception, match="latent_sise"):
        main([*FIT, "--model.latent_sise=1"])


def test_last_of_a_run_that_is_moved_aside_is_refused(refused):
    """Instead of starting from the newest run of the experiment, which may be another one."""
    assert main(["fit", "--config", "toy.yaml"]) == main(["fit", "--config", "toy.yaml", "--run_dir", "mine"]) == 0
    error = refused("fit", "--config", "toy.yaml", "--run_dir", "mine", "--fresh", "--ckpt_path", "last")
    assert error == "--ckpt_path last is of the run in mine, which would be moved aside by --fresh; pass a file"
    assert Path("mine/checkpoints/last.ckpt").is_file() and not Path("mine.before-1").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ("export", "--run_dir=pretrained/chairs", "--seeds=0", "--output=PATH"),
        ("invert", "--run_dir=pretrained/chairs", "--images=white.png", "--steps=1", "--samples=8", "--output=PATH"),
        ("figures", "--run_dir=pretrained/chairs", "--only=samples", "--output=PATH"),
        ("render", "box.obj", "--output=PATH"),
        ("compare", "mine", "--output=PATH/page.html"),
    ],
)
@pytest.mark.parametrize("path", ("toy.yaml", "toy.yaml/below"))
def test_outputs_below_a_file_are_refused(refused, argv, path):
    Path("box.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    Image.fromarray(np.pad(np.full((8, 8), 90, np.uint8), 8)).save("white.png")
    if argv[0] == "compare":
        assert main(["fit", "--config", "toy.yaml", "--run_dir", "mine"]) == 0
    before = Path("toy.yaml").read_bytes()
    assert "toy.yaml" in refused(*(word.replace("PATH", path) for word in argv))
    assert Path("toy.yaml").read_bytes() == before
    assert not Path("runs").exists()


def test_files_that_are_directories_are_refused(refused):
    assert main(["fit", "--config", "toy.yaml", "--run_dir", "mine"]) == 0
    assert refused("compare", "mine", "--output", "mine").startswith("mine cannot be opened: it is a directory")
