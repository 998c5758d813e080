"""Signals while several ranks evaluate: all ranks stop together, and the resumed run equals an uninterrupted one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_and_resume import differences

SCRIPT = Path(__file__).parents[1] / "helpers" / "signalled_ranks.py"


@pytest.mark.slow
def test_ranks_interrupted_in_evaluation_resume_bit_identically(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    before_training, one_rank, ctrl_c, end = json.loads((tmp_path / "starts.json").read_text())
    assert before_training == [[143, 143], None]  # nothing was trained, so nothing is saved
    assert one_rank == [[143, 143], 3]
    assert ctrl_c == [[130, 130], 6]
    assert end == [[0, 0], 7]
    assert differences(tmp_path / "uninterrupted", tmp_path / "interrupted", 0) == []
    assert "Traceback" not in process.stderr
