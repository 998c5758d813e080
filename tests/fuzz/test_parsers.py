"""A short run of ``make fuzz``: some mutated files for every parser, and files from hypothesis."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import ChanterelleDataModule, FFHQDataModule
from datamodules.images import sources
from datamodules.images.image_set import open_images
from datamodules.shapes import VoxelArchive, archive, write_archive
from fuzz.targets import TARGETS, checkpoint
from fuzz.trial import inputs, judge
from renderers import InputError
from trainer.cli.config_composition import compose
from trainer.runs.checkpoints import check
from utils.torch_io import load_state

INPUTS = 12
EXPECTED = ("read", "refused")


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_raise_one_sentence(name, tmp_path):
    target = TARGETS[name]
    path = target.prepare(tmp_path)
    content = path.read_bytes()
    assert judge(target, path, content) == ("read", "")
    for number, mutated in enumerate(inputs(content, 1, 0, max(4, int(INPUTS * target.share)))):
        verdict, details = judge(target, path, mutated)
        assert verdict in EXPECTED, f"input {number}: {verdict}: {details}"


@pytest.mark.parametrize("name", ["binvox", "OBJ", "YAML", "table", "evaluations", "archive", "checkpoint", "PNG"])
def test_hypothesis_files_raise_one_sentence(name, tmp_path):
    target = TARGETS[name]
    path = target.prepare(tmp_path)
    content = path.read_bytes()

    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(0, len(content)), st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.integers(0, 40)
    )
    def check_mutation(at, inserted, removed):
        verdict, details = judge(target, path, content[:at] + inserted + content[at + removed :])
        assert verdict in EXPECTED, f"{verdict}: {details}"

    check_mutation()


class Trap:
    """Unpickling this calls ``print``."""

    def __reduce__(self):
        return print, ("run",)


def test_no_code_is_executed(tmp_path, capsys):
    torch.save(checkpoint(more=Trap()), tmp_path / "trap.ckpt")
    torch.save(checkpoint(more=Trap()), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(Trap()))
    for name in ("trap", "old", "bare"):
        for read in (check, load_state):
            with pytest.raises(
                InputError, match=rf"{name}\.ckpt ((holds|contains) more than data|is not|cannot be loaded)"
            ):
                read(tmp_path / f"{name}.ckpt")
    arrays = {
        f"{kind}_{split}": np.array([Trap()], object) for kind in ("voxels", "labels") for split in ("train", "test")
    }
    np.savez(tmp_path / "trap.npz", class_names=np.array([Trap()], object), shape=np.array([Trap()], object), **arrays)
    with pytest.raises(InputError, match=r"trap\.npz is not a voxel archive"):
        VoxelArchive(tmp_path / "trap.npz", "a")
    (tmp_path / "trap.yaml").write_text("a: !!python/object/apply:builtins.print [run]\n")
    with pytest.raises(InputError, match=r"trap\.yaml, line 1"):
        compose([tmp_path / "trap.yaml"])
    assert "run" not in capsys.readouterr().out


def test_yaml_bombs_raise(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"bomb.yaml has .* values with its aliases expanded"):
        compose([tmp_path / "bomb.yaml"])
    (tmp_path / "loop.yaml").write_text("a: &a [*a]")
    with pytest.raises(InputError, match=r"loop.yaml.*an alias contains itself"):
        compose([tmp_path / "loop.yaml"])


def test_decompression_bombs_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(2**20 + 1))
    with pytest.raises(InputError, match=r"a\.png cannot be read \(it decompresses to more than 1 MiB\)"):
        FFHQDataModule(tmp_path / "bomb.zip", image_size=8).prepare_data()
    (tmp_path / "wide").mkdir()
    Image.new("1", (2**14, 2**13), 1).save(tmp_path / "wide" / "a.png")
    with pytest.raises(InputError, match=r"a\.png has 16384×8192 pixels, more than the limit of 64 Mi"):
        FFHQDataModule(tmp_path / "wide", image_size=8).prepare_data()
    with pytest.raises(InputError, match=r"1 of 1 images .* cannot be read: a\.png"):
        open_images(tmp_path / "wide")
    with pytest.raises(InputError, match=r"1 unreadable \(a.png\)"):
        ChanterelleDataModule(tmp_path / "wide", image_size=8).reference()
    empty = {split: np.zeros((64, 64, 64, 64), bool) for split in ("train", "test")}
    write_archive(tmp_path / "bomb.npz", empty, {split: np.zeros(64, int) for split in empty}, ["a"])
    VoxelArchive(tmp_path / "bomb.npz", "a")  # 2 MiB are below the limit
    monkeypatch.setattr(archive, "MAX_FREE_BYTES", 2**20)
    with pytest.raises(
        InputError, match=r"'voxels_train' decompresses from .* to 2,097,152 bytes, which is not plausible"
    ):
        VoxelArchive(tmp_path / "bomb.npz", "a")


def test_zip_members_do_not_escape_the_archive(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "outside.png")
    inside = (tmp_path / "inside").mkdir() or tmp_path / "inside"
    with zipfile.ZipFile(inside / "set.zip", "w") as file:
        for name in ("../outside.png", str(tmp_path / "outside.png"), "a\x1b[31m.png"):
            file.writestr(name, b"not an image")
    with pytest.raises(InputError) as refused:
        FFHQDataModule(inside / "set.zip", image_size=8).prepare_data()
    assert "\x1b" not in refused.value.message
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inside", "outside.png", "set.zip"]
