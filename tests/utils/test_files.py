"""Files that are written atomically."""

import errno
import resource

import numpy as np
import pytest
import torch

from utils.files import save_npy, save_npz, save_torch, write_text

NOISE = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 100_000),
        lambda path: save_npy(NOISE, path),
        lambda path: save_npz({"noise": NOISE}, path),
        lambda path: save_torch(torch.from_numpy(NOISE), path),
    ],
    ids=["text", "npy", "npz", "torch"],
)
def test_what_the_disk_does_not_take_is_named_and_leaves_nothing(tmp_path, write):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as raised:
            write(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG and raised.value.filename == str(tmp_path / "file")
    assert not list(tmp_path.iterdir())
