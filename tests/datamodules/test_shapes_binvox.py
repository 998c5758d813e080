"""binvox files: axis order, round trips, and errors on corrupt files."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datamodules.shapes import read_binvox, write_binvox
from utils.errors import InputError

HEADER = b"#binvox 1\ndim 2 2 2\ntranslate 0 0 0\nscale 1\ndata\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("binvox") / "shape.binvox"


@given(
    voxels=st.integers(1, 12).flatmap(lambda d: hnp.arrays(bool, (d, d, d))),
    translate=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    scale=st.floats(1e-6, 1e6),
)
@settings(max_examples=80, deadline=None)
def test_round_trip(file, voxels, translate, scale):
    write_binvox(file, voxels, translate, scale)
    back = read_binvox(file)
    np.testing.assert_array_equal(back.voxels, voxels)
    assert back.translate == translate
    assert back.scale == scale


@pytest.mark.parametrize("fill", [0.0, 0.001, 0.5, 1.0])
def test_round_trip_of_long_runs(file, fill):
    voxels = np.random.default_rng(0).random((40, 40, 40)) < fill
    write_binvox(file, voxels)
    np.testing.assert_array_equal(read_binvox(file).voxels, voxels)


def test_y_runs_fastest_then_z_then_x(file):
    # By the format's definition, voxel n of the file is x = n // D², z = n // D % D, y = n % D.
    for n in range(27):
        runs = bytes([0, n, 1, 1, 0, 26 - n])
        file.write_bytes(b"#binvox 1\ndim 3 3 3\ntranslate 0 0 0\nscale 1\ndata\n" + runs)
        ((z, y, x),) = np.argwhere(read_binvox(file).voxels)
        assert (x, z, y) == (n // 9, n // 3 % 3, n % 3)


def test_written_bytes(file):
    voxels = np.zeros((2, 2, 2), bool)
    voxels[1, 0, 0] = True  # x 0, y 0, z 1: third in the file
    write_binvox(file, voxels, (0.5, -1, 2), 3)
    expected = b"#binvox 1\ndim 2 2 2\ntranslate 0.5 -1.0 2.0\nscale 3.0\ndata\n\x00\x02\x01\x01\x00\x05"
    assert file.read_bytes() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a binvox"),
        (b"PK\x03\x04", "not a binvox"),
        (b"#binvox 2\n" + HEADER[10:] + b"\x00\x08", "version 1"),
        (HEADER, "contain 0 voxels"),
        (HEADER + b"\x00\x07", "contain 7 voxels"),
        (HEADER + b"\x00\x08\x00\x01", "contain 9 voxels"),
        (HEADER + b"\x00\x08\x00", "within a"),
        (HEADER + b"\x07\x08", "other than 0 and 1"),
        (HEADER[:-5], "no line 'data'"),
        (HEADER.replace(b"dim 2 2 2", b"dim 2 2 3") + b"\x00\x0c", "2 × 2 × 3"),
        (HEADER.replace(b"dim 2 2 2", b"dim 2000 2000 2000") + b"\x00\x08", "2000³"),
        (HEADER.replace(b"dim 2 2 2", b"dim 0 0 0"), "0³"),
        (HEADER.replace(b"dim 2 2 2", b"dim -2 -2 -2") + b"\x00\x08", "three dimensions"),
        (HEADER.replace(b"dim 2 2 2\n", b"") + b"\x00\x08", "three dimensions"),
        (HEADER.replace(b"dim 2 2 2\n", b"dim 2 2 2\ndim 2 2 2\n") + b"\x00\x08", "repeats"),
        (HEADER.replace(b"scale 1", b"scale nan") + b"\x00\x08", "scale"),
        (HEADER.replace(b"scale 1", b"scale 0") + b"\x00\x08", "scale"),
        (HEADER.replace(b"scale 1", b"scale 1e999") + b"\x00\x08", "finite"),
        (HEADER.replace(b"translate 0 0 0", b"translate 0 0") + b"\x00\x08", "translate"),
    ],
)
def test_corrupt_files_raise_in_one_sentence(file, content, message):
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_binvox(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_raise(tmp_path):
    for path in (tmp_path / "none.binvox", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read|no such file"):
            read_binvox(path)


@given(st.binary(max_size=200), st.integers(0, 120), st.booleans())
@settings(max_examples=200, deadline=None)
def test_corrupt_files_raise_only_input_errors(file, noise, at, headed):
    valid = HEADER.replace(b"2 2 2", b"4 4 4") + b"\x00\x20\x01\x20"
    file.write_bytes(valid[:at] + noise + (valid[at:] if headed else b""))
    with contextlib.suppress(InputError):
        assert read_binvox(file).voxels.dtype == bool


@pytest.mark.usefixtures("unchecked")
def test_unsupported_shapes_raise(file):
    with pytest.raises(ValueError, match="shape"):
        write_binvox(file, np.zeros((2, 2, 3), bool))
