"""Run directories of the cells of a table, as ``fit`` writes them."""

import json
import os
from pathlib import Path

import yaml

from metrics.shape_comparison import SHAPE_METRICS
from trainer.runs.run_lock import process_identity
from trainer.tables.runner import IMAGE_METRICS, OVERFITTING

NOTE = "extractor renders_small, 1,000 generated against 1,000 real images"
SMALL = ["--scale", "small"]
TABLE3 = ["table", "table3", *SMALL]


def write_run(
    cell: str, fid: float | None, *, table: str = "table3", note: str = NOTE, status: str = "finished", **more
) -> Path:
    """Write a run directory as ``fit`` does: finished with a FID, or unfinished."""
    folder = Path(f"runs/tables/{table}_small") / cell
    (folder / "checkpoints").mkdir(parents=True)
    more = {"kimg": 8, "size": 32, "pid": os.getpid(), "checkpoint": True, "command": None} | more
    shapes = {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": {"category": "chair"}}
    data = {"shapes": shapes, "renderer": {"init_args": {"image_size": 64}}, "total_kimg": more["kimg"]}
    model = {"generator": {"init_args": {"voxel_size": more["size"]}}, "proxy_checkpoint": more.get("proxy")}
    (folder / "config.yaml").write_text(yaml.dump({"data": {"init_args": data}, "model": {"init_args": model}}))
    run_metadata = {"status": status, "pid": more["pid"], "host": process_identity()["host"]}
    run_metadata |= {"training_data": more["counts"]} if "counts" in more else {}
    (folder / "run.json").write_text(json.dumps(run_metadata))
    evaluations = [(0, 300.0)] + ([(more["kimg"], fid)] if fid is not None else [(2, 200.0)])
    rows = [{"kimg": kimg, "step": 10 * kimg, "fid": value, "note": note} for kimg, value in evaluations]
    rows[-1] |= {name: more[name] for name in ("sfid", *IMAGE_METRICS, *SHAPE_METRICS, *OVERFITTING) if name in more}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if more["checkpoint"]:
        (folder / "checkpoints/last.ckpt").write_text("")
    if more["command"]:
        (folder / "command.txt").write_text(more["command"] + "\n")
    return folder


def write_proxy(name: str, shapes: dict) -> str:
    """Write the run of a proxy; return its checkpoint."""
    folder = Path("runs") / name / "001"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "finished"}')
    (folder / "config.yaml").write_text(yaml.dump({"data": {"init_args": {"shapes": shapes}}}))
    return str(folder / "checkpoints/last.ckpt")


def read_table(path: str, number: int = 0) -> list[list[str]]:
    tables = [part.splitlines() for part in Path(path).read_text().split("\n\n") if part.lstrip().startswith("|")]
    rows = [line for line in tables[number] if line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "---" not in row]
