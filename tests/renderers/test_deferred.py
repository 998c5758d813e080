"""The deferred neural renderer: its G-buffer, its gradients, and that its network learns another renderer's appearance."""

import torch
from solids import blob, chair, grids

from lightning_modules.losses import relative_error
from networks import ShadingNet
from renderers import (
    DeferredNeuralRenderer,
    Lighting,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    ViewDistribution,
    VoxelGrid,
)

VIEWS = ViewDistribution()


def renderer(size: int = 32) -> DeferredNeuralRenderer:
    torch.manual_seed(0)
    return DeferredNeuralRenderer(ShadingNet(), size)


def views(n: int, seed: int = 0):
    return VIEWS.sample(n, torch.Generator().manual_seed(seed))


def test_geometry_is_that_of_lit_absorption():
    scene, camera = grids(blob(32), chair(32)), views(2)
    deferred, lit = renderer()(scene, camera), LitAbsorptionRenderer(32)(scene, camera)
    assert torch.equal(deferred.alpha, lit.alpha) and torch.equal(deferred.depth, lit.depth)
    assert torch.allclose(deferred.normals, lit.normals, atol=1e-6)
    assert ((deferred.image > 0) == (lit.alpha > 0)).all()


def test_gradients_reach_occupancy_and_network():
    torch.manual_seed(1)
    occupancy = torch.rand(1, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    deferred = renderer(6).double()

    def image(x):
        return deferred(VoxelGrid(x), views(1)).image

    assert torch.autograd.gradcheck(image, occupancy, eps=1e-6, atol=1e-5)
    image(occupancy).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in deferred.network.parameters())


def test_network_learns_lights_that_it_does_not_know():
    """After 40 steps on two shapes, the error on another shape and other views is a fraction of what it was."""
    lights = Lighting(0.05, ((1.0, 0.2, 0.3),), (0.9,))
    target, proxy = OpenGLRenderer(32, lighting=lights), renderer()
    train, test = grids(chair(32), blob(32)), grids(blob(32, seed=7))
    optimizer = torch.optim.Adam(proxy.parameters(), 2e-2)

    def error():
        with torch.no_grad():
            return relative_error(proxy(test, views(1, 99)).image, target(test, views(1, 99)).image)

    before = error()
    for step in range(40):
        camera = views(2, step)
        loss = (proxy(train, camera).image - target(train, camera).image).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.16 < 0.5 < before
