"""Reuse of freed memory."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from utils.memory import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
for i in range(20):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**19) for _ in range(40)]  # 2 MiB each
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_not_returned_to_the_system():
    faults = {}
    env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072"}  # without it glibc may keep memory by chance
    for mode in ("default", "reuse"):
        command = [sys.executable, "-c", SCRIPT, mode]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        faults[mode] = int(result.stdout)
    assert faults["reuse"] < faults["default"] / 10, faults
