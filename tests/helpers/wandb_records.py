"""What an offline run of Weights & Biases holds: its file is a LevelDB log of protobuf records."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD, PIECE = 32768, 7, "<IHB"  # each piece: checksum, length, kind (whole, first, middle, last)


def read_records(file: Path) -> list[Any]:
    """The protobuf records of a ``.wandb`` file, in order."""
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    records, parts, place = [], [], HEAD
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:  # no piece begins at the very end of a block
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from(PIECE, data, place)
        parts.append(data[place + HEAD : place + HEAD + length])
        place += HEAD + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            records.append(record)
            parts = []
    return records


def values(items: Any) -> dict[str, Any]:
    """Items of a history, summary or config record by key, nested where they are."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


def history(records: list[Any]) -> list[dict[str, Any]]:
    """The logged rows, in order."""
    return [values(record.history.item) for record in records if record.HasField("history")]


def summary(records: list[Any]) -> dict[str, Any]:
    """The summary as it was at the end."""
    found: dict[str, Any] = {}
    for record in records:
        if record.HasField("summary"):
            found |= values(record.summary.update)
    return found
