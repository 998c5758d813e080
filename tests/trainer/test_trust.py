"""Hostile run directories, for each command that opens a run: without ``--trust``, no code that came with them runs."""

import json
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import small_iggan
import torch
import yaml
from view_run import write_run

from callbacks.html_report import write_report
from callbacks.monitor import DEFAULT
from configs import FOLDER
from trainer.__main__ import main
from trainer.cli.config_composition import compose
from trainer.cli.trust import check_class_paths, restricted_imports
from trainer.runs.loading import load_generator
from trainer.runs.run_directory import RunDirectory
from trainer.viewer.handlers import RunViewer
from trainer.viewer.server import PAGE
from utils.errors import InputError

EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
from networks import VoxelGenerator as Generator
from torch.optim import Adam
from pytorch_lightning import Callback
def optimizer(parameters) -> Adam:
    return Adam(parameters)
"""
SHAPES = {
    "class_path": "datamodules.shapes.ProceduralShapes",
    "init_args": {"category": "chair", "count": 4, "voxel_size": 16},
}
DATA = {
    "class_path": "datamodules.ShapeNetRenderDataModule",
    "init_args": {
        "shapes": SHAPES,
        "renderer": small_iggan.RENDERER,
        "views": {"class_path": "renderers.ViewDistribution"},
        "reference_images": 4,
        "batch_size": 4,
        "total_kimg": 0.004,
    },
}
IMG = "<img src=x onerror=alert(1)>"
LIGHTNING = ("fit", "validate", "test", "predict")
LOADING = ("view", "export", "figures", "shapes")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "voxels" / "001", small_iggan.iggan(), small_iggan.CONFIG)


@pytest.fixture
def run(stored, tmp_path, monkeypatch) -> Path:
    """A run, in a directory with a Python file that its config can name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(EVIL)
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").hardlink_to(stored / "checkpoints" / "last.ckpt")
    (folder / "run.json").write_text(json.dumps({"status": "interrupted"}))
    model = yaml.safe_load(yaml.safe_dump(small_iggan.CONFIG))
    model["init_args"] |= {"extractor": "renders_small", "extractor_weights": None}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    write_config(folder, {"seed_everything": 3, "model": model, "data": DATA, "trainer": trainer})
    yield folder
    sys.modules.pop("evil", None)


def write_config(run: Path, config: dict) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def sentence(capsys: pytest.CaptureFixture, words: list[str]) -> str:
    """The error of a command that may print progress before it."""
    assert main(words) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    return last


def change(run: Path, key: str, value: object) -> None:
    """Set one value of the run's config."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    write_config(run, config)


def executed() -> bool:
    return Path("executed").exists() or "evil" in sys.modules


COMMANDS = [
    *([name, "--run_dir", "run"] for name in (*LIGHTNING, *LOADING)),
    ["view", "--ckpt_path", "run/checkpoints/last.ckpt"],
    ["fit", "--config", "run/config.yaml"],
    ["prepare", "--config", "run/config.yaml"],
    ["figures", "--config", "run/config.yaml"],
    ["render", "run/config.yaml"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("section", ["model", "data"])
def test_every_command_refuses_classes_from_elsewhere(run, refused, words, section):
    if section == "model":
        if words[0] in ("prepare", "render") or words[:2] == ["figures", "--config"]:
            pytest.skip("the command needs no model")
        change(run, "model.init_args.generator.class_path", "evil.Generator")
    else:
        if words[0] in ("view", "export"):
            pytest.skip("the command needs no data")
        change(run, "data.init_args.shapes.class_path", "evil.Generator")
    assert "names evil.Generator; without --trust, a run loads only parts of unrender" in refused(*words)
    assert not executed()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.callbacks", [{"class_path": "evil.Callback"}]),
        ("trainer.logger", [{"class_path": "evil.Callback"}]),
        ("trainer.profiler", {"class_path": "evil.Callback"}),
        ("model.class_path", "os.system"),
        ("model.class_path", "networks.inception.torch.hub.load"),
        ("model.class_path", "trainer.tables.runner.subprocess.run"),
        (
            "model.init_args.generator.init_args.voxel_size",
            {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}},
        ),
        ("trainer.callbacks", [{"class_path": "pytorch_lightning.callbacks.LambdaCallback"}]),
        ("trainer.logger", {"class_path": "pytorch_lightning.loggers.MLFlowLogger"}),
    ],
)
def test_other_sections_are_checked_as_well(run, refused, key, value):
    change(run, key, value)
    name = value if isinstance(value, str) else (value if isinstance(value, dict) else value[0])["class_path"]
    assert f"run/config.yaml names {name}; without --trust" in refused("validate", "--run_dir", "run")
    assert not executed()


@pytest.mark.parametrize(
    "words", [["export", "--run_dir", "run"], ["validate", "--run_dir", "run"]], ids=lambda x: x[0]
)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generator", "evil.Generator"),
        ("generator", "part.yaml"),
        ("generator", {"class_path": "${seed_everything}"}),
        ("generator_optimizer", "evil.optimizer"),
        ("generator_optimizer", {"class_path": "Generator"}),
        ("generator_optimizer", "os.system"),
        ("generator_optimizer", "lightning_modules.base.os.system"),
        ("sample_seed", "${oc.env:HOME}"),
    ],
)
def test_names_that_are_not_written_as_class_paths_are_not_imported(run, refused, words, key, value, monkeypatch):
    Path("part.yaml").write_text("{class_path: evil.Generator}")
    monkeypatch.setenv("HOME", "/secret")
    change(run, f"model.init_args.{key}", value)
    change(run, "seed_everything", "evil.Generator" if "seed_everything" in str(value) else 3)
    assert "secret" not in refused(*words)
    assert not executed()


def test_yaml_tags_aliases_and_options_in_the_config_are_refused(run, refused):
    original = (run / "config.yaml").read_text()
    for more, message in (
        ("x: !!python/object/apply:os.system ['touch executed']\n", "could not determine a constructor"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)),
            "aliases expanded",
        ),
        ("fresh: true\n", "has the key fresh, which is an option of the command line"),
        ("run_dir: elsewhere\n", "has the key run_dir"),
    ):
        (run / "config.yaml").write_text(original + more)
        assert message in refused("validate", "--run_dir", "run")
        if "key" not in message:
            assert message in refused("compare", "run")
    assert not executed()


def test_a_config_of_a_proxy_is_not_trained(run, refused, monkeypatch):
    Path("proxy.yaml").write_text("{model: {class_path: evil.Generator}}")
    change(run, "model.init_args.proxy_checkpoint", str(Path("proxy.yaml").resolve()))
    (run / "checkpoints" / "last.ckpt").unlink()
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a training was started"))
    assert "a config to train first; pass --trust" in refused("fit", "--run_dir", "run")


@pytest.mark.parametrize(
    "words",
    [*COMMANDS[: len(LIGHTNING) + len(LOADING)], ["compare", "run"], ["export-extractor", "run", "weights.pt"]],
    ids=lambda words: words[0],
)
def test_links_to_files_outside_of_the_run_are_refused(run, refused, words):
    Path("private").mkdir()
    (run / "samples").symlink_to(Path("private").resolve())
    assert "run/samples is a link to a file outside of the run; remove it, or pass --trust" in refused(*words)
    (run / "samples").unlink()
    (run / "inside").symlink_to("config.yaml")
    if words[0] == "compare":
        assert main(words) == 0


def test_trust_and_the_users_own_words_allow_other_classes(run):
    change(run, "model.init_args.generator.class_path", "evil.Generator")
    assert main(["export", "--run_dir", "run", "--seeds", "0", "--formats", "npz", "--trust"]) == 0
    assert executed()
    with pytest.raises(InputError, match="pass --trust if you trust the run"):
        load_generator("run")
    assert load_generator("run", device="cpu", trust=True).module.generator is not None


def test_options_may_name_classes_that_a_runs_config_may_not(run, capsys):
    words = ["validate", "--run_dir", "run", "--trainer.callbacks={class_path: evil.Callback}", "--print_config"]
    assert main(words) == 0
    assert "class_path: evil.Callback" in capsys.readouterr().out and executed()


@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.nn.modules.module.torch.load",
        "networks.inception.torch.hub.load",
        "callbacks.html_pages.Path",
        "lightning_modules.base.pl.callbacks.LambdaCallback",
        "torch.nn.functional.relu",
        "datamodules.base.DataLoader",
        "pytorch_lightning.loggers.wandb.WandbLogger",
        "utils.torch_io.load_state",
        "trainer.load_run",
        "torch.fx.GraphModule",
        "builtins.eval",
    ],
)
def test_only_parts_are_allowed_and_only_where_they_are_defined(name):
    with pytest.raises(InputError, match=rf"^there names {name}; "):
        check_class_paths({"a": [{"class_path": name}]}, False, "there")
    check_class_paths({"a": [{"class_path": name}]}, True, "there")


def test_all_classes_of_the_projects_configs_are_allowed():
    for path in FOLDER.rglob("*.yaml"):
        check_class_paths(compose([path]).values, False, str(path))
    more = ("torch.nn.ReLU", "torch.optim.SGD", "pytorch_lightning.callbacks.EarlyStopping", "networks.Missing")
    check_class_paths({"a": [{"class_path": name} for name in more]}, False, "there")


def test_the_limits_end_with_their_context():
    import jsonargparse
    from jsonargparse._common import parsing_settings
    from omegaconf import OmegaConf

    before = {key: str(value) for key, value in parsing_settings.items()}
    with restricted_imports(["--model.class_path=mine.Model", "--trainer.profiler=os.x"]):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--a", type=type)
        for name, allowed in (("torch.nn.ReLU", True), ("zipimport.zipimporter", False), ("os.DirEntry", False)):
            try:
                parser.parse_args([f"--a={name}"])
                assert allowed, name
            except jsonargparse.ArgumentError:
                assert not allowed, name
        assert parsing_settings["import_path_verdicts"]["mine"]
        assert not OmegaConf.has_resolver("oc.env")
    assert {key: str(value) for key, value in parsing_settings.items()} == before
    assert OmegaConf.has_resolver("oc.env")


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("words", COMMANDS[: len(LIGHTNING) + len(LOADING)], ids=lambda words: words[0])
@pytest.mark.parametrize("kind", ["code", "compressed", "clock", "weights"])
def test_checkpoints_are_refused_that_hold_code_or_other_values(run, capsys, words, kind):
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    path.unlink()
    if kind == "code":
        content["extra"] = Evil()
    if kind == "clock":
        content["clock"] = {"step": [1], "images_seen": "many"}
    if kind == "weights":
        content["state_dict"] = dict.fromkeys(content["state_dict"], "text")
    torch.save(content, path)
    if kind == "compressed":
        with zipfile.ZipFile(path) as file, zipfile.ZipFile("small", "w", zipfile.ZIP_DEFLATED) as small:
            for name in file.namelist():
                small.writestr(name, file.read(name))
        Path("small").replace(path)
    message = sentence(capsys, words)
    expected = {
        "code": "holds more than data",
        "compressed": "is compressed",
        "clock": "position in the run is invalid",
        "weights": "last.ckpt",
    }
    assert expected[kind] in message
    assert not executed()


class Tags(HTMLParser):
    """The tags of a page and the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, [name for name, _ in attrs]))

    @property
    def active(self) -> int:
        """Elements that run code when the page is opened."""
        handlers = [name for _, names in self.found for name in names if name.startswith("on")]
        return len(handlers) + sum(tag in ("script", "iframe", "object", "embed", "link") for tag, _ in self.found)


@pytest.fixture
def scripted(run) -> Path:
    """A run whose name, files, config and metrics contain HTML, mathematics and control characters."""
    folder = run.rename(f"{IMG}'\"$\\x^$\x1b[31m\udc80")
    change(folder, "seed_everything", f"{IMG}\x1b]0;title\x07")
    change(folder, "trainer.logger", f"</td></pre><script>alert(1)</script>{IMG}")
    (folder / "run.json").write_text(json.dumps({"status": f"{IMG}\x1b[2J", "experiment": "../../escaped", "pid": "x"}))
    (folder / "command.txt").write_text(f"</pre>{IMG}")
    line = {"step": 1, "kimg": 1.0, "fid": 3.0, "note": f"$\\frac{{{IMG}"}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"step": 2, IMG: 1.0}) + "\n")
    (folder / "samples").mkdir()
    (folder / "samples" / "1<img onerror=x>kimg.png").write_bytes(b"no image")
    (folder / "shapes").mkdir()
    (folder / "shapes" / '"><img onerror=x>.glb').write_bytes(b"no mesh")
    return folder


def test_strings_of_a_run_are_escaped_on_the_page_of_compare(scripted, capsys):
    assert main(["compare", str(scripted), "--output", "page.html"]) == 0
    tags = Tags(Path("page.html").read_text())
    assert tags.active == 1, tags.found  # the script of the page itself
    assert "\x1b" not in capsys.readouterr().out


def test_strings_of_a_run_are_escaped_in_its_report(scripted):
    tags = Tags(write_report(scripted, DEFAULT).read_text())
    assert tags.active == 1, tags.found


def test_strings_of_a_run_reach_the_viewer_as_data(scripted, capsys):
    viewer = RunViewer(load_generator(scripted, device="cpu"))
    name = json.loads(viewer.about({}))["name"]
    assert IMG in name and "\x1b" not in name
    script = (PAGE / "view.js").read_text()  # which sets text and attributes only
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script


def test_the_name_of_an_experiment_does_not_leave_the_runs_directory(scripted):
    assert RunDirectory(scripted).experiment is None
    (scripted / "run.json").write_text(json.dumps({"experiment": "demo_small-2"}))
    assert RunDirectory(scripted).experiment == "demo_small-2"


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "kimg": 1, "note": "", "fid": "3"}',
        '{"step": 1, "kimg": 1, "note": "", "fid": 1' + "0" * 400 + "}",
        '{"step": 1, "kimg": 1, "note": {}}',
        '{"step": 1, "kimg": 1, "note": "", "seconds": []}',
        "[" * 100_000,
    ],
)
def test_metrics_that_are_not_numbers_are_reported(run, refused, line):
    (run / "metrics.jsonl").write_text(line + "\n")
    assert "metrics.jsonl, line 1: not an evaluation" in refused("compare", "run")


@pytest.mark.parametrize(("key", "value"), [("monitor", "note"), ("monitor", ["fid"]), ("mode", "best")])
def test_a_monitor_of_another_type_is_reported(run, refused, key, value):
    (run / "metrics.jsonl").write_text('{"step": 1, "kimg": 1, "note": ""}\n')
    change(run, key, value)
    assert "config.yaml: monitor must be the name of a metric" in refused("compare", "run")


def test_configs_with_values_that_json_does_not_have_are_compared(run, capsys):
    text = (run / "config.yaml").read_text()
    (run.parent / "other").mkdir()
    (run.parent / "other" / "config.yaml").write_text(text)
    (run / "config.yaml").write_text(f"{text}\na: 2026-01-01\nb: !!binary aGk=\n1: !!set {{x, y}}\n")
    assert main(["compare", "run", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["a"] == ["2026-01-01", None]
