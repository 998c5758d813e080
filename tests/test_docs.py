"""What the docs tell the reader to type works: files as they stand, Python blocks, commands."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from trainer.__main__ import main

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
QUICKLY = [
    "--trainer.fast_dev_run=2",
    "--trainer.accelerator=cpu",
    "--data.init_args.batch_size=2",
    "--data.init_args.total_kimg=0.004",
    "--data.init_args.images=4",
    "--data.init_args.reference_images=4",
    "--model.init_args.generator.init_args.width=16",
    "--model.init_args.neural_renderer.init_args.network.init_args.width=16",
]


@pytest.mark.parametrize("page", ["../README.md", *(p.name for p in sorted(DOCS.glob("*.md")))])
def test_pages_name_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
        if not target.startswith("http"):
            assert ((DOCS / page).parent / target).exists(), target


def typed(page: str, after: str = "") -> list[list[str]]:
    """Write a page's files, run its Python blocks in order; returns its commands."""
    commands = []
    for block in BLOCK.finditer((DOCS / page).read_text().partition(after)[2] if after else (DOCS / page).read_text()):
        if block["file"]:
            Path(block["file"]).write_text(block["text"])
        elif block["language"] == "python":
            exec(compile(block["text"], f"docs/{page}", "exec"), {})
        else:
            commands += [line.split() for line in block["text"].splitlines() if line.startswith("python ")]
    return commands


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of the reader's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("xray", "balls", "lsgan"):
        sys.modules.pop(name, None)


def quickly(*left_out: str) -> list[str]:
    return [option for option in QUICKLY if not any(part in option for part in left_out)]


def test_add_your_own_renderer(elsewhere):
    assert typed("renderers.md", "## Add your own renderer") == [
        ["python", "-m", "trainer", "fit", "--config", "xrays.yaml"]
    ]
    assert main(["fit", "--config", "xrays.yaml", *QUICKLY]) == 0


def test_add_your_own_generator_and_method(elsewhere):
    fit = ["python", "-m", "trainer", "fit", "--config"]
    assert typed("methods.md") == [[*fit, "balls.yaml"], [*fit, "lsgan.yaml"]]
    assert main(["fit", "--config", "balls.yaml", *quickly("generator.init_args.width")]) == 0
    assert main(["fit", "--config", "lsgan.yaml", *quickly("neural_renderer")]) == 0


def test_train_on_your_own_shapes(elsewhere, monkeypatch):
    pack, render, fit = typed("data.md", "## Meshes or voxels")
    assert (pack, fit[3:]) == (["python", "pack.py", "meshes"], ["fit", "--config", "mine.yaml"])
    Path("meshes").mkdir()
    for i in range(12):
        trimesh.creation.box((0.2 + 0.05 * i, 1.0, 0.4)).export(f"meshes/{i:02}.obj")
    monkeypatch.setattr(sys, "argv", pack[1:])
    runpy.run_path("pack.py", run_name="__main__")
    assert main(render[3:]) == 0 and list(Path("look").rglob("*.png"))
    assert main(["fit", "--config", "mine.yaml", *QUICKLY]) == 0


def test_the_site_builds_without_warnings_and_asks_for_no_network(tmp_path):
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
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet
