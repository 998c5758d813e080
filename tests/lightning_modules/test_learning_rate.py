"""``decay_learning_rate``: the rates of D and G fall to 0 at the end of the run."""

import math
from pathlib import Path

import pytest
import torch
from small_demo import FIT, NETWORK

from trainer.__main__ import main

DECAY = "--model.decay_learning_rate=true"
LAST_OF_FOUR = 0.5 + 0.5 * math.cos(0.75 * math.pi)


def train(run: Path, *options: str) -> list[float]:
    """Train a small demo for four steps and return the learning rates of the last one."""
    words = [word for word in FIT if "generator.init_args.initial" not in word and NETWORK not in word]
    assert main([*(words if "--model" in options else FIT), "--run_dir", str(run), *options]) == 0
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return [state["param_groups"][0]["lr"] for state in checkpoint["optimizer_states"]]


def test_the_rates_of_d_and_g_fall_along_a_cosine(tmp_path, capsys):
    discriminator, generator, proxy = train(tmp_path / "run", "--model", "model/iggan_deferred_short_32.yaml")
    assert (discriminator, generator) == pytest.approx((LAST_OF_FOUR * 4e-4, LAST_OF_FOUR * 1e-3))
    assert proxy == 1e-3
    assert main(["fit", "--run_dir", str(tmp_path / "run"), "--data.total_kimg=0.032"]) == 2
    assert "falls to 0 at its 0.016 kimg, so it cannot become longer" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["dcgan_32", "absorption_32"])
def test_other_methods_decay_on_request(tmp_path, model):
    options = ["--model", f"model/{model}.yaml"]
    constant = train(tmp_path / "constant", *options)
    decayed = train(tmp_path / "decayed", *options, DECAY)
    assert decayed == pytest.approx([LAST_OF_FOUR * rate for rate in constant])
