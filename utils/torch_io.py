"""Safe loading of weights and other tensors: no code in a file is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError, is_temporary, system_reason


def load_state(path: str | Path) -> Any:
    """Load a file written by ``torch.save`` to the CPU.

    Raises:
        InputError: a file that does not exist, is corrupt, is compressed (a small file could then fill the memory), or
            contains more than data.
    """
    path = Path(path)
    try:
        check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # the unpickler raises arbitrary exceptions on a corrupt file
        if isinstance(error, pickle.UnpicklingError) and re.search(r"Unsupported (global|class)", str(error)):
            raise InputError(f"{path} contains more than data and is not loaded, since it could run code") from error
        reason = system_reason(error) if is_temporary(error) else "the file is corrupt or not a PyTorch file"
        raise InputError(f"{path} cannot be loaded: {reason}") from error


def check_stored(path: Path) -> None:
    """Check that a file is not a compressed archive: a small one could fill the memory.

    Raises:
        InputError: it is compressed.
        zipfile.BadZipFile: it is corrupt.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise InputError(f"{path} is compressed, unlike files of torch.save; save it again with torch.save")
