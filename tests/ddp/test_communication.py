"""What the ranks tell each other: without time limits, without rounding differences, and not about batches that all have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HELPER = Path(__file__).parents[1] / "helpers" / "rank_communication.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    """Return the results of a single process and of both of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen(
            [sys.executable, str(HELPER), str(folder), str(rank), str(ranks)], stderr=subprocess.PIPE, text=True
        )
        for ranks in (1, 2)
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(errors)
    return [json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]


def test_ranks_wait_for_rank_zero_beyond_the_time_limit_of_collectives(results):
    assert [r["ranks"] for r in results] == [1, 2, 2]
    assert results[0]["waited"] < 1 and min(r["waited"] for r in results[1:]) > 8


def test_maximum_over_ranks(results):
    assert [r["max"] for r in results] == [[0, 0], [1, 0], [1, 0]]


def test_fid_of_one_image_per_rank(results):
    assert results[1]["fid"] == results[2]["fid"] == pytest.approx(results[0]["fid"], rel=1e-6)


@pytest.mark.parametrize("count", ("3", "10", "36", "50"))
def test_gap_of_a_discriminator_with_groups_does_not_depend_on_the_ranks(results, count):
    """All ranks have the same images, whose number may not be a multiple of the group."""
    assert results[0]["gap"][count].keys() == {"d_train", "d_held_out", "d_gap"}
    assert results[0]["gap"][count] == results[1]["gap"][count] == results[2]["gap"][count]


def test_ema_batch_norm_is_that_of_rank_zero(results):
    """Convolutions may round differently on each GPU, and checkpoints of differing ranks are refused."""
    assert results[0]["batch_norm"] == results[1]["batch_norm"] == results[2]["batch_norm"]
