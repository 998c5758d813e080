"""What benchmarks compute, apart from measured times."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_iggan import iggan, renders, trainer
from torch.utils._python_dispatch import TorchDispatchMode
from two_ranks import modules

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.budget import Budget, budget
from benchmarks.meshgan import PARTS, split, train
from benchmarks.output import machine
from benchmarks.plain_loop import Alternate, share
from benchmarks.plan import StepMeasurement, rows
from benchmarks.step import compare_with_plain
from lightning_modules.base import ClockedModule


def test_r1_is_the_extra_time_of_d():
    plain = {"data": 1.0, "G": 4.0, "rasterizer": 0.5, "D": 2.0, "average, logging": 0.1}
    penalized = plain | {"D": 2.5, "R1": 1.0}
    slow = dict.fromkeys(PARTS, 100.0)  # first steps, which compile kernels
    parts = split([slow, slow, *[penalized, plain] * 3])
    assert parts == pytest.approx(plain | {"R1": 1.5})
    assert set(parts) == set(PARTS)


def test_all_parts_of_a_meshgan_step_are_timed():
    steps = train(size=16, steps=4, batch=2)
    assert ["R1" in step for step in steps] == [True, False] * 2
    assert all(set(step) | {"R1"} == set(PARTS) and min(step.values()) > 0 for step in steps)


def test_parts_of_a_step_are_compared_with_plain_implementations():
    compared = compare_with_plain(voxels=8, width=4, batch=2, repeats=1)
    assert [row["part"] for row in compared] == ["G, forward and backward", "R, lit absorption, forward and backward"]
    assert all(row["times_plain"] == pytest.approx(row["plain_seconds"] / row["seconds"]) for row in compared)


def test_results_are_kept_until_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results.FILE.parent.mkdir(parents=True)
    # Two rows in an earlier format of the file.
    old = '{"machine": "an old one", "fid": [{"way": "a"}], "step": [{"part": "data", "seconds": 1.0}]}'
    results.FILE.write_text(old)
    rows = [{"part": "data", "seconds": 2.0}, {"part": "G", "images": 8, "figure": "FID 1", "overhead": 0.1}]
    monkeypatch.setitem(sys.modules, "benchmarks.step", SimpleNamespace(run=lambda: rows))
    assert main(["step"]) == 0
    rows[1] |= {"figure": "FID 2", "overhead": 0.2}
    rows.append(rows[1] | {"images": 16})
    assert main(["step"]) == 0
    kept = results.read()
    assert kept["fid"] == [{"way": "a"}]
    assert [(row["part"], row.get("figure"), row.get("images")) for row in kept["step"]] == [
        ("data", None, None),
        ("G", "FID 2", 8),
        ("G", "FID 2", 16),
    ]
    assert kept["step"][0]["seconds"] == 2.0
    assert all({"machine", "date", "torch"} < set(row) for row in kept["step"])

    results.FILE.write_text(results.FILE.read_text()[:50])
    assert main(["step"]) == 2
    assert capsys.readouterr().err == f"error: {results.FILE} is corrupt; move it away\n"


def test_plain_loop_trains_like_fit(tmp_path):
    alternate = Alternate(str(tmp_path / "times.json"))
    module = iggan()
    trainer(tmp_path, callbacks=[alternate]).fit(module, renders(steps=3))
    loop = alternate.loop
    pairs = ((loop.d, module.discriminator), (loop.g, module.generator), (loop.r, module.neural_renderer))
    for ours, theirs in pairs:
        copied, trained = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(copied[key], trained[key]) for key in trained)
    averages = (network.parameters() for network in (loop.average, module.generator_ema))
    assert all(torch.equal(*pair) for pair in zip(*averages, strict=True))
    assert len(alternate.times["fit"]) == len(alternate.times["bare"]) == 3


def test_share_is_the_median_over_blocks():
    fit, plain = [[x for x in blocks for _ in range(10)] for blocks in ([9.0, 2.0, 2.0, 4.0], [1.0, 1.0, 1.5, 1.0])]
    assert share(fit, plain) == pytest.approx(0.5)


def test_budget_counts_the_bytes_of_the_networks():
    cost = budget(iggan())
    module = iggan()
    count = {name: sum(p.numel() for p in network.parameters()) for name, network in module.named_children()}
    learning = count["generator"] + count["discriminator"] + count["neural_renderer"]
    assert cost.weights == cost.gradients == 4 * learning
    assert cost.optimizer == 8 * learning  # Adam's two moments
    assert cost.average == 4 * count["generator"]
    channels = sum(m.num_features for m in module.generator.modules() if isinstance(m, torch.nn.BatchNorm3d))
    assert cost.all_reduced(64) == 4 * learning + 16 * channels
    fixed = budget(iggan(proxy="fixed"))
    assert fixed.weights == 4 * (learning - count["neural_renderer"])
    assert fixed.state - fixed.other == 16 * (learning - count["neural_renderer"]) + cost.average


def test_plan_follows_its_formulas():
    cost = Budget(weights=4, gradients=10**9, optimizer=8, average=2, other=1, batch_norm=10**6, deviation=1000)
    one, eight = rows(cost, StepMeasurement(batch=4, seconds=0.5, peak=3e9), [1, 8], bytes_per_second=1e10)
    assert (one["step_s"], one["of it all-reduce_s"], one["images_per_s"], one["speedup"]) == (0.5, 0.0, 8.0, 1.0)
    sending = 2 * 7 / 8 * (10**9 + 10**6 + 1000 * 32) / 1e10
    assert eight["of it all-reduce_s"] == pytest.approx(sending) and eight["batch_size"] == 32
    assert eight["ms_per_image"] == pytest.approx(1000 * (0.5 + sending) / 32)
    assert eight["speedup"] == pytest.approx(8 * 0.5 / (0.5 + sending))
    assert eight["state_GB"] == pytest.approx(1.000000015) and eight["peak_GB"] == 3.0


def test_plan_counts_what_grows_with_the_global_batch():
    cost = Budget(weights=4, gradients=0, optimizer=8, average=2, other=1, batch_norm=0, deviation=0, draws=100)
    one, many = rows(cost, StepMeasurement(4, 0.5, None), [1, 64], 1e10, draw_seconds=1e-8)
    assert one["of it draws_s"] == 0 and one["step_s"] == 0.5
    assert many["of it draws_s"] == pytest.approx(63 * 4 * 100 * 1e-8)
    assert many["step_s"] == 0.5 + many["of it draws_s"]


class Draws(TorchDispatchMode):
    """Counts the numbers that torch's generators draw."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("randn", "rand", "randint"):
            self.count += result.numel()
        return result


@pytest.mark.parametrize("name", ["iggan", "two views", "voxel", "image", "mesh", "proxy", "classifier"])
def test_budget_counts_the_random_numbers_of_a_step(name, monkeypatch):
    """Also with many simulated ranks; MeshGAN's noise and latents are those of one rank alone."""
    ranks = 64
    shape = {"mesh": (4, 3, 16, 16), "proxy": (4, 1, 8, 8, 8), "classifier": (4, 1, 64, 64)}.get(name, (4, 1, 16, 16))
    module = iggan(views_per_shape=2) if name == "two views" else modules()[name][0]
    expected = budget(module).draws
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.step_optimizer = module.log = module.cosine_lr = lambda *args, **options: None
    if name == "mesh":
        module.average_mean_styles = lambda: None
        module.images_seen = start = 10**6  # fully grown
    else:
        start = 0
    batch = [torch.rand(shape)] + ([torch.zeros(4, dtype=torch.int64)] if name == "classifier" else [])
    monkeypatch.setattr(ClockedModule, "world_size", ranks)
    with Draws() as draws:
        module.training_step(batch, 0)
    crossovers = 4 if name == "mesh" else 0  # of the whole batch
    assert draws.count == expected * 4 * ranks + crossovers
    assert module.images_seen == start + 4 * ranks


def test_plan_only_uses_steps_measured_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", "--config", "heads.yaml", "--gigabytes_per_second", "10", "--gpus", "2"]
    step = {"benchmark": "full size", "part": "a step of heads.yaml", "batch": 4, "seconds": 0.5, "peak_GB": 1.0}
    results.merge("scaling", [step], {"machine": "another"})
    assert main(arguments) == 2
    assert (
        "no step of heads.yaml has been measured on this machine; run python -m benchmarks" in capsys.readouterr().err
    )
    results.merge("scaling", [step], {"machine": machine()})
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "0.5 s a step of 4" in printed and "peak_GB" in printed
    assert main([*arguments, "--seconds_per_step=0"]) == 2
    assert capsys.readouterr().err == "error: all numbers must be greater than 0\n"
    assert main([*arguments, "--seconds_per_step=1"]) == 2
    assert "must be passed together" in capsys.readouterr().err


def test_table_in_docs_is_current(capsys):
    page = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text()
    arguments, table = re.search(r"```\n\$ python -m benchmarks (plan .*)\n([^`]+)```", page).groups()
    assert main(arguments.split()) == 0
    assert capsys.readouterr().out == table
