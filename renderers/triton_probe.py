"""The smallest Triton kernel, which shows whether Triton can compile for a device."""

# ruff: noqa: ANN001, ANN201 (Triton infers the kernel's types)

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def add_one(x):
    tl.store(x, tl.load(x) + 1)
