"""Read the file of an offline Weights & Biases run, a LevelDB log of protobuf records."""

import json
import struct
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER_SIZE, HEADER = 32768, 7, "<IHB"  # of each chunk: checksum, length, kind (full, first, middle, last)


def read_records(file: Path) -> list[Any]:
    """The protobuf records of a ``.wandb`` file, in order."""
    wandb.teardown()  # as at the end of a process: its service writes the file asynchronously
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    records, chunks, offset = [], [], HEADER_SIZE
    while offset + HEADER_SIZE <= len(data):
        if BLOCK - offset % BLOCK < HEADER_SIZE:  # padding at the end of a block
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = struct.unpack_from(HEADER, data, offset)
        chunks.append(data[offset + HEADER_SIZE : offset + HEADER_SIZE + length])
        offset += HEADER_SIZE + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(chunks))
            records.append(record)
            chunks = []
    return records


def values(items: Any) -> dict[str, Any]:
    """The items of a history, summary or config record as a nested dictionary."""
    nested: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        level = nested
        for key in outer:
            level = level.setdefault(key, {})
        level[last] = json.loads(item.value_json)
    return nested


def history(records: list[Any]) -> list[dict[str, Any]]:
    """The logged rows, in order."""
    return [values(record.history.item) for record in records if record.HasField("history")]


def summary(records: list[Any]) -> dict[str, Any]:
    """The final summary."""
    final: dict[str, Any] = {}
    for record in records:
        if record.HasField("summary"):
            final |= values(record.summary.update)
    return final
