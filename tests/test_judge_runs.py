"""``python -m benchmarks judge_runs`` on run directories with given evaluations."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


def write_run(folder: Path, evaluations: list[dict], note: str = "extractor x") -> str:
    folder.mkdir(parents=True)
    lines = [{"kimg": step, "step": step, **line, "note": note} for step, line in enumerate(evaluations)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def falling(*fids: float) -> list[dict]:
    """Evaluations with the given FIDs, a spatial FID that falls, and an MMD that falls."""
    return [{"fid": fid, "sfid": 100.0 - step, "mmd": 0.1 / (1 + step)} for step, fid in enumerate(fids)]


def judge(capsys, *argv: str) -> list[dict]:
    assert main(["judge_runs", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_correlations_of_each_run_and_of_all(tmp_path, capsys):
    one = write_run(tmp_path / "one", falling(10, 20, 30, 40))
    two = write_run(tmp_path / "two", falling(40, 30, 10, 20))
    table = judge(capsys, one, two)
    assert [row["run"] for row in table] == [one, two, "all"]
    assert [row["evaluations"] for row in table] == [4, 4, 8]
    assert [row["sfid against mmd"] for row in table] == pytest.approx([1, 1, 1])
    assert [row["fid against mmd"] for row in table[:2]] == pytest.approx([-1, 0.8])
    (row,) = judge(capsys, two, "--metrics", "fid", "--min_kimg", "2")  # too few are left
    assert row == {"run": two, "evaluations": 2, "fid against mmd": None}
    assert main(["judge_runs", one]) == 0
    assert "sfid against mmd" in capsys.readouterr().out


def test_missing_and_infinite_values_are_left_out(tmp_path, capsys):
    lines = falling(4, 3, 2, 1)
    del lines[0]["mmd"]
    lines.append({"fid": float("nan"), "sfid": 1.0, "mmd": 0.5})
    lines.append({"fid": 9.0, "sfid": 9.0, "mmd": float("nan")})  # not counted either
    (row,) = judge(capsys, write_run(tmp_path / "run", lines))
    assert row["evaluations"] == 4 and row["fid against mmd"] == pytest.approx(1)
    assert row["sfid against mmd"] == pytest.approx(-0.2)


def test_runs_measured_differently_are_not_pooled(tmp_path, capsys):
    one = write_run(tmp_path / "one", falling(3, 2, 1))
    two = write_run(tmp_path / "two", falling(3, 2, 1), note="extractor y")
    assert len(judge(capsys, one, two)) == 2


def test_runs_without_the_metrics_are_rejected(tmp_path, capsys):
    run = write_run(tmp_path / "run", [{"fid": 1.0}])
    assert main(["judge_runs", run]) == 2
    assert "has no evaluation with mmd and fid or sfid" in capsys.readouterr().err
    assert main(["judge_runs", str(tmp_path / "none")]) == 2
    assert "has no metrics.jsonl" in capsys.readouterr().err
