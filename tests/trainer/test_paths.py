"""Paths: ``~`` is expanded everywhere, and files that cannot be opened are named."""

import errno
import os
from pathlib import Path

import pytest
import yaml

from trainer.__main__ import main
from utils.errors import InputError
from utils.files import cache_root

FIT = ["fit", "--config", "toy.yaml"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize("words", [["--run_dir=~/run"], ["--run_dir", "~/run"]])
def test_tilde_is_expanded_in_options(home, words, workplace):
    assert main([*FIT, *words]) == 0
    assert (home / "run" / "run.json").is_file()
    assert main(["validate", "--trust", *words]) == 0
    assert main(["compare", "--output=~/page.html", "~/run"]) == 0
    assert (home / "page.html").is_file()
    assert not (workplace / "~").exists()


def test_tilde_is_expanded_in_configs(home, workplace, capsys):
    (home / "part.yaml").write_text("init_args: {proxy_checkpoint: ~/weights.ckpt}")
    (workplace / "mine.yaml").write_text("{base: toy.yaml, model: {base: [model/gan.yaml, ~/part.yaml]}}")
    assert main(["fit", "--config", "mine.yaml", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["proxy_checkpoint"] == str(home / "weights.ckpt")
    assert config["model"]["init_args"]["image_size"] == 8


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNRENDER_CACHE")
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(InputError, match="set HOME or UNRENDER_CACHE"):
        cache_root()
    assert cache_root("here") == Path("here")
    with pytest.raises(InputError, match="set HOME or UNRENDER_CACHE"):
        cache_root("~nobody-has-this-name/cache")


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["render", f"{LONG}.obj"],
        ["render", f"{LONG}.yaml"],
        ["compare", LONG],
        ["fid", "--real", LONG, "--fake", LONG],
        ["export", "--run_dir", LONG],
        ["invert", "--run_dir", LONG, "--images", LONG],
        ["fit", "--config", f"{LONG}.yaml"],
        ["fit", "--config", "toy.yaml", "--run_dir", LONG],
    ],
)
def test_names_that_are_too_long_are_refused(refused, command):
    assert refused(*command).startswith("no such file or directory: xxxx")


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_options_that_are_not_utf8_are_refused(refused, command):
    sentence = refused(command, "--run_dir", os.fsdecode(b"r\xe9n"))
    assert sentence == r"'r\udce9n' is not UTF-8, which configs must be; rename the file or the directory"


@pytest.mark.parametrize("command", [FIT, ["compare", "run"]])
def test_a_protected_file_is_named(monkeypatch, refused, command):
    assert main([*FIT, "--run_dir", "run"]) == 0

    def protected(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/protected")

    monkeypatch.setattr("utils.files.write_atomically", protected)
    monkeypatch.setattr("trainer.commands.compare.write_page", protected)
    assert refused(*command).startswith("/protected cannot be opened: permission denied; change its permissions")
