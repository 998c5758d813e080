"""Shape metrics of evaluations: which runs report them, on which shapes, and that the data are read once."""

import pytest
import torch
from masked_photographs import write_photographs
from small_iggan import VIEWS, iggan, renders, trainer

from datamodules import ChanterelleDataModule, ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from metrics import ShapeReference, compare_shapes
from renderers import InputError, OpenGLRenderer, VoxelGrid

NAMES = {"coverage", "mmd", "one_nn_accuracy", "largest_piece", "nearest_iou"}


def chairs(**options) -> ShapeNetRenderDataModule:
    """Training and held-out chairs of the generator's resolution."""
    return ShapeNetRenderDataModule(
        ProceduralShapes("chair", count=12, voxel_size=16),
        OpenGLRenderer(16),
        VIEWS,
        reference_shapes=ProceduralShapes("chair", count=8, voxel_size=16, split="test"),
        **{"batch_size": 4, "total_kimg": 0.004, "reference_images": 10, **options},
    )


def validate(folder, module, data, **options) -> dict[str, float]:
    return trainer(folder, limit_val_batches=1.0, **options).validate(module, data, verbose=False)[0]


def generator_of_chairs(module, monkeypatch) -> None:
    """Replace the generator's shapes by held-out chairs, one per latent, in order."""
    chairs = (shape.voxels.occupancy for shape in ProceduralShapes("chair", count=40, voxel_size=16, split="test"))
    monkeypatch.setattr(module, "shapes", lambda z: VoxelGrid(torch.cat([next(chairs) for _ in z])))


def test_shapes_of_the_data_are_compared_with_the_first_samples(tmp_path, monkeypatch):
    module, data = iggan(cache_dir=str(tmp_path), shape_metrics=6), chairs()
    generator_of_chairs(module, monkeypatch)
    figures = validate(tmp_path, module, data)
    assert NAMES <= figures.keys()
    # The samples are the held-out chairs themselves, six against six.
    assert figures["coverage"] == 1 and figures["mmd"] == 0 and figures["one_nn_accuracy"] == 0
    solids = torch.cat([shape.voxels.occupancy[0] > 0.5 for shape in data.reference_shapes])
    reference = ShapeReference.measure(data.reference_shapes, data.shapes, 6)
    expected, _ = compare_shapes(solids[:6], reference)
    assert {name: figures[name] for name in NAMES} == pytest.approx(expected)


@pytest.mark.parametrize(("images", "count"), [(6, 6), (10, 8)])  # fewer generated, fewer held out
def test_both_sets_are_cut_to_the_smaller_number_which_the_note_states(tmp_path, monkeypatch, images, count):
    module = iggan(cache_dir=str(tmp_path))  # 100 shapes are asked for
    generator_of_chairs(module, monkeypatch)
    figures = validate(tmp_path, module, chairs(reference_images=images))
    assert figures["coverage"] == 1 and figures["mmd"] == 0 and figures["one_nn_accuracy"] == 0
    assert module.evaluation_note.endswith(f"{images} real images, {count} shapes against as many held-out ones")
    monkeypatch.setattr("lightning_modules.voxel_generative.COMPARED_SHAPES", count)
    validate(tmp_path, module, chairs(reference_images=images))
    assert module.evaluation_note.endswith("real images")  # the usual number is not stated


def test_a_smoke_run_does_not_leave_its_shapes(tmp_path):
    module, data = iggan(cache_dir=str(tmp_path)), chairs()
    validate(tmp_path, module, data, fast_dev_run=1)
    assert module.evaluation_note.endswith("4 shapes against as many held-out ones")
    assert validate(tmp_path, module, data) == validate(tmp_path, iggan(cache_dir=str(tmp_path)), chairs())


def test_data_are_read_once_and_another_data_module_again(tmp_path, monkeypatch):
    module, data = iggan(cache_dir=str(tmp_path)), chairs()
    first = validate(tmp_path, module, data)
    with monkeypatch.context() as patched:
        patched.setattr(ShapeReference, "measure", None)
        second = validate(tmp_path, module, data)
    assert second == first
    other = chairs()
    other.reference_shapes = ProceduralShapes("table", count=8, voxel_size=16, split="test")
    assert validate(tmp_path, module, other)["mmd"] != first["mmd"]


def test_grids_of_another_resolution_than_the_data(tmp_path):
    figures = validate(tmp_path, iggan(), renders(steps=1))  # 8³ generated, 16³ in the data
    assert NAMES - figures.keys() == {"nearest_iou"}


def test_option_turns_them_off_and_photographs_have_none(tmp_path):
    assert not NAMES & validate(tmp_path, iggan(shape_metrics=0), chairs()).keys()
    photographs = ChanterelleDataModule(
        write_photographs(tmp_path, 10),
        views=VIEWS,
        image_size=16,
        batch_size=4,
        total_kimg=0.004,
        renderer=OpenGLRenderer(16),
    )
    assert not NAMES & validate(tmp_path, iggan(), photographs).keys()
    with pytest.raises(InputError, match="shape_metrics must be at least 0, not -1"):
        iggan(shape_metrics=-1)


def test_empty_samples_give_nan_and_do_not_stop_a_run(tmp_path):
    figures = validate(tmp_path, iggan(threshold=0.9999), chairs())
    assert figures["occupancy"] == 0 and all(figures[name] != figures[name] for name in NAMES & figures.keys())
