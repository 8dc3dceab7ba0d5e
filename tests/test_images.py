"""Programs kept on disk: found again for the same model, never for another, and never believed."""

import gc
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnnir
from cnnir import identity
from cnnir.backends.llvm import images, make
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ops import Elementwise


def model(seed: int = 1, channels: int = 37, batch: int | str = "N") -> onnx.ModelProto:
    """Two convolutions with batch normalisation, so that every weight is a new array."""
    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    norm = ["scale", "shift", "mean", "variance"]
    given = [weights(name, channels) for name in norm[:3]]
    spread = numpy_helper.from_array(rng.uniform(0.5, 2, channels).astype(np.float32), norm[3])
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", *norm], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "act"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "conv2", pads=[1, 1, 1, 1]),
    ]
    kernels = [weights("w1", channels, 5, 3, 3), weights("w2", 7, channels, 3, 3)]
    return onnx_model(
        nodes, [("x", [batch, 5, 13, 11])], [("y", [batch, 7, 13, 11])], [*given, spread, *kernels]
    )


def onnx_model(nodes, inputs, outputs, initializers=(), kinds=("FLOAT", "FLOAT")):
    infos = [
        [
            helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)
            for name, shape in w
        ]
        for w, kind in zip((inputs, outputs), kinds, strict=True)
    ]
    graph = helper.make_graph(nodes, "g", *infos, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


X = np.random.default_rng(0).standard_normal((1, 5, 13, 11)).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[cnnir.Graph]:
    """What is compiled, not found."""
    graphs: list[cnnir.Graph] = []
    really = make.make

    def noted(graph, *others):
        graphs.append(graph)
        return really(graph, *others)

    monkeypatch.setattr(make, "make", noted)
    return graphs


def wanted(model_or_path) -> np.ndarray:
    return cnnir.evaluate(cnnir.load(model_or_path), [X], dtype="f64")[0]


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 2e-5 * np.abs(want).max())


def kept(folder: Path) -> list[Path]:
    images.settle()
    return list(folder.glob("*.cnnirprogram"))


def test_a_model_met_again_is_not_compiled_again(tmp_path: Path, file: Path, made) -> None:
    first = cnnir.compile(file, cache=tmp_path, threads=2)
    assert len(made) == 1 and len(kept(tmp_path)) == 1
    (tmp_path / "sub").mkdir()
    same = tmp_path / "sub" / "renamed.onnx"
    file.rename(same)
    again = cnnir.compile(same, cache=tmp_path, threads=2)
    assert len(made) == 1
    np.testing.assert_array_equal(again(X), first(X))
    assert close(again(X), wanted(same))
    assert again.plan.text() == first.plan.text() and again.plan.buffers == first.plan.buffers
    assert [s.reason for s in again.plan.steps] == [s.reason for s in first.plan.steps]
    assert list(again.plan.seconds) == ["recall"]
    assert again.inputs == first.inputs == {"x": cnnir.TensorType("f32", X.shape)}
    assert list(again.outputs) == again.output_names == ["y"]
    assert len(again.profile({"x": X})) == len(again.plan.steps)


def test_graph_and_history_are_there_all_the_same(tmp_path: Path, file: Path, made) -> None:
    for _ in range(2):
        exe = cnnir.compile(file, cache=tmp_path)
        graph = exe.graph
        assert graph is exe.graph
        assert close(exe(X), cnnir.evaluate(graph, [X], dtype="f64")[0])
        assert {r.name for r in exe.history} > {"fold", "batch_norm", "fuse"}
        assert any(r.rewrites for r in exe.history if r.name == "batch_norm")
    assert len(made) == 1
    assert "param" in str(graph) and not any(s.name == "batch_norm" for s in graph.order())


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 1},
        {"shapes": {"x": (3, 5, 13, 11)}},
        {"precision": "exact"},
        {"features": "sse2"},
        {"passes": "inference,-fuse"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_option_is_another_program(tmp_path: Path, file: Path, made, change) -> None:
    if "features" in change and not CpuTarget.host().x86:
        pytest.skip("an x86 level")
    x = np.random.default_rng(2).standard_normal((3, 5, 13, 11)).astype(np.float32)
    cnnir.compile(file, cache=tmp_path, threads=2)
    exe = cnnir.compile(file, cache=tmp_path, **{"threads": 2} | change)
    assert len(made) == 2 and len(kept(tmp_path)) == 2
    x = x[: exe.inputs["x"].shape[0]]
    graph = cnnir.load(file, {"x": x.shape})
    assert close(exe(x), cnnir.evaluate(graph, [x], dtype="f64")[0])


def test_a_changed_file_is_compiled_again(tmp_path: Path, file: Path, made) -> None:
    old = cnnir.compile(file, cache=tmp_path)
    before = old(X)
    onnx.save(model(seed=2), file)
    new = cnnir.compile(file, cache=tmp_path)
    assert len(made) == 2 and len(kept(tmp_path)) == 2
    assert close(new(X), wanted(file)) and not close(new(X), before)
    np.testing.assert_array_equal(old(X), before)
    for ask in (lambda: old.graph, lambda: old(np.concatenate([X, X]))):
        with pytest.raises(cnnir.ModelError, match=r"model\.onnx' has changed since it was comp"):
            ask()


def test_other_source_and_own_extensions(
    tmp_path: Path, file: Path, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    cnnir.compile(file, cache=tmp_path)
    for stamp, count in (("another", 2), ("another", 2), ("", 3)):
        monkeypatch.setattr(identity, "source_stamp", lambda stamp=stamp: stamp)
        cnnir.compile(file, cache=tmp_path)
        assert len(made) == count
    monkeypatch.undo()
    assert not identity.extended()

    class Mine(Elementwise):
        """y = x."""

        name = "mine_for_images"

        def scalar(m, x):
            return x

    try:
        assert identity.extended()
    finally:
        del cnnir.OPS["mine_for_images"]
    from cnnir import passes

    monkeypatch.setitem(passes.PIPELINES, "inference", passes.PIPELINES["inference"][:-1])
    assert identity.extended()


def test_the_stamp_sees_every_change(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    source = tmp_path / "deep" / "a.py"
    source.write_text("x = 1\n")
    before = list(identity._sources(str(tmp_path)))
    source.write_text("x = 2\n")
    os.utime(source, ns=(0, before[0][2] + 1))
    after = list(identity._sources(str(tmp_path)))
    assert len(before) == len(after) == 1 and before != after
    assert list(identity._sources(str(tmp_path / "none"))) == []


def test_who_looks_at_the_passes_sees_them_run(tmp_path: Path, file: Path, made) -> None:
    for options in ({"verify": True}, {"snapshots": True}):
        for _ in range(2):
            cnnir.compile(file, cache=tmp_path, **options)
    assert len(made) == 4 and not kept(tmp_path)


def test_models_that_are_no_single_file_are_not_kept(tmp_path: Path, made) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights", size_threshold=64)
    for source in (path, path, model(), model().SerializeToString(), cnnir.load(model())):
        assert close(cnnir.compile(source, cache=tmp_path)(X), wanted(model()))
    assert len(made) == 5 and not kept(tmp_path)


# ---- what may have happened to a file


def damage(path: Path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(position * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 0.002, 0.1, 0.3, 0.9, 1])
def test_a_damaged_program_is_compiled_again(tmp_path, file, made, position) -> None:
    first = cnnir.compile(file, cache=tmp_path)
    (path,) = kept(tmp_path)
    damage(path, position)
    exe = cnnir.compile(file, cache=tmp_path)
    assert len(made) == 2 and any("damaged and was compiled again" in n for n in exe.plan.notes)
    np.testing.assert_array_equal(exe(X), first(X))
    again = cnnir.compile(file, cache=tmp_path)  # it was replaced, and told nothing of this
    assert len(made) == 2 and not any("damaged" in n for n in again.plan.notes)


@pytest.mark.parametrize("length", [0, 10, 200, 5000, -1])
def test_so_is_one_cut_short(tmp_path: Path, file: Path, made, length: int) -> None:
    first = cnnir.compile(file, cache=tmp_path)
    (path,) = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    np.testing.assert_array_equal(cnnir.compile(file, cache=tmp_path)(X), first(X))
    assert len(made) == 2


def test_a_program_under_another_name_is_refused(tmp_path: Path, file: Path, made) -> None:
    cnnir.compile(file, cache=tmp_path)
    (path,) = kept(tmp_path)
    onnx.save(model(seed=2), file)
    cnnir.compile(file, cache=tmp_path)
    (other,) = (p for p in kept(tmp_path) if p != path)
    other.write_bytes(path.read_bytes())
    assert close(cnnir.compile(file, cache=tmp_path)(X), wanted(file))
    assert len(made) == 3


def test_what_others_could_have_written_is_not_run(tmp_path: Path, file: Path, made) -> None:
    cnnir.compile(file, cache=tmp_path)
    (path,) = kept(tmp_path)
    path.chmod(0o666)
    exe = cnnir.compile(file, cache=tmp_path)
    assert len(made) == 2 and any("writable by others" in note for note in exe.plan.notes)


def test_no_room_no_program(tmp_path, file, made, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(images.shutil, "disk_usage", lambda _: Full)
    exe = cnnir.compile(file, cache=tmp_path)
    assert not kept(tmp_path) and close(exe(X), wanted(file))
    assert any("too little room to keep programs" in note for note in exe.plan.notes)


def test_the_oldest_go_when_there_are_too_many(tmp_path, file, monkeypatch) -> None:
    cnnir.compile(file, cache=tmp_path)
    (first,) = kept(tmp_path)
    os.utime(first, (1, 1))
    monkeypatch.setattr(images.ImageCache, "default_limit", int(1.5 * first.stat().st_size))
    objects = len(list(tmp_path.glob("*.cnnirobject")))
    onnx.save(model(seed=2), file)
    cnnir.compile(file, cache=tmp_path)
    assert len(kept(tmp_path)) == 1 and not first.exists()
    assert len(list(tmp_path.glob("*.cnnirobject"))) >= objects


def test_processes_that_compile_at_once(tmp_path: Path, file: Path) -> None:
    """All get the same numbers, whoever writes and whoever reads; nothing is left half written."""
    program = (
        "import sys, hashlib, numpy as np, cnnir\n"
        "x = np.random.default_rng(0).standard_normal((1, 5, 13, 11)).astype(np.float32)\n"
        "exe = cnnir.compile(sys.argv[1], cache=sys.argv[2], threads=2)\n"
        "print(hashlib.sha256(exe(x).tobytes()).hexdigest(), exe.plan.notes)\n"
    )
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", program, str(file), str(folder)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs) and len(said) == 1
    assert len(kept(folder)) == 1 and not list(folder.glob("tmp-*"))


def test_a_result_does_not_wait_for_the_file(tmp_path: Path, file: Path, made, monkeypatch) -> None:
    """The writer is held up until there is a result; who compiles again waits for the writer."""
    computed, store = threading.Event(), images.ImageCache._store

    def late(self, *others):
        assert computed.wait(60)
        store(self, *others)

    monkeypatch.setattr(images.ImageCache, "_store", late)
    first = cnnir.compile(file, cache=tmp_path)
    result = first(X)
    assert not list(tmp_path.glob("*.cnnirprogram"))
    first.close()  # what is written is kept until it is
    computed.set()
    again = cnnir.compile(file, cache=tmp_path)
    assert len(made) == 1
    np.testing.assert_array_equal(again(X), result)


def test_what_a_killed_process_began_goes_after_an_hour(tmp_path: Path, file: Path) -> None:
    old, new = tmp_path / "tmp-old", tmp_path / "tmp-new"
    for path, age in ((old, 7200), (new, 60)):
        path.write_bytes(b"a part")
        os.utime(path, (time.time() - age,) * 2)
    cnnir.compile(file, cache=tmp_path)
    images.settle()
    assert new.exists() and not old.exists()


# ---- programs of other kinds


def test_words_of_errors_and_lengths_survive(tmp_path: Path, made) -> None:
    gather = onnx_model(
        [helper.make_node("Gather", ["t", "i"], ["y"], "pick")],
        [("i", [4])],
        [("y", [4, 3])],
        [numpy_helper.from_array(np.arange(15, dtype=np.float32).reshape(5, 3), "t")],
        ("INT64", "FLOAT"),
    )
    nonzero = onnx_model(
        [helper.make_node("NonZero", ["x"], ["y"], "where")], [("x", [6])], [("y", [1, None])],
        kinds=("FLOAT", "INT64"),
    )  # fmt: skip
    onnx.save(gather, tmp_path / "gather.onnx")
    onnx.save(nonzero, tmp_path / "nonzero.onnx")
    for count in (1, 1):
        exe = cnnir.compile(tmp_path / "gather.onnx", cache=tmp_path)
        assert len(made) == count
        np.testing.assert_array_equal(exe(np.array([4, 0, 1, 2]))[0], [12, 13, 14])
        with pytest.raises(cnnir.RuntimeError, match=r"node pick: .* out of range in gather"):
            exe(np.array([0, 5, 0, 0]))
    for _ in range(2):
        exe = cnnir.compile(tmp_path / "nonzero.onnx", cache=tmp_path)
        assert len(made) == 2 and exe.output_names == ["y"]
        np.testing.assert_array_equal(exe(np.float32([0, 3, 0, 0, 1, 2])), [[1, 4, 5]])


# ---- memory


@pytest.mark.parametrize("warm", [False, True])
def test_weights_are_held_once(tmp_path: Path, warm: bool) -> None:
    """Packed, by the program; neither the file's arrays nor those that the passes made stay."""
    onnx.save(model(channels=9000, batch=1), tmp_path / "wide.onnx")
    options = {"cache": tmp_path, "precision": "exact"}  # Winograd wants memory to work in, too
    if warm:
        cnnir.compile(tmp_path / "wide.onnx", **options)
    onnx.save(model(), tmp_path / "small.onnx")
    cnnir.compile(tmp_path / "small.onnx", **options)(X)  # imports what is to be imported
    gc.collect()
    tracemalloc.start()
    try:
        exe = cnnir.compile(tmp_path / "wide.onnx", **options)
        exe(X)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    raw = 9000 * (5 + 7) * 9 * 4
    assert exe.plan.constant_bytes > raw  # so that a second copy of the weights would be seen
    assert held < exe.plan.constant_bytes + exe.plan.arena_bytes + raw / 3
    assert sum(a.nbytes for a in exe.graph.params.values()) > raw
