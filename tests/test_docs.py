"""What the docs tell the reader to type works: files as they stand, Python blocks, commands."""

import re
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
QUICKLY = [
    "--trainer.fast_dev_run=2",
    "--trainer.accelerator=cpu",
    "--data.init_args.batch_size=2",
    "--data.init_args.total_kimg=0.004",
    "--data.init_args.pictures=4",
    "--data.init_args.reference_pictures=4",
    "--model.init_args.generator.init_args.width=16",
    "--model.init_args.neural_renderer.init_args.network.init_args.width=16",
]


@pytest.mark.parametrize("page", [p.name for p in sorted(DOCS.glob("*.md"))])
def test_pages_name_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text()):
        if not target.startswith("http"):
            assert (DOCS / target).exists(), target


def test_add_your_own_renderer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = []
    for block in BLOCK.finditer((DOCS / "renderers.md").read_text().split("## Add your own renderer")[1]):
        if block["file"]:
            Path(block["file"]).write_text(block["text"])
        elif block["language"] == "python":
            exec(compile(block["text"], "docs/renderers.md", "exec"), {})
        else:
            commands += [
                line.split()[3:] for line in block["text"].splitlines() if line.startswith("python -m trainer")
            ]
    assert commands == [["fit", "--config", "xrays.yaml"]]
    for command in commands:
        assert main([*command, *QUICKLY]) == 0
    sys.modules.pop("xray")
