"""Every variant of every Triton kernel that the renderers launch, with the types of its arguments."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from renderers import triton_probe
from renderers.soft_rasterizer import triton_coverage, triton_fragments
from renderers.soft_rasterizer.reference import NEAR, THIN
from renderers.soft_rasterizer.triton_backend import FACES, FRAGMENTS
from renderers.volume import triton_kernels
from renderers.volume.triton_backend import BLOCK

TYPES = {
    **dict.fromkeys(("faces", "counter"), "*i32"),
    **dict.fromkeys(("packed", "pixel", "face", "edge", "integers"), "*i64"),
    **dict.fromkeys(("vertices", "count", "size", "capacity", "channels", "height", "width"), "i32"),
    **dict.fromkeys(("d", "samples", "tiles", "programs"), "i32"),
    **dict.fromkeys(("margin", "slope", "half_extent", "distance", "density"), "fp32"),
}  # by name; all other arguments are pointers to fp32
TENSOR_TYPES = {torch.int32: "*i32", torch.int64: "*i64", torch.float32: "*fp32"}

Variant = tuple[Any, dict[str, Any]]


def argument_type(name: str) -> str:
    return TYPES.get(name, "*fp32")


def choices(**options: tuple) -> Iterator[dict[str, Any]]:
    return (dict(zip(options, values, strict=True)) for values in product(*options.values()))


def variants() -> Iterator[Variant]:
    """Yield kernels with their compile-time constants."""
    both = (False, True)
    yield triton_probe.add_one, {}
    laws = [{"HULL": True, "COLORED": False, "CHANNELS": 1}, {"HULL": False, "COLORED": False, "CHANNELS": 1}]
    laws += [{"HULL": False, "COLORED": True, "CHANNELS": n} for n in (1, 4)]  # grey, colour or surfaces
    for perspective, law in product(both, laws):
        constants = {"PERSPECTIVE": perspective, "BLOCK": BLOCK, **law}
        yield triton_kernels.forward, constants
        for needs_rotation in both:
            yield triton_kernels.backward, {**constants, "NEEDS_ROTATION": needs_rotation}
    for options in choices(CULL=both, PERSPECTIVE=both):
        constants = {"NEAR": NEAR, "THIN": THIN, "BLOCK": FACES, **options}
        yield triton_coverage.crisp, constants
        yield triton_coverage.soft, constants
    for perspective in both:
        constants = {"PERSPECTIVE": perspective, "BLOCK": FRAGMENTS}
        yield triton_fragments.evaluate, constants
        # The image needs weights and coordinates. Each flag guards code of its own.
        for depth, alpha in product(both, both):
            present = {"HAS_W": True, "HAS_B": True, "HAS_A": alpha, "HAS_D": depth}
            yield triton_fragments.evaluate_backward, {**constants, **present}
        for only in ("HAS_W", "HAS_B", "HAS_A", "HAS_D"):
            present = {f"HAS_{x}": f"HAS_{x}" == only for x in "WBAD"}
            yield triton_fragments.evaluate_backward, {**constants, **present}
    yield triton_fragments.texture_splat, {"BLOCK": FRAGMENTS}
    for needs_texture in both:
        yield triton_fragments.texture_backward, {"NEEDS_TEXTURE": needs_texture, "BLOCK": FRAGMENTS}
