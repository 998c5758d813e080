#!/usr/bin/env bash
# Run the tests with the newest versions that pyproject.toml allows, in an environment of their own. torch is the one of
# constraints.txt, or TORCH, because its newest build may bring gigabytes of CUDA.
# usage: test_latest.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LATEST=${LATEST:-build/latest}
TORCH=${TORCH:-$(grep '^torch==' constraints.txt)}

"$PYTHON" -m venv "$LATEST"
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
echo "$TORCH" >"$constraint"
"$LATEST/bin/pip" install -q --disable-pip-version-check "$TORCH"
"$LATEST/bin/pip" install -q --disable-pip-version-check --upgrade --upgrade-strategy eager -c "$constraint" "$TORCH" -e '.[dev]'
echo "test-latest: versions other than those of constraints.txt:"
"$LATEST/bin/pip" freeze --exclude-editable | grep -vixFf constraints.txt || echo "none"
PYTHONDONTWRITEBYTECODE= "$LATEST/bin/python" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
