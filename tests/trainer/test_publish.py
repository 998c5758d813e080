"""``publish``, and the commands on published files, valid and hostile ones."""

import json
import pickle
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import small_iggan
import torch
import yaml
from view_run import MESHGAN, meshgan, viewing, write_run

from lightning_modules import IGGANModule
from networks import ShadingNet, VoxelGenerator
from renderers import DeferredNeuralRenderer
from trainer.__main__ import main
from trainer.commands.publish import _without_locations
from trainer.runs import published
from trainer.runs.loading import load_generator
from trainer.runs.published import PACKAGED, PublishedRun, named_run, publish
from trainer.viewer.handlers import RunViewer
from utils.errors import InputError

MAX_MEGABYTES = 6  # of a file of the package
SHIPPED = sorted(PACKAGED.glob("*.pt"))
SHAPES = {"category": "chair", "count": 4, "voxel_size": 16}
VIEWS = {"class_path": "renderers.ViewDistribution", "init_args": {}}
MODEL = {  # config of iggan()
    "class_path": "lightning_modules.IGGANModule",
    "init_args": {
        "generator": {
            "class_path": "networks.VoxelGenerator",
            "init_args": {"voxel_size": 16, "latent_size": 8, "width": 16},
        },
        "discriminator": {"class_path": "networks.DCGANDiscriminator", "init_args": {"image_size": 16, "width": 8}},
        "renderer": small_iggan.RENDERER,
        "neural_renderer": {
            "class_path": "renderers.DeferredNeuralRenderer",
            "init_args": {
                "network": {"class_path": "networks.ShadingNet", "init_args": {"width": 4}},
                "image_size": 16,
            },
        },
        "views": VIEWS,
        "generator_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
        "discriminator_optimizer": "lightning_modules.gan_step.adam_gan",  # how config.yaml has a default
        "shape_metrics": 4,
        "cache_dir": "/somewhere/else",
    },
}
DATA = {
    "class_path": "datamodules.ShapeNetRenderDataModule",
    "init_args": {
        "shapes": {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": SHAPES},
        "reference_shapes": {
            "class_path": "datamodules.shapes.ProceduralShapes",
            "init_args": {**SHAPES, "split": "test"},
        },
        "renderer": small_iggan.RENDERER,
        "views": VIEWS,
        "reference_images": 4,
        "batch_size": 2,
        "total_kimg": 0.004,
        "cache_dir": "/somewhere/cache",
    },
}


def iggan() -> IGGANModule:
    neural_renderer = DeferredNeuralRenderer(ShadingNet(width=4), 16)
    return small_iggan.iggan(generator=VoxelGenerator(16, latent_size=8, width=16), neural_renderer=neural_renderer)


def trained(module: Any) -> Any:
    """Make the generator's weights differ from their EMA, and advance the clock."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.generator.parameters():
            parameter.add_(torch.randn_like(parameter))
    module.step, module.images_seen = 70, 3000
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the small IG-GAN."""
    folder = tmp_path_factory.mktemp("runs") / "small" / "001"
    write_run(folder, trained(iggan()), MODEL)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "data": DATA, "trainer": {"callbacks": []}}))
    (folder / "command.txt").write_text(
        "python -m trainer fit --config small.yaml --run_dir /home/me/r --data.count=4\n"
    )
    lines = [{"kimg": k, "step": k * 70 // 3, "fid": 50.0 - k, "note": "extractor x"} for k in (0, 3, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "version.json").write_text(json.dumps({"unrender": "0", "torch": "2", "platform": "mine"}))
    return folder


@pytest.fixture(scope="module")
def file(run) -> Path:
    """The run as a published file."""
    path = run.parent / "small.pt"
    assert main(["publish", "--run_dir", str(run), "--out", str(path)]) == 0
    return path


def test_a_published_file_has_the_samples_of_its_run(run, file):
    ours, theirs = load_generator(run).module, load_generator(file).module
    numbers = torch.arange(8)
    before, after = (module.predict_step(numbers, 0)["occupancy"] for module in (ours, theirs))
    assert (before != after).any() and (before - after).abs().max() < 5e-3
    assert ((before > 0.5) != (after > 0.5)).float().mean() < 1e-3
    assert theirs.kimg == 3 and theirs.step == 70
    state = theirs.state_dict()
    for name, tensor in theirs.generator_ema.named_parameters():
        assert torch.equal(state[f"generator.{name}"], tensor)
    for name, tensor in ours.neural_renderer.state_dict().items():
        assert torch.allclose(state[f"neural_renderer.{name}"], tensor, rtol=1e-3, atol=1e-6)


def test_a_published_mesh_generator_has_the_samples_of_its_run(tmp_path):
    run = write_run(tmp_path / "heads" / "001", trained(meshgan()), MESHGAN)
    assert main(["publish", "--run_dir", str(run), "--out", "heads.pt"]) == 0
    before, after = (load_generator(path).module.predict_step(torch.arange(2), 0) for path in (run, "heads.pt"))
    for kind in ("vertices", "texture", "background", "image"):
        assert (before[kind] - after[kind]).abs().mean() < 2e-3, kind
    assert main(["export", "--run_dir", "heads.pt", "--seeds", "0"]) == 0
    assert Path("runs/published/heads/export/0000.glb").stat().st_size > 1000
    assert json.loads(RunViewer(load_generator("heads.pt")).about({}))["shape"] == "mesh"


def test_a_published_file_holds_no_paths_and_no_training_state(file):
    content = torch.load(file, weights_only=True)
    assert not [name for name in content["state_dict"] if name.startswith(("generator.", "discriminator."))]
    assert {tensor.dtype for tensor in content["state_dict"].values()} <= {torch.float16, torch.int64}
    config = yaml.safe_load(content["config"])
    assert config.keys() == {"seed_everything", "model", "data"}
    assert (
        not {"cache_dir", "extractor_weights", "generator_optimizer", "discriminator_optimizer"}
        & config["model"]["init_args"].keys()
    )
    assert "/" not in content["config"] and "torch" not in content["config"]
    note = content["note"]
    assert note["commands"] == ["python -m trainer fit --config small.yaml --data.count=4"]
    assert (note["kimg"], note["seed"], note["metrics"]["fid"]) == (3, 3, 47)
    assert note["versions"] == {"unrender": "0", "torch": "2"}


def test_paths_are_published_without_their_folders():
    config = {"data": {"root": "/data/ShapeNetCore.v2", "files": ["a/b.npz", "model/x.yaml"], "other": r"C:\x\y"}}
    kept = {"data": {"root": "ShapeNetCore.v2", "files": ["b.npz"], "other": "y"}}
    assert published.publishable(config) == kept == published.publishable(kept)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (
            ["--config", "/home/alice/secret/mine.yaml", "--data.root=/home/alice/Clients/acme", "--run_dir", "runs/x"],
            ["--config", "mine.yaml", "--data.root=acme"],
        ),
        (["--data.cache_dir", "/mnt/alice/", "--ckpt_path=/a/b.ckpt"], ["--data.cache_dir", "alice"]),
        (["--data.root", "../Clients/acme", "~/My Models/a=b/c"], ["--data.root", "acme", "c"]),
        ([r"--data.root=C:\Users\alice\set"], ["--data.root=set"]),
        (["--config=acme/mine.yaml", "--config", "chairs.yaml"], ["--config=mine.yaml", "--config", "chairs.yaml"]),
        (["--model", "model/iggan_deferred_32.yaml", "--model=model/meshgan"],) * 2,
        (["--model=/home/alice/model/meshgan.yaml"], ["--model=meshgan.yaml"]),
        (
            ['--data.shapes={"class_path": "datamodules.shapes.A", "init_args": {"root": "/home/a=b/c", "size": 0.5}}'],
            ['--data.shapes={"class_path": "datamodules.shapes.A", "init_args": {"root": "c", "size": 0.5}}'],
        ),
        (["--data.files", "[/home/alice/a, {/home/alice/b: 1}] # /home"], ["--data.files", '["a", {"b": 1}]']),
        (["--data.shapes={root: /home/alice/x"], ["--data.shapes=x"]),
        (["--a=https://host/a/b.zip", "--b=1/2", "--c=renderers.ViewDistribution", "--d={a: 1e-3}", "--e=0.5"],) * 2,
        (["--a=file:///home/alice/x"], ["--a=x"]),
    ],
)
def test_command_lines_are_published_without_directories(words, kept):
    start = ["python", "-m", "trainer", "fit"]
    assert shlex.split(_without_locations([*start, *words])) == [*start, *kept]


@pytest.mark.parametrize(
    ("command", "options", "written"),
    [
        ("export", ["--seeds", "0,1", "--formats", "glb"], "export/0001.glb"),
        ("figures", ["--rows", "1", "--columns", "2", "--size", "16", "--only", "samples,data"], "figures/samples.png"),
        ("shapes", ["--count", "2", "--points", "16", "--json"], None),
        ("predict", ["--model.samples=2", "--trainer.accelerator=cpu"], "predict/shapes/0001.glb"),
        ("validate", ["--model.shape_metrics=2", "--trainer.accelerator=cpu"], "validate/metrics.jsonl"),
        ("test", ["--model.shape_metrics=2", "--trainer.accelerator=cpu"], None),
    ],
)
def test_commands_read_published_files(file, capsys, command, options, written):
    assert main([command, "--run_dir", str(file), *options]) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert "untrained" not in printed.out + printed.err
    if written:
        assert (PublishedRun(file).path / written).stat().st_size > 0
    if command == "validate":
        (line,) = (PublishedRun(file).path / "validate/metrics.jsonl").read_text().splitlines()
        assert json.loads(line)["kimg"] == 3
        assert json.loads(line)["options"]["model.init_args.shape_metrics"] == 2


def test_predict_and_export_write_the_same_samples(file):
    assert main(["predict", "--run_dir", str(file), "--model.samples=1", "--trainer.accelerator=cpu"]) == 0
    assert main(["export", "--run_dir", str(file), "--seeds", "0", "--formats", "binvox"]) == 0
    shapes = PublishedRun(file).path
    assert (shapes / "predict/shapes/0000.binvox").read_bytes() == (shapes / "export/0000.binvox").read_bytes()


def test_no_two_files_share_an_output_directory(file):
    copies = [Path(name) for name in ("chairs.pt", "a/chairs.pt", "b/chairs.pt", "a/chairs.v2.pt", "../chairs.pt")]
    for copy in copies:
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    folders = [PublishedRun(path).path for path in (*copies, file, *SHIPPED)]
    assert [str(folder) for folder in folders[:3]] == [
        f"runs/published/{x}" for x in ("chairs", "a/chairs", "b/chairs")
    ]
    assert len({folder.resolve() for folder in folders}) == len(folders)
    assert all(folder.resolve().is_relative_to(Path("runs").resolve()) for folder in folders)
    assert PublishedRun(Path("chairs.pt").absolute()).path == PublishedRun(Path("a/../chairs.pt")).path == folders[0]
    assert [folder.parent for folder in folders[len(copies) + 1 :]] == [Path("runs/pretrained")] * len(SHIPPED)


def test_publish_replaces_published_generators_only(run, file, refused):
    Path("notes.txt").write_text("mine")
    torch.save({"state_dict": {}}, "last.ckpt")
    for name in ("notes.txt", "last.ckpt"):
        before = Path(name).read_bytes()
        error = refused("publish", "--run_dir", str(run), "--out", name)
        assert error == f"{name} exists and is not a published generator; pass another --out"
        assert Path(name).read_bytes() == before
    content = torch.load(file, weights_only=True)
    torch.save({**content, "note": {}}, "old.pt")
    assert main(["publish", "--run_dir", str(run), "--out", "old.pt"]) == 0
    assert PublishedRun(Path("old.pt")).note == content["note"]


def test_what_published_files_lack_is_said(file, run, refused):
    path = str(file)
    for config in ([], ["--config", "toy.yaml"]):
        assert "have neither the discriminator nor the optimizers" in refused("fit", *config, "--run_dir", path)
    assert "omit --ckpt_path" in refused("export", "--run_dir", path, "--ckpt_path", "best")
    assert "omit --ckpt_path" in refused("predict", "--run_dir", path, "--ckpt_path=best")
    assert "pass it as --run_dir" in refused("export", "--run_dir", str(run), "--ckpt_path", path)
    assert "is published already" in refused("publish", "--run_dir", path, "--out", "again.pt")
    assert "--out" in refused("publish", "--run_dir", str(run))
    assert "is not a run directory" in refused("compare", path)
    assert "has no config.yaml" in refused("view", "--run_dir", "pretrained/unknown", "--port", "0")


def test_publish_refuses_what_a_file_cannot_hold(run, tmp_path, refused):
    module = load_generator(run).module
    config = {"model": {**MODEL, "init_args": {"renderer": {"class_path": "toy.Blur"}}}}
    with pytest.raises(InputError, match=r"toy\.Blur is not a class of this project"):
        publish(tmp_path / "a.pt", module, config, {})
    with torch.no_grad():
        next(module.generator_ema.parameters()).fill_(1e6)
    with pytest.raises(InputError, match="not finite in half precision"):
        publish(tmp_path / "a.pt", module, {"model": MODEL}, {})
    assert not (tmp_path / "a.pt").exists()
    assert main(["fit", "--config", "toy.yaml"]) == 0
    assert "does not generate samples" in refused("publish", "--run_dir", "runs/toy/001", "--out", "a.pt", "--trust")


class Code:
    """Pickles to a call that writes a file."""

    def __reduce__(self) -> tuple:
        return Path("pwned").write_text, ("",)


def edit_config(change: Callable[[dict], None]) -> Callable[[dict], None]:
    """An edit of a file's config, as an edit of its content."""

    def edit(content: dict) -> None:
        config = yaml.safe_load(content["config"])
        change(config)
        content["config"] = yaml.safe_dump(config)

    return edit


def set_generator(value: Any) -> Callable[[dict], None]:
    return edit_config(lambda config: config["model"]["init_args"].update(generator=value))


def set_weight(value: Any) -> Callable[[dict], None]:
    return lambda content: content["state_dict"].update({"generator_ema.layers.0.weight": value})


WEIGHT = torch.zeros(8, 16, 4, 4, 4, dtype=torch.float16)
WIDE = {"class_path": "networks.VoxelGenerator", "init_args": {"voxel_size": 16, "latent_size": 8, "width": 10**7}}
BOMB = "a: &a [1]\nb: &b [*a" + ", *a" * 999 + "]\nc: [*b" + ", *b" * 999 + "]"
FOREIGN = "which is not a class of this project"
OTHER_PARTS = "its config has other parts than those of a generator"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["note"].update(code=Code()), "since it could run code"),
        (lambda content: content.update(state_dict=Code()), "since it could run code"),
        (set_generator({"class_path": "evil.Net"}), f"names evil.Net, {FOREIGN}"),
        (set_generator("evil.Net"), f"names evil.Net, {FOREIGN}"),
        (set_generator({"class_path": "torch.nn.Linear"}), f"names torch.nn.Linear, {FOREIGN}"),
        (set_generator({"class_path": "networks.voxel_generator.nn.Linear"}), FOREIGN),
        (set_generator({"class_path": "networks.voxel_generator.torch.hub.load"}), FOREIGN),
        (set_generator({"class_path": "utils.files.Path"}), FOREIGN),
        (set_generator({"class_path": "Linear"}), FOREIGN),
        (set_generator({"class_path": ["evil.Net"]}), FOREIGN),
        (edit_config(lambda config: config["model"].update(class_path="evil.Net")), FOREIGN),
        (edit_config(lambda config: config["model"]["init_args"].update(generator_optimizer="os.system")), OTHER_PARTS),
        (edit_config(lambda config: config["model"]["init_args"].update(extractor="os.system")), FOREIGN),
        (set_generator("{tmp_path}/evil.yaml"), OTHER_PARTS),
        (set_generator("{tmp_path}/evil"), OTHER_PARTS),
        (set_generator("../evil"), OTHER_PARTS),
        (set_generator({"base": "evil.yaml"}), OTHER_PARTS),
        (edit_config(lambda config: config.update(model="evil.yaml")), "no class_path for model"),
        (edit_config(lambda config: config.update(trainer={"callbacks": []})), OTHER_PARTS),
        (edit_config(lambda config: config["model"]["init_args"].update(cache_dir="x")), OTHER_PARTS),
        (edit_config(lambda config: config["data"]["init_args"].update(num_workers="${oc.env:HOME}")), "refers to"),
        (set_generator(WIDE), "do not fit into memory"),
        (set_generator({**WIDE, "init_args": {"voxel_size": 16, "latent_size": 8, "width": 8}}), "[8, 8, 4, 4, 4]"),
        (set_weight(WEIGHT[:4]), "is [4, 16, 4, 4, 4] instead of [8, 16, 4, 4, 4]"),
        (set_weight(WEIGHT.float()), "is of type torch.float32"),
        (set_weight(WEIGHT + torch.inf), "values that are not finite"),
        (set_weight(WEIGHT.to_sparse()), "is not an array of numbers"),
        (set_weight(WEIGHT.to("meta")), "is not an array of numbers"),
        (set_weight([0.0]), "is not an array of numbers"),
        (lambda content: content["state_dict"].pop("generator_ema.layers.0.weight"), "is in one of them only"),
        (lambda content: content["state_dict"].update(more=WEIGHT), "more is in one of them only"),
        (lambda content: content["clock"].update(images_seen=-1), "must be numbers of steps"),
        (lambda content: content["clock"].update(step="many"), "must be numbers of steps"),
        (lambda content: content.pop("note"), "it has no note"),
        (lambda content: content.update(config=BOMB), "with its aliases expanded"),
        (lambda content: content.update(config="model: ["), "line 1"),
        (lambda content: content.update(format="other"), "is not a file of publish"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(file, refused, tmp_path, monkeypatch, edit, message):
    monkeypatch.syspath_prepend(str(tmp_path))  # as in the command line, classes are found in the current directory
    content = torch.load(file, weights_only=True)
    edit(content)
    if isinstance(content.get("config"), str):
        content["config"] = content["config"].replace("{tmp_path}", str(tmp_path))
    torch.save(content, "bad.pt")
    Path("evil.py").write_text("from pathlib import Path\nPath('pwned').touch()\nclass Net: ...\n")
    for name in ("evil.yaml", "evil"):
        Path(name).write_text("class_path: evil.Net\n")
    refusal = refused("export", "--run_dir", "bad.pt")
    assert message in refusal and ("bad.pt" in refusal or "memory" in message)
    assert not Path("pwned").exists() and "evil" not in sys.modules


def test_lightning_commands_refuse_hostile_files(file, refused, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil.py").write_text("class Net: ...\n")
    content = torch.load(file, weights_only=True)
    for edit, message in ((set_weight(WEIGHT[:4]), "do not fit its config"), (set_generator("evil.Net"), FOREIGN)):
        bad = {**content, "state_dict": dict(content["state_dict"])}
        edit(bad)
        torch.save(bad, "bad.pt")
        assert message in refused("predict", "--run_dir", "bad.pt", "--trainer.accelerator=cpu")


def test_files_of_other_kinds_are_refused(file, refused):
    whole = file.read_bytes()
    Path("text.pt").write_text("hello")
    Path("pickle.pt").write_bytes(pickle.dumps(Code()))
    with zipfile.ZipFile(file) as source, zipfile.ZipFile("packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    for name, content in (("cut.pt", whole[: len(whole) // 2]), ("empty.pt", b""), ("end.pt", whole[:-10])):
        Path(name).write_bytes(content)
    for name in ("text.pt", "pickle.pt", "cut.pt", "empty.pt", "end.pt"):
        assert f"{name} " in refused("export", "--run_dir", name)
    assert "is compressed" in refused("export", "--run_dir", "packed.pt")
    assert not Path("pwned").exists()


def test_a_local_path_comes_before_the_package(run, refused):
    if not SHIPPED:
        pytest.skip("the package has no trained generators")
    name = f"pretrained/{SHIPPED[0].stem}"
    assert isinstance(named_run(name), PublishedRun)
    Path(name).mkdir(parents=True)
    assert f"{name} is not a run directory" in refused("export", "--run_dir", name)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_generators_are_small_and_make_shapes(path):
    assert path.stat().st_size <= MAX_MEGABYTES * 1e6
    name = f"pretrained/{path.stem}"
    assert main(["export", "--run_dir", name, "--seeds", "0-3", "--formats", "npz"]) == 0
    report = json.loads(Path(f"runs/{name}/export/report.json").read_text())
    assert report["kimg"] > 10
    assert all(shape["faces"] > 500 for shape in report["shapes"])
    arrays = [np.load(f"runs/{name}/export/{i:04}.npz") for i in (0, 1)]
    kind = "occupancy" if "occupancy" in arrays[0] else "vertices"
    assert np.abs(arrays[0][kind] - arrays[1][kind]).mean() > 1e-3
    note = named_run(name).note
    assert note["commands"] and note["metrics"]["kimg"] == pytest.approx(note["kimg"], rel=0.01)


@pytest.mark.slow
def test_view_opens_a_shipped_generator(environment, tmp_path):
    if not SHIPPED:
        pytest.skip("the package has no trained generators")
    name = f"pretrained/{SHIPPED[0].stem}"
    with viewing(tmp_path, environment, "--run_dir", name) as (url, _):
        with urlopen(f"{url}/about.json", timeout=60) as answer:
            assert json.load(answer)["name"] == f"pretrained {SHIPPED[0].stem}"
        with urlopen(f"{url}/shape.glb?a=1", timeout=60) as answer:
            assert answer.read(4) == b"glTF"
