"""External tensor data: only regular files below the model's folder, and only what they hold."""

from __future__ import annotations

import os

import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto
from onnx_models import model, node

from cnnir import errors
from cnnir.evaluate import evaluate
from cnnir.frontends.onnx_import import load

W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def folder(tmp_path):
    """A model folder with a data file (8 bytes of other data first), and a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(b"\xaa" * 64)
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "data.bin").write_bytes(b"\xff" * 8 + W.tobytes())
    (inside / "sub" / "data.bin").write_bytes(b"\xff" * 8 + W.tobytes())
    return inside


def _write(folder, dims=(2, 3), raw=b"", **entries):
    tensor = TensorProto(
        name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    if raw:
        tensor.raw_data = raw
    for key, value in entries.items():
        tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
    proto = model([node("Add", ["x", "w"])])
    proto.graph.initializer.append(tensor)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["data.bin", "./data.bin", "sub/data.bin", "sub//./data.bin"])
@pytest.mark.parametrize("length", [{}, {"length": 24}])
def test_data_is_read(folder, location, length):
    graph = load(_write(folder, location=location, offset=8, **length))
    np.testing.assert_array_equal(evaluate(graph, [W])[0], W + W)


def test_a_path_without_a_folder(folder, monkeypatch):
    path = _write(folder, location="data.bin", offset=8)
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(load(path.name).params["w"], W)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "../secret.bin"}, "without '..'"),
        ({"location": "sub/../../secret.bin"}, "without '..'"),
        ({"location": "/etc/passwd"}, "absolute"),
        ({"location": "file:///etc/passwd"}, "cannot be opened"),
        ({"location": ""}, "empty"),
        ({"location": "."}, "must name a file"),
        ({"location": "a\0b"}, "NUL"),
        ({}, "no location"),
        ({"location": "absent.bin"}, "absent.bin.*No such file"),
        ({"location": "sub"}, "not a regular file"),
        ({"location": "data.bin/x"}, "cannot be opened"),
        ({"location": "data.bin", "offset": 9}, "size of 32"),
        ({"location": "data.bin", "offset": 2**62}, "size of 32"),
        ({"location": "data.bin", "offset": -8}, "negative"),
        ({"location": "data.bin", "offset": 2**70}, "external offset"),
        ({"location": "data.bin", "offset": "0x8"}, "external offset"),
        ({"location": "data.bin", "length": 8}, "length 8 does not match"),
        ({"location": "data.bin", "length": -1}, "negative"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": 4096}, "cannot be opened"),
    ],
)
def test_locations_and_ranges_are_checked(folder, entries, words):
    with pytest.raises(errors.ModelError, match=words):
        load(_write(folder, **entries))


def test_links_are_not_followed(folder):
    for name, target in (
        ("out", folder.parent / "secret.bin"),
        ("in", folder / "data.bin"),
        ("loop", folder / "loop"),
        ("parent", folder.parent),
    ):
        os.symlink(target, folder / name)
        location = f"{name}/secret.bin" if name == "parent" else name
        with pytest.raises(errors.ModelError, match=r"cannot be opened \(symbolic links"):
            load(_write(folder, location=location))


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(errors.ModelError, match="not a regular file"):
        load(_write(folder, location="pipe"))


def test_sizes_are_checked_before_allocation(folder):
    with pytest.raises(errors.LimitError, match="exceeds max_bytes"):
        load(_write(folder, dims=(2**20, 2**20), location="data.bin"))
    with pytest.raises(errors.ModelError, match="size of 32"):
        load(_write(folder, dims=(2**10, 2**19), location="data.bin"))


def test_keys_and_storage_are_unique(folder):
    path = _write(folder, location="data.bin")
    with pytest.raises(errors.ModelError, match="both external data and raw_data"):
        load(_write(folder, raw=b"\0" * 24, location="data.bin"))
    proto = model([node("Add", ["x", "w"])])
    tensor = proto.graph.initializer.add()
    tensor.CopyFrom(TensorProto(name="w", dims=[2, 3], data_type=1, data_location=1))
    for location in ("data.bin", "../secret.bin"):
        tensor.external_data.append(StringStringEntryProto(key="location", value=location))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(errors.ModelError, match="key 'location' twice"):
        load(path)


def test_bytes_have_no_folder(folder):
    data = _write(folder, location="data.bin").read_bytes()
    with pytest.raises(errors.ModelError, match="needs a model loaded from a path"):
        load(data)
