#!/usr/bin/env bash
# Run the OpenGL tests with each supported pyrender: the pinned version and its two maintained forks.
set -euo pipefail
python=$1
for package in pyrender pyrender-maintained==1.0.1 pyrender2==0.2.2; do
    echo "== $package"
    if [ "$package" = pyrender ]; then
        "$python" -m pytest -q tests/renderers -k "opengl"
    else
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        "$python" -m pip install -q --disable-pip-version-check --no-deps --target "$folder" "$package"
        PYTHONPATH="$folder" "$python" -m pytest -q tests/renderers -k "opengl"
    fi
done
