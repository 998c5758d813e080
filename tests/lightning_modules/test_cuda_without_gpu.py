"""Every module on fake CUDA tensors: devices and types match, and a training step does not wait for the device."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
pytest.importorskip("triton")
HELPERS = Path(__file__).parents[1] / "helpers"
# One event is the copy of the grids that OpenGL renders, or the number of fragments of the previous step, which arrived
# long ago. The others are waits.
STEPS = {
    "iggan": {"event": 1},
    "voxel": {},
    "image": {},
    "mesh": {"event": 1},
    "mesh, fading": {"event": 1},
    "iggan, diffaugment": {"event": 1},
    "image, diffaugment": {},
    "image, ada": {},
    "mesh, ada": {"event": 1},
    "proxy": {"event": 1},
    "classifier": {},
}
# Waits of the first batch: its range, the copy to OpenGL, generated grids that are kept for metrics, the exact number of
# fragments.
VALIDATION = {
    "iggan": {"value read": 2, "OpenGL": 1, "copy to cpu": 1},
    "voxel": {"value read": 2, "OpenGL": 1, "copy to cpu": 1},
    "image": {"value read": 2},
    "mesh": {"value read": 2, "event": 2},
    "mesh, fading": {"value read": 2, "event": 2},
}
PREDICT = {
    "iggan": {"OpenGL": 1},
    "voxel": {"OpenGL": 1},
    "image": {},
    "mesh": {"event": 2},
    "mesh, fading": {"event": 2},
}


@pytest.fixture(scope="module")
def waits(tmp_path_factory) -> dict[str, dict]:
    """Run fake_cuda.py in a process of its own, since it changes torch."""
    folder = tmp_path_factory.mktemp("fake_cuda")
    command = [sys.executable, str(HELPERS / "fake_cuda.py"), str(folder / "waits.json")]
    if not torch.backends.cuda.is_built():
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("needs g++ to register CUDA in a build of torch without it")
        package, library = Path(torch.__file__).parent, folder / "fake_cuda.so"
        libraries = [f"-L{package}/lib", f"-Wl,-rpath,{package}/lib", "-lc10", "-ltorch_cpu"]
        flags = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{package}/include", "-o", str(library)]
        subprocess.run([compiler, str(HELPERS / "fake_cuda.cpp"), *flags, *libraries], check=True, timeout=120)
        command.append(str(library))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "waits.json").read_text())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_does_not_wait_for_the_device(waits, name, precision):
    assert waits[f"{name} {precision}"]["step"] == STEPS[name]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VALIDATION)
def test_evaluation_and_samples_wait_where_they_must(waits, name, precision):
    result = waits[f"{name} {precision}"]
    assert (result["validation"], result["predict"]) == (VALIDATION[name], PREDICT[name])


@pytest.mark.parametrize("name", ["iggan", "proxy"])
def test_opengl_renders_while_the_device_computes_the_neural_renderer(waits, name):
    """The grids' copy starts before R is queued, and the host waits for it, and then renders, after."""
    for precision in ("fp32", "bf16"):
        assert waits[f"{name} {precision}"]["order"] == ["copy", "R", "wait"]


def test_layers_of_stylegan_keep_the_type_of_autocast(waits):
    assert waits["mesh fp32"]["styled layers"] == ["torch.float32"]
    assert waits["mesh bf16"]["styled layers"] == ["torch.bfloat16"]
    assert waits["mesh bf16"]["kept by AdaIN"] == ["torch.bfloat16"]
