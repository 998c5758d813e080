#!/usr/bin/env bash
# Set up OpenGL for off-screen rendering, then create .venv with the exact versions of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

gl_command="apt-get install -y libegl1 libgl1-mesa-dri"
if ! ldconfig -p 2>/dev/null | grep -q 'libEGL\.so\.1' || ! ls /usr/lib/*/dri /usr/lib/dri /usr/lib64/dri >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: no libEGL found; install your system's EGL and Mesa drivers (Debian: $gl_command)" >&2
    elif [ "$(id -u)" = 0 ]; then
        apt-get update -qq && $gl_command -qq >/dev/null
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo $gl_command -qq >/dev/null
    else
        echo "setup: OpenGL is missing; run: sudo $gl_command" >&2
    fi
fi

"$PYTHON" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: unrender requires Python 3.11 or newer, but {sys.executable} is {sys.version.split()[0]}; set PYTHON=python3.x")
PY
if ! "$PYTHON" -m venv "$VENV" 2>/dev/null; then
    echo "setup: $PYTHON cannot create a virtual environment; on Debian run: apt-get install -y python3-venv" >&2
    exit 2
fi
echo "setup: installing PyTorch and the other packages of constraints.txt into $VENV (several minutes the first time)"
# Install torch first: as a dependency of another package, pip would install the newest build with gigabytes of CUDA.
"$VENV/bin/pip" install -q --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
if "$VENV/bin/python" -c 'import sys; from importlib.metadata import requires
sys.exit(not any(r.startswith("triton") for r in requires("torch") or []))'; then
    grep -v '^triton==' constraints.txt >"$constraints"  # torch requires, and has brought, another version
else
    cp constraints.txt "$constraints"
fi
"$VENV/bin/pip" install -q --disable-pip-version-check -c "$constraints" -e '.[dev]'
if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
    # pyrender pins 3.1.0, which cannot create textures with Python 3.12 or newer
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps PyOpenGL==3.1.10
fi
echo "setup: $VENV is ready"
