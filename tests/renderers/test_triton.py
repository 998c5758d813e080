"""Triton's kernels without a GPU: interpreted against the reference, and compiled for two GPU architectures."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_variants import argument_type, variants

from trainer.commands.doctor import KERNELS as KERNELS_CODE
from trainer.commands.doctor import run_python

KERNELS = sorted({kernel.__name__ for kernel, _ in variants()})


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("name", KERNELS)
def test_every_variant_compiles(name):
    """Ahead of time, for A100 (8.0) and H100 (9.0). Triton caches the results, about a minute the first time."""
    for kernel, constants in variants():
        if kernel.__name__ != name:
            continue
        names = kernel.arg_names
        signature = {n: "constexpr" if n in constants else argument_type(n) for n in names}
        source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()}, {})
        options = {"num_warps": 1, "enable_fp_fusion": False} if "NEAR" in constants else {}  # as triton_backend sets
        for capability in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert compiled.asm["cubin"], constants


def test_doctor_runs_every_kernel_that_renderers_use(monkeypatch):
    """Its code, with the kernels interpreted on the CPU."""
    recorded = """
import renderers.triton_launch as module
kernels, original = set(), module.launch
def launch(kernel, *args, **constants):
    kernels.add(kernel.fn.__name__)
    original(kernel, *args, **constants)
module.launch = launch
"""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ok, output = run_python(recorded + KERNELS_CODE.replace('"cuda"', '"cpu"') + "print(sorted(kernels))")
    assert ok, output
    assert ast.literal_eval(output) == [name for name in KERNELS if name != "add_one"]


def test_interpreted_kernels_agree_with_the_reference():
    """In another process: Triton reads TRITON_INTERPRET when it is imported."""
    folder = Path(__file__).parent
    files = [folder / f"test_{name}.py" for name in ("volume", "lit", "soft_rasterizer_kernels")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", *map(str, files)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=environment, cwd=folder.parents[1], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
