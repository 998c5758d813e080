"""The wheel has every file of the packages. ``make test-wheel`` builds, installs and uses one, which takes minutes."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def files_of(directory: Path) -> set[Path]:
    found = {path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {path for path in found if not path.name.startswith(".")}


def test_the_wheel_has_every_package_and_data_file():
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    tops = [path.parent for path in ROOT.glob("*/__init__.py") if any(fnmatch(path.parent.name, p) for p in patterns)]
    assert len(tops) == len(patterns)
    imported = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert imported - {path.name for path in tops} <= {"benchmarks", "tests"}

    files = set().union(*(files_of(top) for top in tops))
    modules = {path for path in files if path.suffix == ".py"}
    assert all((path.parent / "__init__.py").is_file() for path in modules), (
        "a directory of modules without __init__.py"
    )
    data = set()
    for package, globs in SETUPTOOLS["package-data"].items():
        for pattern in globs:
            data |= set(ROOT.joinpath(*package.split(".")).glob(pattern))
    assert files - modules == {path for path in data if path.is_file()}
    assert ROOT / "metrics/weights/renders_small.pt" in data and ROOT / "trainer/viewer/page/index.html" in data
