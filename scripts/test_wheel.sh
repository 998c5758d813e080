#!/usr/bin/env bash
# Build a wheel, install it into a fresh environment, and use it from another directory, with its files read-only.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-$(grep '^torch==' constraints.txt)}
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT

step() { echo "test-wheel: $*"; }

step "build the wheel from a copy of the files in git"
mkdir "$folder/source" "$folder/elsewhere"
git ls-files -z | xargs -0 cp --parents -t "$folder/source"
"$PYTHON" -m venv "$folder/env"
bin=$folder/env/bin
"$bin/pip" wheel -q --disable-pip-version-check --no-deps -w "$folder/dist" "$folder/source"
rm -r "$folder/source"

step "install $TORCH and the wheel with constraints.txt"
grep -v '^torch==\|^triton==' constraints.txt >"$folder/constraints.txt"
"$bin/pip" install -q --disable-pip-version-check "$TORCH"
"$bin/pip" install -q --disable-pip-version-check -c "$folder/constraints.txt" "$TORCH" "$folder"/dist/unrender-*.whl

packages=$(echo "$folder"/env/lib/python*/site-packages)
chmod -R a-w "$packages"  # root may write all the same: the list of files, without caches of bytecode and numba, is compared at the end
find "$packages" -type f ! -path '*/__pycache__/*' | sort >"$folder/before"

cd "$folder/elsewhere"
export UNRENDER_CACHE=$folder/cache PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH
step "unrender doctor"
"$bin/unrender" doctor
step "unrender fit --config demo.yaml --trainer.fast_dev_run=2"
"$bin/unrender" fit --config demo.yaml --trainer.fast_dev_run=2
step "train with the Python API, with a spawned worker (docs/python.md)"
sed -n '/^<!-- file: train_chairs.py -->$/,/^```$/p' "$OLDPWD/docs/python.md" | sed '1,2d;$d' >train_chairs.py
"$bin/python" train_chairs.py
if ! find "$packages" -type f ! -path '*/__pycache__/*' | sort | diff "$folder/before" -; then
    echo "test-wheel: files were written into the installation" >&2
    exit 1
fi
step "passed"
