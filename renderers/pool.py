"""Pictures drawn by other processes while this one computes."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from types import TracebackType

import torch
import torch.multiprocessing as multiprocessing  # also sends tensors through shared memory
from torch import Tensor

from renderers.base import Renderer, Rendering, Scene
from renderers.cameras import Camera
from renderers.opengl import OpenGLRenderer
from renderers.scenes import VoxelGrid

_renderer: Renderer | None = None  # a worker's own


class RenderPool:
    """Worker processes that each hold a copy of a renderer, so that the next batch is drawn while networks compute.

    Workers are spawned, never forked (OpenGL hangs after a fork), and use one thread each. Scenes and pictures go through
    shared memory. Voxels are thresholded before they are sent. Workers leave with the pool, and if this process dies.

        with RenderPool(OpenGLRenderer(128, backend="moderngl"), workers=2) as pool:
            future = pool.submit(scene, camera)
            ...                                   # train on the batch before
            rendering = future.result()

    A script that uses a pool needs ``if __name__ == "__main__":``, as all that spawns does.

    Args:
        renderer: what draws; it is pickled, so it must not have been given anything that cannot be.
        workers: number of processes.
    """

    def __init__(self, renderer: Renderer, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, got {workers}")
        self.renderer = renderer
        self._executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(renderer,)
        )

    def submit(self, scene: Scene, camera: Camera, background: Tensor | None = None) -> Future[Rendering]:
        """Have a batch drawn; returns at once.

        ``result()`` of the future is the rendering, on the CPU. It raises what the renderer raised, or
        ``BrokenProcessPool`` if the worker died. Scenes that the renderer does not accept are refused here.
        """
        if not isinstance(scene, self.renderer.accepts):
            names = " or ".join(t.__name__ for t in self.renderer.accepts)
            raise TypeError(f"{type(self.renderer).__name__} draws {names}, not {type(scene).__name__}")
        if isinstance(scene, VoxelGrid) and isinstance(self.renderer, OpenGLRenderer):
            scene = VoxelGrid(scene.occupancy.detach() > self.renderer.threshold)  # a quarter of the bytes to send
        background = None if background is None else background.cpu()
        return self._executor.submit(_draw, scene.to("cpu"), camera.to("cpu"), background)

    def close(self) -> None:
        """Drop what has not begun and wait for the workers to leave."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> RenderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start_worker(renderer: Renderer) -> None:
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    _renderer = renderer
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@torch.no_grad()
def _draw(scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
    if isinstance(_renderer, OpenGLRenderer):
        _renderer.threshold = 0.5  # the parent has applied its own
    return _renderer(scene, camera, background)
