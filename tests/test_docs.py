"""README and docs stay correct: links, line counts, files and Python blocks, commands, and the site build."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from trainer.__main__ import COMMANDS, main, options_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["../README.md", "../CONTRIBUTING.md", *(path.name for path in sorted(DOCS.glob("*.md")))]
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
EXPERIMENT_COMMANDS = ("fit", "validate", "test", "predict")
SMALL_RUN = [
    "--trainer.fast_dev_run=2",
    "--trainer.accelerator=cpu",
    "--data.batch_size=2",
    "--data.total_kimg=0.004",
    "--data.images=4",
    "--data.reference_images=4",
    "--model.generator.width=16",
    "--model.neural_renderer.network.width=16",
]


def read_page(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def commands_of(text: str) -> list[list[str]]:
    """The words of each command of the shell blocks, without comments."""
    shell = [block["text"] for block in BLOCK.finditer(text) if not block["file"] and not block["language"]]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.lstrip().startswith(("python ", "unrender "))]


def trainer_arguments(words: list[str]) -> list[str]:
    """What follows ``unrender`` or ``python -m trainer``."""
    return words[1:] if words[0] == "unrender" else words[words.index("trainer") + 1 :]


def follow(page: str, after: str = "") -> list[list[str]]:
    """Write the files of a page and run its Python blocks, in order; return its commands."""
    text = read_page(page).partition(after)[2] if after else read_page(page)
    for block in BLOCK.finditer(text):
        if block["file"]:
            Path(block["file"]).write_text(block["text"], encoding="utf-8")
        elif block["language"] == "python":
            exec(compile(block["text"], f"docs/{page}", "exec"), {})
    return commands_of(text)


@pytest.fixture
def user_directory(tmp_path, monkeypatch):
    """A current directory outside of the project, from which Python imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("xray", "balls", "heights", "lsgan", "discs"):
        sys.modules.pop(name, None)


def small_run(*without: str) -> list[str]:
    return [option for option in SMALL_RUN if not any(part in option for part in without)]


@pytest.mark.parametrize("page", PAGES)
def test_links_name_existing_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read_page(page)):
        if not target.startswith("http"):
            assert ((DOCS / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_source_files_exist(page):
    """Paths such as ``renderers/base.py`` and ``tests/ddp`` in code spans are those of the project."""
    directories = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier())
    for path in re.findall(rf"`((?:{directories})/[\w/.]+)`", read_page(page)):
        if not path.startswith("runs/"):
            assert (ROOT / path).exists() or (ROOT / "configs" / path).exists(), path


def test_readme_has_at_most_100_lines():
    assert len(read_page("../README.md").splitlines()) <= 100


def test_changelog_describes_the_current_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def own_files() -> set[str]:
    """The files that the pages ask the reader to write."""
    return {block["file"] for page in PAGES for block in BLOCK.finditer(read_page(page)) if block["file"]}


def documented_commands() -> list[list[str]]:
    """The arguments of every ``unrender`` command, and of ``fit`` where a cluster script runs it."""
    arguments = []
    for page in PAGES:
        text = read_page(page)
        arguments += [trainer_arguments(w) for w in commands_of(text) if w[0] == "unrender" or "trainer" in w]
        for config, options in re.findall(r"configs/cluster/(?:slurm|torchrun)\.sh (\S+\.yaml)([^\n`]*)", text):
            arguments.append(["fit", "--config", config, *shlex.split(options, comments=True)])
    for words in [words for words in arguments if words[0] == "table" and "--" in words]:
        arguments.append(["fit", "--config", "demo.yaml", *words[words.index("--") + 1 :]])
        del words[words.index("--") :]
    return [words for words in arguments if not own_files() & set(words)]


def test_documented_options_exist():
    commands = documented_commands()
    assert set(COMMANDS) - {name for name, *_ in commands} <= {
        "completion",
        "test",
    }  # the others are shown on some page
    for name, *words in commands:
        if name not in EXPERIMENT_COMMANDS:  # an option that does not exist is an InputError
            options_of(name).parse_args([word for word in words if not word.startswith("--data.")])


def experiments() -> set[tuple[str, ...]]:
    """The documented options of ``fit`` and its like, without the run directory, which does not exist here."""
    found = set()
    for name, *words in documented_commands():
        if name in EXPERIMENT_COMMANDS:
            if "--run_dir" in words:
                at = words.index("--run_dir")
                run = Path(words[at + 1])
                words[at : at + 2] = []
                if "--config" not in words:
                    words = ["--config", "heads.yaml" if run.parent.name == "heads" else "demo.yaml", *words]
            found.add(tuple(words))
    return found


@pytest.mark.slow
def test_documented_experiments_compose(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in sorted(experiments()):
        if len(words) > 2:  # tests/test_configs.py builds every config as it is
            assert main(["fit", *words, "--print_config"]) == 0, (words, capsys.readouterr().err)


def test_fit_a_shape_and_add_your_own_renderer(user_directory):
    (fit,) = follow("renderers.md", "## Fit a shape to images")
    assert trainer_arguments(fit) == ["fit", "--config", "xrays.yaml"]
    assert main(["fit", "--config", "xrays.yaml", *SMALL_RUN]) == 0


@pytest.mark.slow
def test_add_your_own_generator_discriminator_metric_and_method(user_directory, capsys):
    balls, heights, monitored, lsgan = map(trainer_arguments, follow("methods.md"))
    assert balls == ["fit", "--config", "balls.yaml"] and lsgan == ["fit", "--config", "lsgan.yaml"]
    assert main([*balls, *small_run("generator.width")]) == 0
    assert main([*lsgan, *small_run("neural_renderer")]) == 0
    assert monitored[: len(heights)] == heights
    assert main([*monitored, *SMALL_RUN]) == 0
    assert "best height" in capsys.readouterr().out


def test_write_a_data_module(user_directory):
    (fit,) = follow("python.md", "## Write a data module")
    assert (
        main([*trainer_arguments(fit), "--trainer.fast_dev_run=1", "--data.count=4", "--model.generator.width=16"]) == 0
    )


@pytest.mark.slow
def test_train_in_a_script_with_spawned_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (python, script), *_ = follow("python.md", "## Train in a script")
    assert (python, script) == ("python", "train_chairs.py")
    with Path(script).open("a", encoding="utf-8") as file:
        file.write(
            "    assert (module.step, module.images_seen) == (8, 128)\n"
            "    same = module.shapes(module.latents(4, 'mine'))\n"
            "    assert torch.allclose(same.occupancy, shapes.occupancy, atol=1e-5)\n"
        )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "64 generated against 64 real images" in done.stdout
    known = {script, "discs.py", "discs.yaml", "lightning_logs", "__pycache__"}
    assert {path.name for path in tmp_path.iterdir()} <= known  # no run directory


def test_train_on_your_own_shapes(user_directory):
    render, fit = (trainer_arguments(words) for words in follow("data.md", "## Meshes or voxels"))
    assert fit == ["fit", "--config", "meshes.yaml", "--data.shapes.root=DIR"]
    Path("DIR").mkdir()
    for i in range(12):
        trimesh.creation.box((0.2 + 0.05 * i, 1.0, 0.4)).export(f"DIR/{i:02}.obj")
    assert main(render) == 0 and len(list(Path("look").rglob("*.png"))) == 3
    assert main([*fit, *SMALL_RUN]) == 0


@pytest.mark.slow
def test_site_builds_without_warnings_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.glob("*.html"))
    assert {page.stem for page in DOCS.glob("*.md")} <= {page.stem for page in pages}
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page.read_text())
        assert not [target for target in loaded if re.match(r"(https?:)?//", target)], page.name
    for style_sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style_sheet.read_text()), style_sheet
