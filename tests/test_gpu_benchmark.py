"""``python -m benchmarks gpu`` without a GPU: its steps at tiny sizes, its plan, and its report."""

import json
import signal

import pytest
import torch

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.gpu_steps import MEASUREMENTS, covered
from trainer.__main__ import main as unrender

pytestmark = pytest.mark.slow


def test_without_cuda_it_ends_with_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu", "--minutes", "8", "--resume"]) == 2
    assert capsys.readouterr().err == (
        "error: torch sees no CUDA device; run this on a machine with one (unrender doctor)\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["machine", "kernels", "rasterizer", "absorption", "opengl", "iggan", "meshgan_128_bf16"]
)
def test_measurements_run_at_tiny_sizes(name, tmp_path):
    rows = MEASUREMENTS[name](True, tmp_path / "rows.json")
    assert rows and all(set(row) == {"figure", "value", "goal"} for row in rows)
    json.dumps(rows)
    if name == "kernels":
        assert all(row["value"] < 1e-3 for row in rows)
    if "gan" in name:
        assert (tmp_path / "rows.json.trace.json").stat().st_size > 1000


def test_trainings_of_the_plan_have_valid_options(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    steps = gpu.plan(modelnet=__file__)
    assert {step.name for step in steps} > {"tests", *MEASUREMENTS, "heads_64", "heads_128", "chairs_modelnet"}
    for step in steps:
        if step.training:
            assert step.command[:3] == ("-m", "trainer", "fit")
            with pytest.raises(SystemExit) as ended:
                raise SystemExit(unrender([*step.command[2:], "--print_config"]))
            assert not ended.value.code, step.name
            capsys.readouterr()


def code(text: str) -> tuple[str, ...]:
    return ("-c", text, "{output}")


def test_slices_continue_where_the_last_one_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SAVING", 1)
    rows = '[{"figure": "speed", "value": 1.23456, "goal": "< 3"}]'
    write = code(f"import sys; open(sys.argv[1], 'w').write('{rows}'); print('ran')")
    train = code("import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)")
    steps = [
        gpu.Step("speed", write, 0),
        gpu.Step("broken", code("raise SystemExit(5)"), 0),
        gpu.Step("later", write, 10),
        gpu.Step("training", (*train, "--run_dir", str(tmp_path / "run")), 0, training=True),
    ]
    assert gpu.run(steps, 4, False, tmp_path / "gpu") == 1
    report = json.loads((tmp_path / "gpu/report.json").read_text())["steps"]
    assert {name: entry["status"] for name, entry in report.items()} == {
        "speed": "finished",
        "broken": "failed with status 5",
        "training": "stopped",
    }
    text = (tmp_path / "gpu/report.md").read_text()
    assert "| speed | 1.235 | < 3 |" in text and "later" not in text
    assert "later: not started" in capsys.readouterr().out
    steps[1] = gpu.Step("broken", write, 0)
    assert gpu.run(steps[:3], 3600, True, tmp_path / "gpu") == 0
    assert (tmp_path / "gpu/speed.log").read_text() == "ran\n"  # not run again
    report = json.loads((tmp_path / "gpu/report.json").read_text())["steps"]
    assert report["broken"]["status"] == report["later"]["status"] == "finished"


def test_a_step_that_runs_out_of_time_comes_last_in_the_next_slice(tmp_path, capsys):
    steps = [gpu.Step("long", code("import time; time.sleep(60)"), 0), gpu.Step("short", code(""), 0)]
    assert gpu.run(steps[:1], 1, False, tmp_path) == 0
    assert json.loads((tmp_path / "report.json").read_text())["steps"]["long"]["status"] == "out of time"
    capsys.readouterr()
    gpu.run(steps, 2, True, tmp_path)
    assert capsys.readouterr().out.startswith("short ...\nshort: finished")


def test_a_stopped_benchmark_stops_its_step(tmp_path, monkeypatch):
    ended = tmp_path / "ended"
    end = f"lambda *_: (open({str(ended)!r}, 'w'), sys.exit(143))"
    training = code(f"import signal, sys, time; signal.signal(15, {end}); open(sys.argv[1], 'w'); time.sleep(60)")

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        with pytest.raises(KeyboardInterrupt):
            gpu.run([gpu.Step("training", training, 0)], 3600, False, tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended.exists()


def test_busy_time_is_the_union_of_kernels():
    assert covered([(5, 6), (0, 2), (1, 3), (1, 1.5)]) == 4
    assert covered([]) == 0
