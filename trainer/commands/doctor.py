"""``doctor``: check what works on this machine and suggest a fix for what does not.

Checks that may crash, hang or fail to import (torch, OpenGL, kernels) run in separate processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from trainer.cli import arguments
from utils.errors import InputError

ROOT = Path(__file__).parents[2]
GIB = 2**30
SETUP = "make setup, or pip install -c constraints.txt -e . in the checkout"
OPENGL = (
    "Debian or Ubuntu: apt-get install -y libegl1 libgl1-mesa-dri; NVIDIA driver: install its EGL (libnvidia-gl-*); "
    "container: start it with NVIDIA_DRIVER_CAPABILITIES=all"
)
IMAGENET = "pt_inception-2015-12-05-6726825d.pth"

TORCH = """
import torch
x = torch.ones(64, 64) @ torch.ones(64, 64)
assert float(x[0, 0]) == 64
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_properties(i) for i in range(count)]
names = ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices)
print(torch.__version__, torch.get_num_threads(), torch.version.cuda or "-", names, sep="|")
"""
LIBRARIES = """
import pytorch_lightning, torchmetrics, jsonargparse, omegaconf, skimage, scipy, trimesh, PIL, matplotlib
print(pytorch_lightning.__version__, torchmetrics.__version__, sep="|")
"""
CUBE = """
import logging, sys, torch
from renderers import *
class PrintDevice(logging.Handler):
    def emit(self, record): sys.stdout.write(record.args[-1])
log = logging.getLogger("renderers.opengl.egl"); log.setLevel(logging.INFO); log.addHandler(PrintDevice())
grid = torch.zeros(1, 1, 8, 8, 8); grid[..., 2:6, 2:6, 2:6] = 1
image = RENDERER(VoxelGrid(grid), Camera.orbit(0, 0)).image
assert 0.01 < float(image.mean()) < 0.5, f"the image of a cube has mean {float(image.mean()):.3f}"
"""
KERNELS = """
import torch
from renderers import *
camera = Camera.orbit([20.0], [10.0], 20.0, "cuda")
grid = torch.rand(1, 1, 8, 8, 8, device="cuda", requires_grad=True)
for renderer in AbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer, LitAbsorptionRenderer:
    scene = VoxelGrid(grid, grid if renderer is EmissionAbsorptionRenderer else None)
    renderer(8, backend="triton")(scene, camera).image.square().sum().backward()
faces, uvs = grid_mesh(4, "cuda")
vertices = torch.cat([2 * uvs - 1, uvs[:, :1]], 1)[None].requires_grad_()
texture = torch.rand(1, 3, 8, 8, device="cuda", requires_grad=True)
for margin in 0.0, 1.0:
    rendering = SoftRasterizer(8, margin, backend="triton")(TriangleMesh(vertices, faces, uvs, texture), camera)
    (rendering.image.sum() + rendering.alpha.sum() + rendering.normals.sum()).backward()
for x in grid, vertices, texture:
    assert x.grad.isfinite().all() and x.grad.any(), "a Triton kernel computes wrong gradients"
print("volume renderers and soft rasterizer, forward and backward, work on the GPU")
"""
DATA = """
import sys
from pathlib import Path
sys.path.append(str(Path.cwd()))  # where fit finds classes of the user's, too
from renderers import InputError
from trainer.runs.loading import ExperimentConfig
data = ExperimentConfig(CONFIG, [], trust=TRUST or None).load_data()
for part in (data, getattr(data, "shapes", None)):
    for name in ("root", "path"):
        path = getattr(part, name, None)
        if isinstance(path, (str, Path)) and not Path(path).exists():
            raise InputError(f"{path} does not exist ({name})")
print(type(data).__name__)
"""

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        name: What was checked.
        state: ``ok``; ``note`` if something optional is missing; ``fail`` if training cannot run.
        fact: What was found.
        fix: What to do about it.
    """

    name: str
    state: State
    fact: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<5} {self.name:<12} {self.fact}"
        return f"{line}\n{'':18} fix: {self.fix}" if self.fix else line


def main(argv: list[str]) -> int:
    """Print the findings; return 0 if training can run here, else 1.

    Raises:
        InputError: Invalid options, or a config that does not exist, cannot be read or has no data.
    """
    options = arguments.doctor().parse_args(argv)
    with suppress(ImportError):  # of a library that is missing, which is a finding
        from trainer.cli.config_composition import KEYS, compose
        from trainer.cli.config_errors import check_keys

        for name in options.config:
            composed = compose([name])
            check_keys(composed, KEYS)
            data_section = composed.values.get("data")
            if not isinstance(data_section, dict) or not isinstance(data_section.get("class_path"), str):
                raise InputError(f"{name} is not the config of an experiment: it has no data with a class_path")
    findings = []
    for finding in examine(options.config, options.trust):
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)
    can_train = all(finding.state != "fail" for finding in findings)
    if options.json:
        print(json.dumps({"can_train": can_train, "findings": [asdict(finding) for finding in findings]}))
    else:
        print("Training can run here." if can_train else "Training cannot run until these are fixed.")
    return 0 if can_train else 1


def examine(configs: list[str], trust: bool = False) -> Iterator[Finding]:
    """Run all checks and yield their findings in order.

    Args:
        configs: Experiments whose data are checked as well.
        trust: Load any class that the config of a run names.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [python, torch, libraries, opengl, kernels, extractors, disk, wandb]
    checks += [partial(data, name, trust) for name in configs]
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:  # threads only wait for subprocesses
        for findings in pool.map(lambda check: list(check()), checks):
            yield from findings


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    fact = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run without installing it with pip
        yield Finding("python", "fail", fact, "install Python 3.11 or newer; PYTHON=python3.x make setup")
    else:
        yield Finding("python", "ok", fact)


def torch() -> Iterator[Finding]:
    """Check PyTorch and whether it sees a GPU."""
    ok, output = run_python(TORCH)
    if not ok:
        yield Finding("torch", "fail", output, f"{SETUP}; pytorch.org/get-started has builds for other machines")
        return
    version, threads, cuda, devices = output.split("|")
    yield Finding("torch", "ok", f"{version}, {threads} thread{'' if threads == '1' else 's'}")
    if devices:
        yield Finding("cuda", "ok", f"CUDA {cuda}: {devices}")
    elif shutil.which("nvidia-smi") is None:
        yield Finding("cuda", "note", "no NVIDIA driver found; training runs on the CPU")
    elif cuda == "-":
        fix = "install a build of torch with CUDA, see pytorch.org/get-started"
        yield Finding("cuda", "note", "an NVIDIA driver is installed, but this torch is built without CUDA", fix)
    else:
        fix = "run nvidia-smi; the driver may be older than torch's CUDA version, or CUDA_VISIBLE_DEVICES may be empty"
        yield Finding("cuda", "note", f"torch is built for CUDA {cuda} but sees no device", fix)


def libraries() -> Iterator[Finding]:
    """Check that the required libraries can be imported."""
    ok, output = run_python(LIBRARIES)
    if ok:
        lightning, metrics = output.split("|")
        yield Finding("libraries", "ok", f"pytorch-lightning {lightning}, torchmetrics {metrics}")
    elif "torchvision" in output:
        fix = "torchvision does not match this torch and is not needed here: pip uninstall torchvision"
        yield Finding("libraries", "fail", output, fix)
    else:
        yield Finding("libraries", "fail", output, SETUP)


def opengl() -> Iterator[Finding]:
    """Check both OpenGL backends and report their devices. One working backend is enough."""
    results = {name: _render_cube(f"OpenGLRenderer(16, backend={name!r})") for name in ("moderngl", "pyrender")}
    state: State = "note" if any(ok for ok, _ in results.values()) else "fail"
    for name, (ok, output) in results.items():
        if ok:
            software = re.search("llvmpipe|softpipe", output)
            yield Finding(name, "ok", f"{output}, a software renderer" if software else output)
            continue
        reason = re.sub(r"^OpenGL .*?\((.*?)\)\. .*$", r"\1", output)
        missing = re.search(r"No module named '(\w+)'", output)
        fix = SETUP if missing else OPENGL
        other = f"use the other one by --data.renderer.backend and --model.renderer.backend; or {fix}"
        yield Finding(name, state, f"no OpenGL: {reason}", other if state == "note" else fix)


def kernels() -> Iterator[Finding]:
    """Check the numba kernels, and every Triton kernel that renderers use on a GPU, forward and backward."""
    ok, output = _render_cube('AbsorptionRenderer(16, backend="numba")')
    if ok:
        yield Finding("numba", "ok", f"{_version('numba')}, renders on the CPU")
    else:
        fix = f"pip install -c constraints.txt numba; or use backend=torch, which is slower. {SETUP}"
        yield Finding("numba", "fail", output, fix)
    if importlib.util.find_spec("triton") is None:
        fix = "pip install triton" if shutil.which("nvidia-smi") else ""
        yield Finding("triton", "note", "not installed; on a GPU the slower torch backend is used", fix)
        return
    ok, output = run_python(KERNELS)
    if ok:
        yield Finding("triton", "ok", f"{_version('triton')}: {output}")
    elif "NVIDIA driver" in output or "not compiled with CUDA" in output or "No CUDA" in output:
        yield Finding("triton", "note", f"{_version('triton')}, unused without a CUDA device")
    else:
        fix = "use backend=torch, or install the C compiler that triton needs: apt-get install gcc"
        yield Finding("triton", "note", output, fix)


def extractors() -> Iterator[Finding]:
    """Check the weights of the FID feature extractors."""
    for name, target in (("renders_small", "extractor"), ("renders_color", "extractor-color")):
        if (ROOT / "metrics" / "weights" / f"{name}.pt").is_file():
            yield Finding("FID", "ok", f"{name} is included in the project")
        else:
            yield Finding("FID", "fail", f"the weights of {name} are missing", f"make {target}, or check out again")
    if (cache := _cache()) is None:  # reported with the disk
        return
    file = cache / "extractors" / IMAGENET
    if _exists(file):
        yield Finding("imagenet", "ok", f"weights in {file}")
    else:
        fix = f"they are downloaded on first use; without a network put {IMAGENET} into {file.parent}"
        yield Finding("imagenet", "note", "the weights of extractor imagenet are not in the cache", fix)


def disk() -> Iterator[Finding]:
    """Check that caches and runs can be written, and the free space."""
    for name, folder, fix in (
        ("cache", _cache(), "set UNRENDER_CACHE to a directory on a larger disk"),
        ("runs", Path("runs").absolute(), "start in a directory with more space, or pass another --run_dir"),
    ):
        if folder is None:
            yield Finding(name, "fail", "there is no home directory for caches", "set HOME or UNRENDER_CACHE")
            continue
        existing = next(filter(_exists, (folder, *folder.parents)))
        try:
            free = shutil.disk_usage(existing).free / GIB
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            yield Finding(name, "fail", f"{folder} cannot be written ({error.strerror})", fix)
            continue
        low = free < 2
        yield Finding(name, "note" if low else "ok", f"{free:,.1f} GiB free for {folder}", fix if low else "")


def wandb() -> Iterator[Finding]:
    """Check Weights & Biases, which is optional."""
    if importlib.util.find_spec("wandb") is None:
        yield Finding("wandb", "note", "not installed; metrics are still written to metrics.csv", "pip install wandb")
        return
    mode, version = os.environ.get("WANDB_MODE", ""), _version("wandb")
    if mode in ("offline", "disabled", "dryrun"):
        yield Finding("wandb", "ok", f"{version}, WANDB_MODE={mode}")
    elif os.environ.get("WANDB_API_KEY") or _in_netrc(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
        yield Finding("wandb", "ok", f"{version}, logged in")
    else:
        fix = "wandb login; or set WANDB_MODE=offline and run wandb sync later"
        yield Finding("wandb", "note", f"{version}, not logged in; metrics are still written to metrics.csv", fix)


def data(config: str, trust: bool = False) -> Iterator[Finding]:
    """Check that the data of an experiment exist."""
    ok, output = run_python(DATA.replace("CONFIG", repr(config)).replace("TRUST", repr(trust)))
    output = output.removeprefix(f"{config}: ")
    if ok:
        yield Finding("data", "ok", f"{config}: {output} finds its files")
    elif re.search("does not exist|no such (?!class)", output):
        fix = f"pass their path: python -m trainer fit --config {config} --data.ARGUMENT=PATH"
        yield Finding("data", "fail", f"{config}: {output}", fix)
    else:
        yield Finding("data", "fail", f"{config}: {output}", "correct the config; docs/configs.md describes configs")


def run_python(code: str, seconds: float = 300) -> tuple[bool, str]:
    """Run Python code in a separate process.

    Returns:
        Whether it succeeded, and the last line of its output or its error in one line.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]  # -P: without the current directory in sys.path
    try:
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no result within {seconds:g} seconds"
    if done.returncode == 0:
        return True, (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        return False, f"the process was killed by signal {-done.returncode}"
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it failed without a message")
    return False, re.sub(r"^(?:[\w.]+\.)?InputError: ", "", last)[:300]


def _render_cube(renderer: str) -> tuple[bool, str]:
    return run_python(CUBE.replace("RENDERER", renderer))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown version"


def _cache() -> Path | None:
    """Equal to ``utils.files.cache_root``, which cannot be imported if torch is missing; None if there is no home."""
    try:
        return Path(os.environ.get("UNRENDER_CACHE") or Path.home() / ".cache" / "unrender").expanduser()
    except RuntimeError:
        return None


def _exists(path: Path) -> bool:
    """Whether a path exists; False without the permission to look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _in_netrc(url: str) -> bool:
    """Return whether ``wandb login`` has added its host to ~/.netrc. The key itself is not read."""
    host = re.sub(r"^https?://", "", url).split("/")[0]
    names = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for name in names:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
            if re.search(rf"^\s*machine\s+{re.escape(host)}\b", text, re.MULTILINE):
                return True
        except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: no home directory
            continue
    return False
