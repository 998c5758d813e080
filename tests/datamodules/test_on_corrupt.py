"""Unreadable images: named in an error, or skipped and logged once."""

import errno
import logging
import os
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from masked_photographs import write_photographs
from PIL import Image

from datamodules import ChanterelleDataModule, FFHQDataModule
from datamodules.images.decoding import decoders
from datamodules.images.image_set import open_images
from utils.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Eight images, of which the first and the sixth are truncated."""
    root = tmp_path / "set"
    root.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    for i in (0, 5):
        (root / f"{i}.png").write_bytes((root / f"{i}.png").read_bytes()[:300])
    return root


def module(folder, **options) -> FFHQDataModule:
    return FFHQDataModule(
        folder, **{"image_size": 8, "batch_size": 2, "total_kimg": 0.012, "on_corrupt": "skip"} | options
    )


def test_corrupt_photographs_are_skipped_and_logged(folder, caplog):
    data = module(folder)
    data.prepare_data()
    assert [r.message for r in caplog.records] == [
        f"{folder}: 6 images read; 2 files left out: 2 unreadable (0.png, 5.png)"
    ]
    assert data.indices.tolist() == [1, 2, 3, 4, 6, 7] == data.reference_indices
    assert len(data.reference()) == len(data.training_indices) == 6
    assert sum(len(batch[0]) for batch in data.train_dataloader()) == 12
    again = module(folder)
    again.reader.check = None  # the result is cached: nothing is decoded again
    assert again.indices.tolist() == data.indices.tolist()


def test_skipped_images_do_not_shift_the_held_out_split(folder):
    data = module(folder, held_out=4)
    assert data.training_indices.tolist() == [1, 2, 3] and data.reference_indices == [4, 6, 7]
    (folder / "4.png").write_bytes(b"")
    data = module(folder, held_out=4, mirror=True)
    assert data.training_indices.tolist() == [1, 2, 3] and data.reference_indices == [6, 7]
    assert len(data.train_dataloader().dataset) == 6
    with pytest.raises(InputError, match="none of the 1 held-out images can be read"):
        (folder / "7.png").write_bytes(b"")
        module(folder, held_out=1).prepare_data()


def test_only_unreadable_images_are_skipped(folder):
    with pytest.raises(InputError, match=r"2 corrupt or not of a supported image format \(0\.png, 5\.png\)"):
        module(folder, on_corrupt="raise").prepare_data()
    Image.new("RGB", (20, 20)).save(folder / "6.png")
    with pytest.raises(InputError, match=r"6\.png is 20×20, expected 16×16"):
        module(folder).prepare_data()


def test_all_images_unreadable_raises(folder):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 8 images"):
        module(folder).prepare_data()
    with pytest.raises(InputError, match="none of 8 images"):
        open_images(folder, "skip")


def test_corrupt_images_of_a_comparison_are_skipped(folder, caplog):
    images = open_images(folder, "skip")
    assert len(images) == 6 and sum(len(batch) for batch in images.batches(4)) == 6
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    with pytest.raises(InputError, match="2 of 8 images"):
        list(open_images(folder).batches(4))


def test_a_corrupt_colour_image_does_not_make_a_grey_set_coloured(folder):
    for i in (1, 2, 3, 4, 6, 7):
        Image.open(folder / f"{i}.png").convert("L").save(folder / f"{i}.png")
    assert open_images(folder, "skip").shape == (1, 16, 16)


def test_corrupt_masked_photographs_are_skipped(tmp_path, caplog):
    root = write_photographs(tmp_path / "photographs")
    whole = ChanterelleDataModule(root, image_size=8).reference()
    (root / "train" / "broken.png").write_bytes((root / "train" / "0.png").read_bytes()[:400])
    with pytest.raises(InputError, match=r"1 unreadable \(train/broken.png\)"):
        ChanterelleDataModule(root, image_size=8).reference()
    assert torch.equal(ChanterelleDataModule(root, image_size=8, on_corrupt="skip").reference(), whole)
    assert "6 images read; 5 files left out: 1 unreadable (train/broken.png), 4 identical to others" in caplog.text


@pytest.mark.parametrize(
    "error",
    [*(OSError(number, os.strerror(number)) for number in (errno.EACCES, errno.EIO, errno.ESTALE)), MemoryError()],
)
def test_temporary_failures_are_not_remembered(folder, monkeypatch, error):
    read_bytes = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "3.png":
            raise error
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        assert module(folder).indices.tolist() == [1, 2, 4, 6, 7]
    assert module(folder).indices.tolist() == [1, 2, 3, 4, 6, 7]


def test_other_decoders_check_images_again(folder, monkeypatch):
    assert module(folder).indices.tolist() == [1, 2, 3, 4, 6, 7]
    checked = []

    def again() -> bool:
        checked.clear()
        data = module(folder)
        check = data.reader.check
        data.reader.check = lambda index: (checked.append(index), check(index))
        assert data.indices.tolist() == [1, 2, 3, 4, 6, 7]
        return bool(checked)

    assert not again()
    with monkeypatch.context() as patch:
        patch.setattr(PIL, "__version__", "99.0")
        assert again()
    assert "jpg" in decoders()[2]
    with monkeypatch.context() as patch:
        patch.setattr("PIL.features.check", lambda name: name != "jpg")
        assert again()
    assert not again()


@pytest.mark.usefixtures("unchecked")
def test_invalid_on_corrupt_raises(folder):
    for make in (module, ChanterelleDataModule):
        with pytest.raises(InputError, match="on_corrupt must be one of raise, skip"):
            make(folder, on_corrupt="ignore")
