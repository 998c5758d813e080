"""Images that cannot be read: refused by name, or left out, counted, and said once."""

import logging

import numpy as np
import pytest
import torch
from masked_photographs import write_photographs
from PIL import Image

from datamodules import ChanterelleDataModule, FFHQDataModule
from datamodules.images.image_set import open_images
from renderers import InputError


@pytest.fixture
def folder(tmp_path):
    """Eight images, of which the first and the sixth are cut short."""
    place = tmp_path / "set"
    place.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    for i in (0, 5):
        (place / f"{i}.png").write_bytes((place / f"{i}.png").read_bytes()[:300])
    return place


def module(folder, **options) -> FFHQDataModule:
    return FFHQDataModule(
        folder, **{"image_size": 8, "batch_size": 2, "total_kimg": 0.012, "on_corrupt": "skip"} | options
    )


def test_photographs_are_left_out_and_counted(folder, caplog):
    data = module(folder)
    data.prepare_data()
    assert [r.message for r in caplog.records] == [
        f"2 of 8 images in {folder} cannot be read and are left out: 0.png, 5.png"
    ]
    assert data.numbers.tolist() == [1, 2, 3, 4, 6, 7] == data.reference_numbers
    assert len(data.reference()) == data.training_images == 6
    assert sum(len(batch[0]) for batch in data.train_dataloader()) == 12
    again = module(folder)
    again.reader.check = None  # what was found is kept: nothing is decoded again to find out
    assert again.numbers.tolist() == data.numbers.tolist()


def test_the_division_stays_where_it_is(folder):
    data = module(folder, held_out=4)
    assert data.training_numbers.tolist() == [1, 2, 3] and data.reference_numbers == [4, 6, 7]
    (folder / "4.png").write_bytes(b"")
    data = module(folder, held_out=4, mirror=True)
    assert data.training_numbers.tolist() == [1, 2, 3] and data.reference_numbers == [6, 7]
    assert len(data.train_dataloader().dataset) == 6
    with pytest.raises(InputError, match="of 1 images held out none can be read"):
        (folder / "7.png").write_bytes(b"")
        module(folder, held_out=1).prepare_data()


def test_only_what_cannot_be_read_is_left_out(folder):
    with pytest.raises(InputError, match=r"2 damaged, or no PNG or JPEG \(0\.png, 5\.png\)"):
        module(folder, on_corrupt="raise").prepare_data()
    Image.new("RGB", (20, 20)).save(folder / "6.png")
    with pytest.raises(InputError, match=r"6\.png is 20×20 where 16×16 is expected"):
        module(folder).prepare_data()


def test_none_is_left(folder):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 8 images"):
        module(folder).prepare_data()
    with pytest.raises(InputError, match="none of 8 images"):
        open_images(folder, "skip")


def test_compared_images_are_left_out(folder, caplog):
    images = open_images(folder, "skip")
    assert len(images) == 6 and sum(len(batch) for batch in images.batches(4)) == 6
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    with pytest.raises(InputError, match="2 of 8 images"):
        list(open_images(folder).batches(4))


def test_masked_photographs_are_left_out(tmp_path, caplog):
    root = write_photographs(tmp_path / "photographs")
    whole = ChanterelleDataModule(root, image_size=8).reference()
    (root / "train" / "broken.png").write_bytes((root / "train" / "0.png").read_bytes()[:400])
    with pytest.raises(InputError, match=r"1 unreadable \(train/broken.png\)"):
        ChanterelleDataModule(root, image_size=8).reference()
    assert torch.equal(ChanterelleDataModule(root, image_size=8, on_corrupt="skip").reference(), whole)
    assert "1 of 11 images" in caplog.text and "train/broken.png" in caplog.text


@pytest.mark.usefixtures("unchecked")
def test_another_word_is_refused(folder):
    for make in (module, ChanterelleDataModule):
        with pytest.raises(InputError, match="on_corrupt must be raise or skip"):
            make(folder, on_corrupt="ignore")
