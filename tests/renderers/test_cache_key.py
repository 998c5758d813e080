"""Keys of render caches: two renderers with different images have different keys."""

import pytest
import torch
from torch import nn

from datamodules import ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from networks import ShadingNet
from renderers import (
    DeferredNeuralRenderer,
    EmissionAbsorptionRenderer,
    Lighting,
    OpenGLRenderer,
    Renderer,
    ViewDistribution,
    VoxelGrid,
)


class TableRenderer(Renderer):
    differentiable = True
    accepts = (VoxelGrid,)

    def __init__(self, table: object) -> None:
        super().__init__(16)
        self.table = table

    def render(self, scene, camera, background): ...


class OtherRenderer(TableRenderer): ...


def deferred(seed: int = 0, **options) -> DeferredNeuralRenderer:
    torch.manual_seed(seed)
    return DeferredNeuralRenderer(ShadingNet(width=4), 16, **options)


def with_buffer(value: float) -> DeferredNeuralRenderer:
    renderer = deferred()
    renderer.network.register_buffer("offset", torch.tensor(value), persistent=False)
    return renderer


ZEROS, ONE = torch.zeros(2000), torch.eye(1, 2000)[0].roll(1000)
DIFFERENT = {
    "settings": (OpenGLRenderer(16), OpenGLRenderer(16, lighting=Lighting(0.2))),
    "weights": (deferred(0), deferred(1)),
    "settings of a submodule": (deferred(), deferred(samples=8)),
    "type of a layer": (TableRenderer(nn.ReLU()), TableRenderer(nn.ELU())),
    "setting of a layer": (TableRenderer(nn.LeakyReLU(0.1)), TableRenderer(nn.LeakyReLU(0.2))),
    "order of layers": (
        TableRenderer(nn.Sequential(nn.ReLU(), nn.Tanh())),
        TableRenderer(nn.Sequential(nn.Tanh(), nn.ReLU())),
    ),
    "buffer": (with_buffer(0.0), with_buffer(1.0)),
    "class": (TableRenderer(1), OtherRenderer(1)),
    "number and text": (TableRenderer(1), TableRenderer("1")),
    "dtype": (TableRenderer(ZEROS), TableRenderer(ZEROS.bfloat16())),
    "shape": (TableRenderer(ZEROS), TableRenderer(ZEROS[None])),
    "tensor": (TableRenderer(ZEROS), TableRenderer(ONE)),
    "array": (TableRenderer(ZEROS.numpy()), TableRenderer(ONE.numpy())),
    "tensors in a container": (TableRenderer({"a": [1, ZEROS]}), TableRenderer({"a": [1, ONE]})),
    "bfloat16": (TableRenderer(ZEROS.bfloat16()), TableRenderer(ONE.bfloat16())),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_renderers_that_differ_have_different_keys(name):
    a, b = DIFFERENT[name]
    assert a.cache_key() != b.cache_key()
    assert a.cache_key() == a.cache_key()


def test_keys_of_the_projects_renderers_do_not_change():
    """Caches of earlier versions stay valid."""
    lights = "Lighting(ambient=0.1, directions=((-1.0, 1.0, 2.0), (2.0, -0.5, 2.0)), intensities=(0.6, 0.3))"
    assert OpenGLRenderer(64, backend="moderngl").cache_key() == (
        "OpenGLRenderer({'backend': 'moderngl', 'geometry': True, 'image_size': 64, "
        f"'lighting': {lights}, 'surface': 'marching_cubes', 'threshold': 0.5}})"
    )
    assert EmissionAbsorptionRenderer(128, 0.3125, reference_size=64).cache_key() == (
        "EmissionAbsorptionRenderer({'backend': 'auto', 'density': 0.3125, 'image_size': 128, 'reference_size': 64, "
        "'samples': None})"
    )


def test_private_attributes_and_the_mode_do_not_count():
    renderer = deferred()
    key = renderer.cache_key()
    renderer._scratch = 1
    assert renderer.eval().cache_key() == key


def test_data_has_the_renders_of_its_own_renderer(tmp_path):
    references = []
    for renderer in (deferred(0), deferred(1), deferred(0)):
        data = ShapeNetRenderDataModule(
            ProceduralShapes("chair", count=2, voxel_size=16),
            renderer,
            ViewDistribution(),
            images=2,
            reference_images=2,
            batch_size=2,
            cache_dir=str(tmp_path),
        )
        data.prepare_data()
        references.append(data.reference())
    assert torch.equal(references[0], references[2])
    assert not torch.equal(references[0], references[1])
