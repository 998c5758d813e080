"""Files of weights and other tensors, loaded as data: nothing in them is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError


def load_state(path: str | Path) -> Any:
    """What ``torch.save`` wrote, on the CPU.

    Raises:
        InputError: a file that is missing, damaged, packed (a small file could then fill the memory), no such file, or one
            that holds more than data.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise InputError(f"{path} is compressed, as torch.save leaves no file; save it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes the unpickler fail in any way there is
        if isinstance(error, pickle.UnpicklingError) and re.search(r"Unsupported (global|class)", str(error)):
            raise InputError(f"{path} holds more than data and is not loaded, since it could run code") from error
        reason = getattr(error, "strerror", None) or "it is damaged or of another kind"
        raise InputError(f"{path} cannot be loaded: {reason}") from error
