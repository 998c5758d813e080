"""Run every module on fake CUDA tensors, and count where the host waits for the device.

python fake_cuda.py OUTPUT [LIBRARY]: write a JSON object of waits by module, precision and part (two training steps, an
evaluation batch, ``predict``). LIBRARY is fake_cuda.cpp, compiled, for builds of torch without CUDA. Fake tensors have
shapes, types and devices, but no values; a mismatch is an error. Kernels of Triton and OpenGL are replaced by stubs that
check their arguments.
"""

import ctypes
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if len(sys.argv) > 2:
    ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_GLOBAL)  # before torch asks for CUDA
sys.path[:0] = [str(Path(__file__).parents[i]) for i in (0, 1, 2)]

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton_variants import TENSOR_TYPES, argument_type
from two_ranks import modules

import renderers.backend_dispatch
import renderers.soft_rasterizer.triton_backend
import renderers.volume.triton_backend
from lightning_modules import MeshGANModule
from lightning_modules.generative import GenerativeModule
from networks import AdaptiveAugment, DiffAugment
from networks.stylegan_layers import AdaIN, StyledLayer
from renderers import OpenGLRenderer, Rendering

CUDA = torch.device("cuda", 0)
BATCHES = {
    "iggan": [(4, 1, 16, 16)],
    "voxel": [(4, 1, 16, 16)],
    "image": [(4, 1, 16, 16)],
    "mesh": [(4, 3, 16, 16)],
    "mesh, fading": [(4, 3, 16, 16)],
    "iggan, diffaugment": [(4, 1, 16, 16)],
    "image, diffaugment": [(4, 1, 16, 16)],
    "image, ada": [(4, 1, 16, 16)],
    "mesh, ada": [(4, 3, 16, 16)],
    "proxy": [(4, 1, 8, 8, 8)],
    "classifier": [(4, 1, 64, 64)],
}


class Waits(TorchDispatchMode):
    """Counts the operations for which the host waits: values that it reads, and copies that are not asynchronous.

    A value that the host reads is 1, or True.
    """

    current: "Waits"

    def __init__(self) -> None:
        super().__init__()
        Waits.current = self
        self.counts: Counter[str] = Counter()
        self.in_opengl = False
        self.order: list[str] = []  # of copies to the host, R's forward pass, and waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.in_opengl:
            return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if name == "_local_scalar_dense":
            if args[0].device.type == "cuda":
                self.counts["value read"] += 1
            return True if args[0].dtype == torch.bool else 1 if not args[0].is_floating_point() else 0.5
        if name == "_pin_memory":
            return args[0]
        if name in ("_to_copy", "copy_"):
            source, target = args[-1] if name == "copy_" else args[0], kwargs.get("device")
            if name == "copy_":
                source, target = args[1], args[0].device
            blocking = not kwargs.get("non_blocking", len(args) > 2 and args[2])
            if target is not None and torch.device(target).type != source.device.type and blocking:
                self.counts[f"copy to {torch.device(target).type}"] += 1
        return function(*args, **kwargs)


class Event:
    """A CUDA event; only waiting for it is counted."""

    def record(self, stream=None):
        Waits.current.order.append("copy")

    def synchronize(self):
        Waits.current.counts["event"] += 1
        Waits.current.order.append("wait")


class StubOpenGL(OpenGLRenderer):
    """Black images. Scenes on the device count as one wait, for their copy to the host."""

    def render(self, scene, camera, background):
        device, size = scene.device, self.image_size
        if device.type == "cuda":
            Waits.current.counts["OpenGL"] += 1
        Waits.current.in_opengl = True
        zeros = torch.zeros(len(scene), 1, size, size, device=device)
        Waits.current.in_opengl = False
        return Rendering(zeros, zeros, zeros, zeros.expand(-1, 3, -1, -1))


def check_launch(kernel, grid, *arguments, **constants) -> None:
    """Check a kernel's arguments instead of launching it."""
    names = [name for name in kernel.arg_names if name not in constants]
    assert len(names) == len(arguments), kernel
    for name, value in zip(names, arguments, strict=True):
        expected = argument_type(name)
        if isinstance(value, Tensor):
            assert (TENSOR_TYPES[value.dtype], value.device) == (expected, CUDA), (kernel, name, value)
            assert value.is_contiguous(), (kernel, name)
        else:
            assert expected == ("fp32" if isinstance(value, float) else "i32"), (kernel, name, value)


def to_cuda(module: nn.Module) -> None:
    """Replace parameters and buffers by fake ones on CUDA."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, x in tensors.items():
                if x is None:
                    continue
                fake = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)
                tensors[name] = nn.Parameter(fake, x.requires_grad) if isinstance(x, nn.Parameter) else fake


@contextmanager
def autocast(enabled: bool) -> Iterator[None]:
    """bf16 as Lightning's precision plugin sets it; torch.autocast refuses devices that do not exist."""
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


class StyledTypes:
    """The types of the outputs of StyleGAN's layers, and of the feature maps that AdaIN keeps for the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: set[str] = set()
        self.kept: set[str] = set()
        for part in module.modules():
            if isinstance(part, StyledLayer):
                part.register_forward_hook(lambda layer, args, output: self.seen.add(str(output.dtype)))
            if isinstance(part, AdaIN):
                part.forward = self._record_kept(part.forward)

    def _record_kept(self, forward: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def call(x: Tensor, w: Tensor) -> Tensor:
            def pack(tensor: Tensor) -> Tensor:
                if tensor.shape == x.shape:
                    self.kept.add(str(tensor.dtype))
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                return forward(x, w)

        return call


def run(name: str, half: bool) -> dict:
    torch.manual_seed(0)
    module = modules()[name.split(",")[0]][0]
    if "diffaugment" in name:
        module.augment = DiffAugment(mirror=True)
    elif "ada" in name:
        module.augment = AdaptiveAugment(interval=1, mirror=True, color=name.startswith("mesh"))
    types = StyledTypes(module)
    if isinstance(getattr(module, "renderer", None), OpenGLRenderer):
        module.renderer.__class__ = StubOpenGL
    if hasattr(module, "neural_renderer"):
        module.neural_renderer.register_forward_hook(lambda *_: Waits.current.order.append("R"))
    parts: dict[str, dict] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_cuda(module)
        module._device = CUDA
        optimizers = module.configure_optimizers()
        module.optimizers = lambda: optimizers
        module.manual_backward = lambda loss, *args, **options: loss.backward(*args, **options)
        module.cosine_lr = lambda optimizer: None
        if isinstance(module, MeshGANModule):
            module.images_seen = 24 if "fading" in name else 10**6
        batch = [torch.empty(shape, device=CUDA) for shape in BATCHES[name]]
        if name == "classifier":
            batch.append(torch.zeros(4, dtype=torch.int64, device=CUDA))

        def count(part: str, function, *args) -> None:
            with Waits() as waits, autocast(half):
                function(*args)
            parts[part] = dict(waits.counts)

        for part in ("first step", "step"):
            count(part, module.training_step, batch, 0)
        order = Waits.current.order
        module.eval()
        if isinstance(module, GenerativeModule):
            to_cuda(module.fid.extractor)
            module.fid.extractor.to = lambda device: None  # it is there
            # New metrics and their reset copy data, which fake tensors do not have.
            module._configure_fid = lambda keep_real: None
            for metric in (module.fid.metric, module.fid.spatial):
                metric.reset = lambda: None
            with torch.no_grad():
                count("start of validation", module.on_validation_epoch_start)
                for part in ("first batch", "validation"):
                    count(part, module.validation_step, batch, 0)
                for part in ("first predict", "predict"):
                    count(part, module.predict_step, torch.arange(2), 0)
    return {**parts, "styled layers": sorted(types.seen), "kept by AdaIN": sorted(types.kept), "order": order}


def main(output: str) -> None:
    def log(module, name, value, *args, **options):
        """Convert a value as Lightning does."""
        value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value, device=module.device)

    pl.LightningModule.log = log
    torch.cuda.Event, torch.cuda.current_stream = Event, lambda device=None: None
    renderers.backend_dispatch.triton_problem = lambda device: None
    for backend in (renderers.soft_rasterizer.triton_backend, renderers.volume.triton_backend):
        backend.launch = check_launch
    results = {f"{name} {'bf16' if half else 'fp32'}": run(name, half) for name in BATCHES for half in (False, True)}
    Path(output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
