"""``compare``: one page for several runs."""

import json
from pathlib import Path

import pytest
import small_iggan
import yaml

from callbacks.html_report import write_report
from callbacks.monitor import DEFAULT
from metrics.manifolds import MANIFOLD_METRICS
from trainer.__main__ import main
from trainer.commands.compare import ComparedRun
from trainer.runs.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_iggan.write_run(tmp_path_factory.mktemp("runs") / "small" / "001")


def test_compare_writes_one_page_for_all_runs(run, tmp_path, capsys):
    import shutil

    other = tmp_path / "other" / "002"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["init_args"]["generator"]["init_args"]["latent_size"] = 9
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    note = (other / "metrics.jsonl").read_text().replace("extractor x", "extractor y <b>")
    (other / "metrics.jsonl").write_text(note)
    assert main(["compare", str(run), str(other), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["final"] for row in report["runs"]] == [88.0, 88.0]
    assert report["differences"] == {"model.generator.latent_size": [8, 9]}
    assert "cannot be compared" in report["warning"]
    page = Path("compare.html").read_text().replace("<wbr>", "")
    assert "model.generator.latent_size" in page and "extractor y &lt;b&gt;" in page
    assert 'src="http' not in page and page.count("<img") == 2  # one plot per measurement


def test_compare_replaces_its_own_pages_only(run, refused):
    for text in ("mine", "<!doctype html>\n<title>unrender: small 001</title>\n"):
        Path("compare.html").write_text(text)
        error = refused("compare", str(run))
        assert error == "compare.html exists and is not a page of compare; pass another --output"
        assert Path("compare.html").read_text() == text
    assert "/proc/x cannot be created" in refused("compare", str(run), "--output", "/proc/x/page.html")
    Path("compare.html").unlink()
    assert main(["compare", str(run)]) == main(["compare", str(run), str(run)]) == 0


def test_compare_plots_all_metrics_of_images(run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.yaml").write_text("seed_everything: 0\n")
    line = {"kimg": 1, "step": 10, "note": "extractor x"} | dict.fromkeys(
        ("sfid", "fid", "kid", *MANIFOLD_METRICS), 0.5
    )
    (tmp_path / "one/metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["compare", str(tmp_path / "one")]) == 0
    page = Path("compare.html").read_text()
    assert page.count("<img") == 7 and "<h2>Density</h2>" in page and "<h2>Coverage of real images</h2>" in page


def test_compare_plots_values_of_one_extractor_per_run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    measured = [("a", {"fid": 9.0, "kid": 1.0, "mmd": 3.0}), ("b", {"fid": 5.0, "mmd": 2.0})]
    lines = [
        {"step": i, "kimg": i, **metrics, "note": f"extractor {extractor}, 8 generated against 8 real images"}
        for i, (extractor, metrics) in enumerate(measured)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = ComparedRun(RunDirectory(tmp_path), "run")
    assert run.curve("fid") == ([1], [5.0])
    assert run.curve("kid") == ([], [])
    assert run.curve("mmd") == ([0, 1], [3.0, 2.0])  # no extractor


def test_evaluations_without_a_value_are_no_results(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    lines = [{"step": i, "kimg": i, "fid": fid, "note": "x"} for i, fid in enumerate((9.0, 4.0, None, 5.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["compare", str(tmp_path)]) == 0
    run = ComparedRun(RunDirectory(tmp_path), "run")
    assert (run.row()["best"], run.row()["best_kimg"]) == (4.0, 1)
    assert run.curve("fid") == ([0, 1, 3], [9.0, 4.0, 5.0])
    page = write_report(tmp_path, DEFAULT).read_text()
    assert "Best fid: 4.0 at 1 kimg" in page.replace("<wbr>", "")


def test_a_report_is_written_from_a_config_that_was_saved_in_another_encoding(tmp_path):
    (tmp_path / "config.yaml").write_bytes("# Stühle".encode("latin-1"))
    assert "hle" in write_report(tmp_path, DEFAULT).read_text(encoding="utf-8")


def test_compare_prints_the_settings_of_a_sweep(tmp_path, capsys):
    def print_table(*configs: dict) -> list[list[str]]:
        for number, config in enumerate(configs):
            (tmp_path / f"{number}").mkdir(exist_ok=True)
            (tmp_path / f"{number}/config.yaml").write_text(yaml.safe_dump(config))
        assert main(["compare", *(str(tmp_path / f"{number}") for number in range(len(configs)))]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    def config(seed: int, **model: float) -> dict:
        return {"seed_everything": seed, "model": {"init_args": model | {"seed": seed}}, "trainer": {"devices": seed}}

    table = print_table(config(1, r1_gamma=0.5, width=8), config(2, r1_gamma=2.0, width=8))
    assert [line[-1] for line in table[:3]] == ["model.r1_gamma", "0.5", "2"] and "model.width" not in table[0]
    many = {f"option{i}": 1 for i in range(5)}  # other runs than those of a sweep
    assert "model.option0" not in print_table(config(1, **many), config(2))[0]


def test_compare_rejects_other_directories(refused, tmp_path):
    assert "is not a run directory" in refused("compare", str(tmp_path))
