"""``doctor`` on incomplete machines, the speed of ``--help``, and shell completion."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import metrics
from trainer.__main__ import COMMANDS, main, options_of
from trainer.cli import arguments
from trainer.commands import doctor


def findings_by_name(check) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in check()}


@pytest.mark.slow
def test_opengl_fails_without_egl(monkeypatch):
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    findings = findings_by_name(doctor.opengl)
    assert {name: finding.state for name, finding in findings.items()} == {"moderngl": "fail", "pyrender": "fail"}
    for finding in findings.values():
        assert finding.fact.startswith("no OpenGL: ") and "apt-get install -y libegl1" in finding.fix


def test_one_opengl_backend_is_enough(monkeypatch):
    answers = {"moderngl": (False, "Exception: no device"), "pyrender": (True, "llvmpipe (LLVM 15.0.6, 256 bits)")}
    monkeypatch.setattr(doctor, "run_python", lambda code: answers["pyrender" if "pyrender" in code else "moderngl"])
    findings = findings_by_name(doctor.opengl)
    assert findings["moderngl"].state == "note" and "renderer.backend" in findings["moderngl"].fix
    assert findings["pyrender"].fact.endswith(", a software renderer")


@pytest.mark.slow
def test_missing_data_are_reported(workplace):
    (finding,) = doctor.data("chanterelle.yaml")
    assert finding.state == "fail"
    assert finding.fact == "chanterelle.yaml: chanterelle does not exist (root)"
    assert "--data.ARGUMENT=PATH" in finding.fix


def test_wandb_login_is_checked(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (finding,) = doctor.wandb()
    assert finding.state == "note" and "not logged in" in finding.fact and "WANDB_MODE=offline" in finding.fix
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    (finding,) = doctor.wandb()
    assert finding.state == "ok"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (finding,) = doctor.wandb()
    assert finding.state == "note" and finding.fix == "pip install wandb"


def test_torch_and_cuda_findings(monkeypatch):
    monkeypatch.setattr(doctor, "run_python", lambda code: (False, "ModuleNotFoundError: No module named 'torch'"))
    assert findings_by_name(doctor.torch)["torch"].state == "fail"
    monkeypatch.setattr(doctor, "run_python", lambda code: (True, "2.13.0+cpu|2|-|"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "built without CUDA" in findings_by_name(doctor.torch)["cuda"].fact
    monkeypatch.setattr(doctor, "run_python", lambda code: (True, "2.13.0|16|13.0|NVIDIA H200 (139 GiB)"))
    assert findings_by_name(doctor.torch)["cuda"].state == "ok"


def test_unwritable_directories_fail(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert [finding.state for finding in doctor.disk()] == ["fail", "fail"]


def test_a_cache_below_a_private_directory_is_checked(monkeypatch, tmp_path):
    exists = Path.exists

    def refuse(path: Path) -> bool:
        if tmp_path in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setenv("UNRENDER_CACHE", str(tmp_path / "private" / "cache"))
    assert [finding.state for finding in doctor.disk()] == ["ok", "ok"]  # the part that can be seen
    assert next(x for x in doctor.extractors() if x.name == "imagenet").state == "note"


def test_without_a_home_the_cache_fails_and_nothing_else(monkeypatch):
    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("UNRENDER_CACHE", "NETRC", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(Path, "expanduser", unknown)
    cache, runs = doctor.disk()
    assert (cache.state, cache.fix, runs.state) == ("fail", "set HOME or UNRENDER_CACHE", "ok")
    assert {x.state for x in doctor.extractors()} == {"ok"}
    assert next(doctor.wandb()).state == "note"


@pytest.mark.parametrize(("state", "status"), [("note", 0), ("fail", 1)])
def test_exit_status_is_1_if_training_cannot_run(monkeypatch, capsys, state, status):
    monkeypatch.setattr(
        doctor, "examine", lambda configs, trust: iter([doctor.Finding("egl", state, "none", "install it")])
    )
    assert main(["doctor"]) == status
    assert "fix: install it" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["can_train"] == (status == 0)


def test_run_python_returns_one_line():
    assert doctor.run_python("print('some'); print('word')") == (True, "word")
    assert doctor.run_python("raise ValueError('of\\nno use')") == (False, "no use")
    assert doctor.run_python("import os; os.abort()") == (False, "the process was killed by signal 6")
    assert doctor.run_python("import time; time.sleep(9)", 0.5) == (False, "no result within 0.5 seconds")


@pytest.mark.parametrize("name", ["fit", "export", "table"])
def test_help_does_not_import_torch(name, environment, tmp_path):
    code = f"import sys, trainer.__main__ as m; m.main([{name!r}, '--help']); sys.exit('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and f"python -m trainer {name}" in done.stdout
    assert time.monotonic() - began < 1


def test_parsers_match_the_code():
    assert metrics.EXTRACTORS == arguments.EXTRACTORS
    assert all(options_of(name).prog == f"python -m trainer {name}" for name in COMMANDS)


def test_completion_offers_commands_options_and_configs(capsys, tmp_path):
    for shell in arguments.SHELLS:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in COMMANDS) and "turntable" in script
    assert main(["completion", "bash"]) == 0
    (tmp_path / "unrender.bash").write_text(capsys.readouterr().out)
    for words, expected in (
        ("export --tur", "--turntable"),
        ("fit --config chairs_m", "chairs_modelnet.yaml"),
        ("fit --model model/iggan_3", "model/iggan_32.yaml"),
        ("table table1", "table1"),
        ("table unr", "unrender.bash"),
    ):
        count = len(words.split())
        line = f'COMP_WORDS=(unrender {words}); COMP_CWORD={count}; _shtab_unrender; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", f"source unrender.bash; {line}"], capture_output=True, text=True, env=os.environ, check=True
        )
        assert done.stdout.strip() == expected
