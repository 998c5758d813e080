"""``python -m benchmarks initial_shape``: the settings of its cells, and its table."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import initial_shape
from trainer.__main__ import main


def settings(capsys, cell: str, size: int = 32, start: int = 16) -> dict:
    words = initial_shape.command(cell, size, start, 6, 1, 100, Path("runs/x"))
    assert main([*words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("cell", "bulge", "fov", "culled", "margin"),
    [
        ("flat", 0, 10, False, 1),
        ("dome", 0.3, 10, False, 1),
        ("flat_fov40", 0, 40, False, 1),
        ("dent_culled", -0.3, 10, True, 1),
    ],
)
def test_cells_change_one_setting_of_heads(capsys, cell, bulge, fov, culled, margin):
    config = settings(capsys, cell)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["generator"]["init_args"]["initial_bulge"] == bulge
    assert model["generator"]["init_args"]["shape_scale"] == 0.05
    assert model["views"]["init_args"]["fov"] == data["views"]["init_args"]["fov"] == fov
    renderer = model["renderer"]["init_args"]
    assert (renderer["cull_backfaces"], renderer["margin"]) == (culled, margin)
    assert [phase["init_args"]["resolution"] for phase in model["growth"]] == [16, 32]
    assert (config["seed_everything"], data["total_kimg"], data["images"], data["reference_images"]) == (1, 6, 100, 100)


def test_sizes_and_growth(capsys):
    config = settings(capsys, "flat", 64, 64)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert [phase["init_args"]["resolution"] for phase in model["growth"]] == [64]
    assert model["generator"]["init_args"]["image_size"] == data["image_size"] == 64


def test_missing_runs_are_trained_in_order_and_listed(tmp_path, monkeypatch, capsys):
    calls = []

    def fit(words: list[str]) -> int:
        run = Path(next(word for word in words if word.startswith("--run_dir=")).removeprefix("--run_dir="))
        calls.append(run)
        run.mkdir(parents=True)
        line = {"kimg": 6.0, "step": 1, "note": "", "fid": 1.5, "hollow_rate": 0.25 * len(calls), "depth_scale": -2.0}
        (run / "metrics.jsonl").write_text("".join(json.dumps(line | {"kimg": k}) + "\n" for k in (0.0, 6.0)))
        return 0

    monkeypatch.setattr(initial_shape, "run_trainer", fit)
    assert initial_shape.main(["--only", "flat", "dome", "--seeds", "0", "1", "--runs", str(tmp_path)]) == 0
    names = ["flat", "dome", "flat-seed1", "dome-seed1"]
    assert calls == [tmp_path / "32_from_16" / name for name in names]
    out = capsys.readouterr().out
    assert all(name in out for name in names) and "hollow_rate" in out and "-2" in out
    monkeypatch.setattr(initial_shape, "run_trainer", lambda words: 143)
    assert initial_shape.main(["--only", "flat", "--runs", str(tmp_path)]) == 143
