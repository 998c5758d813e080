"""Arguments that take one of a few words are checked in Python as well, where jsonargparse does not see them."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from networks import StyleGANGenerator
from renderers import AbsorptionRenderer, InputError, SoftRasterizer
from renderers.volume.reference import Rays
from utils.errors import check_choice

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "EqualizedConv2d": (2, 2, 3),
    "MarchSettings": {"rays": Rays(4, 4, False, 2.0, 1.0), "density": 1.0},
    "OpenGLRenderer": (16,),
    "VoxelGenerator": (8, 4, 2),
    "upsampling_layers": (3, 4, 2, 1, 1),
}


def constructors() -> list[tuple[Callable, str]]:
    """Return the public classes and functions of the two packages with each argument that has a Literal type."""
    found = []
    for package in ("networks", "renderers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "Literal[" not in path.read_text(encoding="utf-8"):
                continue
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name, value in vars(module).items():
                own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
                if own and (inspect.isfunction(value) or (inspect.isclass(value) and "__init__" in vars(value))):
                    arguments = inspect.signature(value).parameters.values()
                    found += [(value, a.name) for a in arguments if "Literal[" in str(a.annotation)]
    return found


@pytest.mark.parametrize(("construct", "argument"), constructors(), ids=lambda x: getattr(x, "__name__", x))
def test_unknown_words_are_refused(construct, argument, unchecked):
    required = REQUIRED[construct.__name__]
    positional, named = ((), required) if isinstance(required, dict) else (required, {})
    with pytest.raises(InputError, match=f"^{argument} must be .*, got 'instance'$"):
        construct(*positional, **{**named, argument: "instance"})


def test_all_constructors_are_found():
    assert {construct.__name__ for construct, _ in constructors()} == set(REQUIRED)


@pytest.mark.parametrize("construct", [AbsorptionRenderer, SoftRasterizer])
def test_unknown_kernels_are_refused(construct):
    with pytest.raises(InputError, match=r"^backend must be one of auto, torch, numba, triton, got 'opengl'$"):
        construct(16, backend="opengl")


def test_unknown_noise_is_refused(unchecked):
    generator = StyleGANGenerator(4, 3, 4, 4, 1, channel_max=4)
    with pytest.raises(InputError, match=r"^noise must be one of zero, fixed, got 'none'$"):
        generator(torch.zeros(1, 4), noise="none")


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"]])
def test_the_message_lists_the_choices(value):
    with pytest.raises(InputError) as error:
        check_choice("mode", value, ("a", "b"))
    assert error.value.message == f"mode must be one of a, b, got {value!r}"
    check_choice("mode", "b", ("a", "b"))
