"""``doctor``: what works on this machine, and the cure for what does not.

What may be broken is tried in a process of its own, since it may crash, hang or fail to import: torch, OpenGL, kernels.
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
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from trainer.cli import arguments
from trainer.cli.command_parser import parse

ROOT = Path(__file__).parents[2]
GIB = 2**30
SETUP = "make setup, or pip install -c constraints.txt -e . in the checkout"
OPENGL = (
    "Debian or Ubuntu: apt-get install -y libegl1 libgl1-mesa-dri; with NVIDIA's driver its EGL will do (libnvidia-gl-*); "
    "in a container start it with NVIDIA_DRIVER_CAPABILITIES=all"
)
IMAGENET = "pt_inception-2015-12-05-6726825d.pth"

TORCH = """
import torch
x = torch.ones(64, 64) @ torch.ones(64, 64)
assert float(x[0, 0]) == 64
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
devices = [torch.cuda.get_device_properties(i) for i in range(count)]
named = ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices)
print(torch.__version__, torch.get_num_threads(), torch.version.cuda or "-", named, sep="|")
"""
LIBRARIES = """
import pytorch_lightning, torchmetrics, jsonargparse, omegaconf, skimage, scipy, trimesh, PIL, matplotlib
print(pytorch_lightning.__version__, torchmetrics.__version__, sep="|")
"""
CUBE = """
import logging, sys, torch
from renderers import *
class Keep(logging.Handler):
    def emit(self, record): sys.stdout.write(record.getMessage().partition(" draws with ")[2])
log = logging.getLogger("renderers.opengl.egl"); log.setLevel(logging.INFO); log.addHandler(Keep())
grid = torch.zeros(1, 1, 8, 8, 8); grid[..., 2:6, 2:6, 2:6] = 1
image = RENDERER(VoxelGrid(grid.to(DEVICE)), Camera.orbit(0, 0, device=DEVICE)).image
assert 0.01 < float(image.mean()) < 0.5, f"a cube's image has mean {float(image.mean()):.3f}"
"""
DATA = """
from pathlib import Path
from renderers import InputError
from trainer.runs.data_loading import DataOf
data = DataOf(CONFIG, []).load()
for part in (data, getattr(data, "shapes", None)):
    for name in ("root", "path"):
        place = getattr(part, name, None)
        if isinstance(place, (str, Path)) and not Path(place).exists():
            raise InputError(f"there is nothing at {place} ({name})")
print(type(data).__name__)
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what.
        state: ``ok``; ``note``, something is missing that a training can do without; ``fail``, no training can run.
        fact: what was found.
        cure: what to do about it.
    """

    name: str
    state: Literal["ok", "note", "fail"]
    fact: str
    cure: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<5} {self.name:<12} {self.fact}"
        return f"{line}\n{'':18} cure: {self.cure}" if self.cure else line


def main(argv: list[str]) -> int:
    """Print the findings; returns 0 if a training can run here, else 1."""
    options = parse(arguments.doctor(), argv)
    if options is None:
        return 0
    findings = []
    for finding in examine(options.config):
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)
    well = all(finding.state != "fail" for finding in findings)
    if options.json:
        print(json.dumps({"can_train": well, "findings": [asdict(finding) for finding in findings]}))
    elif well:
        print("A training can run here.")
    else:
        print("What fails stands in the way of a training.")
    return 0 if well else 1


def examine(configs: list[str]) -> Iterator[Finding]:
    """Every finding, one after the other.

    Args:
        configs: experiments whose data are looked for as well.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [python, torch, libraries, opengl, kernels, extractors, disk, wandb]
    checks += [partial(data, name) for name in configs]
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:  # they wait for processes
        for found in pool.map(lambda check: list(check()), checks):
            yield from found


def python() -> Iterator[Finding]:
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip is not the only way to come here
        yield Finding("python", "fail", found, "unrender needs Python 3.11 or newer; PYTHON=python3.x make setup")
    else:
        yield Finding("python", "ok", found)


def torch() -> Iterator[Finding]:
    """PyTorch, and whether it sees a GPU."""
    well, said = attempt(TORCH)
    if not well:
        yield Finding("torch", "fail", said, f"{SETUP}; pytorch.org/get-started has builds for other machines")
        return
    version, threads, cuda, devices = said.split("|")
    yield Finding("torch", "ok", f"{version}, {threads} thread{'' if threads == '1' else 's'}")
    if devices:
        yield Finding("cuda", "ok", f"CUDA {cuda}: {devices}")
    elif shutil.which("nvidia-smi") is None:
        yield Finding("cuda", "note", "no NVIDIA driver here; trainings run on the CPU")
    elif cuda == "-":
        cure = "install a build of torch with CUDA, see pytorch.org/get-started"
        yield Finding("cuda", "note", "there is an NVIDIA driver, but this torch is built without CUDA", cure)
    else:
        cure = "see what nvidia-smi says; the driver may be older than this torch's CUDA, or CUDA_VISIBLE_DEVICES empty"
        yield Finding("cuda", "note", f"torch is built for CUDA {cuda} and sees no device", cure)


def libraries() -> Iterator[Finding]:
    well, said = attempt(LIBRARIES)
    if well:
        lightning, metrics = said.split("|")
        yield Finding("libraries", "ok", f"pytorch-lightning {lightning}, torchmetrics {metrics}")
    elif "torchvision" in said:
        cure = "torchvision does not fit this torch, and nothing here needs it: pip uninstall torchvision"
        yield Finding("libraries", "fail", said, cure)
    else:
        yield Finding("libraries", "fail", said, SETUP)


def opengl() -> Iterator[Finding]:
    """Both ways to OpenGL, each in a process of its own, by what they draw with. One of them is enough."""
    tried = {name: attempt(_cube(f"OpenGLRenderer(16, backend={name!r})")) for name in ("moderngl", "pyrender")}
    state = "note" if any(well for well, _ in tried.values()) else "fail"
    for name, (well, said) in tried.items():
        if well:
            yield Finding(name, "ok", said + (", which is software" if re.search("llvmpipe|softpipe", said) else ""))
            continue
        reason = re.sub(r"^.*does not work on this machine \((.*?)\)\. On Debian.*$", r"\1", said)
        missing = re.search(r"No module named '(\w+)'", said)
        cure = SETUP if missing else OPENGL
        other = f"--data.renderer.backend and --model.renderer.backend choose the other; or {cure}"
        yield Finding(name, state, f"no OpenGL: {reason}", other if state == "note" else cure)


def kernels() -> Iterator[Finding]:
    """The volume renderer and the soft rasterizer beside their plain versions in torch."""
    well, said = attempt(_cube('AbsorptionRenderer(16, backend="numba")'))
    if well:
        yield Finding("numba", "ok", f"{_version('numba')}, draws on the CPU")
    else:
        yield Finding("numba", "fail", said, f"pip install -c constraints.txt numba; or backend=torch, slowly. {SETUP}")
    if importlib.util.find_spec("triton") is None:
        cure = "pip install triton" if shutil.which("nvidia-smi") else ""
        yield Finding("triton", "note", "not installed; on a GPU torch draws instead, more slowly", cure)
        return
    well, said = attempt(_cube('AbsorptionRenderer(16, backend="triton")', "cuda"))
    if well:
        yield Finding("triton", "ok", f"{_version('triton')}, draws on the GPU")
    elif "NVIDIA driver" in said or "not compiled with CUDA" in said or "No CUDA" in said:
        yield Finding("triton", "note", f"{_version('triton')}, to no use without a CUDA device")
    else:
        yield Finding(
            "triton", "note", said, "backend=torch draws as well; triton needs a C compiler: apt-get install gcc"
        )


def extractors() -> Iterator[Finding]:
    """The weights behind FID."""
    if (ROOT / "metrics" / "weights" / "renders_small.pt").is_file():
        yield Finding("FID", "ok", "renders_small comes with the project")
    else:
        yield Finding("FID", "fail", "the weights of renders_small are not there", "make extractor, or check out again")
    file = _cache() / "extractors" / IMAGENET
    if file.is_file():
        yield Finding("imagenet", "ok", f"weights in {file}")
    else:
        cure = f"it fetches them when it is first asked for; without a network put {IMAGENET} into {file.parent}"
        yield Finding("imagenet", "note", "the weights of extractor imagenet are not in the cache", cure)


def disk() -> Iterator[Finding]:
    """Whether caches and runs can be written, and how much."""
    for name, folder, cure in (
        ("cache", _cache(), "set UNRENDER_CACHE to a folder on a larger disk"),
        ("runs", Path("runs").absolute(), "start where there is room, or name another folder by --run_dir"),
    ):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free / GIB
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            yield Finding(name, "fail", f"{folder} cannot be written ({error.strerror})", cure)
            continue
        few = free < 2
        yield Finding(name, "note" if few else "ok", f"{free:,.1f} GiB free for {folder}", cure if few else "")


def wandb() -> Iterator[Finding]:
    """The dashboard, which no training needs."""
    if importlib.util.find_spec("wandb") is None:
        yield Finding("wandb", "note", "not installed; trainings keep metrics.csv all the same", "pip install wandb")
        return
    mode, version = os.environ.get("WANDB_MODE", ""), _version("wandb")
    if mode in ("offline", "disabled", "dryrun"):
        yield Finding("wandb", "ok", f"{version}, WANDB_MODE={mode}")
    elif os.environ.get("WANDB_API_KEY") or _in_netrc(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
        yield Finding("wandb", "ok", f"{version}, logged in")
    else:
        cure = "wandb login; or WANDB_MODE=offline, and wandb sync later"
        yield Finding("wandb", "note", f"{version}, nobody is logged in; trainings keep metrics.csv all the same", cure)


def data(config: str) -> Iterator[Finding]:
    """Whether the data of an experiment are there."""
    well, said = attempt(DATA.replace("CONFIG", repr(config)))
    if well:
        yield Finding("data", "ok", f"{config}: {said} finds what it reads")
    elif "there is no config" in said:
        yield Finding("data", "fail", said, "python -m trainer fit --help says where configs are looked up")
    else:
        cure = f"say where they are: python -m trainer fit --config {config} --data.ARGUMENT=PATH"
        yield Finding("data", "fail", f"{config}: {said}", cure)


def attempt(code: str, seconds: float = 120) -> tuple[bool, str]:
    """Run Python in a process of its own; whether it went well, and its last line or its error in one line."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]  # -P: not the current directory
    try:
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing came within {seconds:.0f} seconds"
    if done.returncode == 0:
        return True, (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        return False, f"the process died of signal {-done.returncode}"
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it failed without a word")
    return False, re.sub(r"^(?:[\w.]+\.)?InputError: ", "", last)[:300]


def _cube(renderer: str, device: str = "cpu") -> str:
    return CUBE.replace("RENDERER", renderer).replace("DEVICE", repr(device))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of no version"


def _cache() -> Path:
    """As ``utils.files.cache_root``, which cannot be asked where torch is missing."""
    return Path(os.environ.get("UNRENDER_CACHE") or Path.home() / ".cache" / "unrender").expanduser()


def _in_netrc(url: str) -> bool:
    """Whether ``wandb login`` was here: its host stands in ~/.netrc. The key itself is not read."""
    host = re.sub(r"^https?://", "", url).split("/")[0]
    names = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / n for n in (".netrc", "_netrc")]
    for file in names:
        try:
            if re.search(rf"^\s*machine\s+{re.escape(host)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False
