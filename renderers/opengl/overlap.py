"""OpenGL renders of grids on a GPU that overlap with the GPU's other work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from renderers.base import Renderer, Rendering
from renderers.cameras import Camera
from renderers.opengl.renderer import OpenGLRenderer
from renderers.scenes import VoxelGrid
from utils.transfer import HostCopy, to_device


def start_render(renderer: Renderer, scene: VoxelGrid, camera: Camera) -> Callable[[], Rendering]:
    """Start to render ``scene``; call the result to finish, which returns the rendering on the scene's device.

    OpenGL renders from the host's memory. If the scene is on a GPU, its copy to the host starts now. Work that is queued
    on the GPU before the call of the result runs while OpenGL renders. Only that call waits, for the copy alone. Renders
    of other renderers, of colours, and of scenes on the CPU, take place in that call.

    Args:
        renderer: any renderer of voxel grids.
        scene: the grids.
        camera: on the CPU.
    """
    device = scene.device
    colored = scene.color is not None and getattr(renderer, "colored", False)  # colours are looked up on the device
    if device.type == "cpu" or not isinstance(renderer, OpenGLRenderer) or colored:
        return lambda: renderer(scene, camera.to(device))
    solids, valid = HostCopy(scene.occupancy.detach() > renderer.threshold), scene.is_valid()

    def finish() -> Rendering:
        rendering = renderer(VoxelGrid(solids.wait()), camera)
        values = {f.name: getattr(rendering, f.name) for f in fields(rendering)}
        moved = replace(rendering, **{k: to_device(v, device) for k, v in values.items() if v is not None})
        return replace(moved, image=torch.where(valid, moved.image, torch.nan))

    return finish
