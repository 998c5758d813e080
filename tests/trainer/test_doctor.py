"""``doctor`` on machines that lack something, and how fast help and completion come."""

import json
import os
import subprocess
import sys
import time

import pytest

import metrics
from trainer.__main__ import COMMANDS, main, options_of
from trainer.cli import arguments
from trainer.commands import doctor


def found(check) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in check()}


def test_a_machine_without_egl(monkeypatch):
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    findings = found(doctor.opengl)
    assert {name: finding.state for name, finding in findings.items()} == {"moderngl": "fail", "pyrender": "fail"}
    for finding in findings.values():
        assert finding.fact.startswith("no OpenGL: ") and "apt-get install -y libegl1" in finding.cure


def test_one_way_to_opengl_is_enough(monkeypatch):
    answers = {"moderngl": (False, "Exception: no device"), "pyrender": (True, "llvmpipe (LLVM 15.0.6, 256 bits)")}
    monkeypatch.setattr(doctor, "attempt", lambda code: answers["pyrender" if "pyrender" in code else "moderngl"])
    findings = found(doctor.opengl)
    assert findings["moderngl"].state == "note" and "renderer.backend" in findings["moderngl"].cure
    assert findings["pyrender"].fact.endswith("which is software")


def test_a_machine_without_data(workplace):
    (finding,) = doctor.data("chanterelle.yaml")
    assert finding.state == "fail"
    assert finding.fact == "chanterelle.yaml: there is nothing at chanterelle (root)"
    assert "--data.ARGUMENT=PATH" in finding.cure


def test_a_machine_without_wandb(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (finding,) = doctor.wandb()
    assert finding.state == "note" and "nobody is logged in" in finding.fact and "WANDB_MODE=offline" in finding.cure
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    (finding,) = doctor.wandb()
    assert finding.state == "ok"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (finding,) = doctor.wandb()
    assert finding.state == "note" and finding.cure == "pip install wandb"


def test_torch_and_cuda_in_words(monkeypatch):
    monkeypatch.setattr(doctor, "attempt", lambda code: (False, "ModuleNotFoundError: No module named 'torch'"))
    assert found(doctor.torch)["torch"].state == "fail"
    monkeypatch.setattr(doctor, "attempt", lambda code: (True, "2.13.0+cpu|2|-|"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "built without CUDA" in found(doctor.torch)["cuda"].fact
    monkeypatch.setattr(doctor, "attempt", lambda code: (True, "2.13.0|16|13.0|NVIDIA H200 (139 GiB)"))
    assert found(doctor.torch)["cuda"].state == "ok"


def test_a_place_that_cannot_be_written(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert [finding.state for finding in doctor.disk()] == ["fail", "fail"]


@pytest.mark.parametrize(("state", "status"), [("note", 0), ("fail", 1)])
def test_exit_status_tells_whether_a_training_can_run(monkeypatch, capsys, state, status):
    monkeypatch.setattr(doctor, "examine", lambda configs: iter([doctor.Finding("egl", state, "none", "install it")]))
    assert main(["doctor"]) == status
    assert "cure: install it" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["can_train"] == (status == 0)


def test_an_attempt_ends_in_one_line():
    assert doctor.attempt("print('some'); print('word')") == (True, "word")
    assert doctor.attempt("raise ValueError('of\\nno use')") == (False, "no use")
    assert doctor.attempt("import os; os.abort()") == (False, "the process died of signal 6")
    assert doctor.attempt("import time; time.sleep(9)", 0.5) == (False, "nothing came within 0 seconds")


@pytest.mark.parametrize("name", ["fit", "export", "table"])
def test_help_of_a_command_needs_no_torch(name, environment, tmp_path):
    code = f"import sys, trainer.__main__ as m; m.main([{name!r}, '--help']); sys.exit('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and f"python -m trainer {name}" in done.stdout
    assert time.monotonic() - began < 1


def test_parsers_know_what_there_is():
    assert metrics.EXTRACTORS == arguments.EXTRACTORS
    assert all(options_of(name).prog == f"python -m trainer {name}" for name in COMMANDS)


def test_completion_knows_commands_and_options(capsys, tmp_path):
    for shell in arguments.SHELLS:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in COMMANDS) and "turntable" in script
    assert main(["completion", "bash"]) == 0
    (tmp_path / "unrender.bash").write_text(capsys.readouterr().out)
    for words, expected in (
        ("export --tur", "--turntable"),
        ("fit --config chairs_m", "chairs_modelnet.yaml"),
        ("fit --model model/iggan_", "model/iggan_32.yaml"),
        ("table table1", "table1"),
        ("table unr", "unrender.bash"),
    ):
        count = len(words.split())
        line = f'COMP_WORDS=(unrender {words}); COMP_CWORD={count}; _shtab_unrender; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", f"source unrender.bash; {line}"], capture_output=True, text=True, env=os.environ, check=True
        )
        assert done.stdout.strip() == expected
