"""SIGTERM while several ranks evaluate: all leave together, and the run goes on as if nothing had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_and_resume import differences

SCRIPT = Path(__file__).parents[1] / "helpers" / "signalled_ranks.py"


@pytest.mark.slow
def test_ranks_that_are_stopped_in_an_evaluation_end_as_if_they_had_not_been(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    before_training, one_rank, both_ranks, end = json.loads((tmp_path / "starts.json").read_text())
    assert before_training == [[143, 143], None]  # nothing learnt, nothing to save
    assert one_rank == [[143, 143], 3]
    assert both_ranks == [[143, 143], 6]
    assert end == [[0, 0], 7]
    assert differences(tmp_path / "peace", tmp_path / "hit", 0) == []
    assert "Traceback" not in done.stderr
