"""The command line, on a small model, target by target; and that errors are readable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import registries
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from cnnir.cli import app
from cnnir.ir import Graph, Node, Value
from cnnir.ops import OPS
from cnnir.passes import rule_pass
from cnnir.report.accuracy import accuracy_rows
from cnnir.rewrite import rule

SHAPE = (1, 3, 8, 8)


def small_model() -> onnx.ModelProto:
    """Conv, batch norm, Relu, global average, Flatten: image[N,3,8,8] -> scores[N,5]."""
    rng = np.random.default_rng(1)
    arrays = {"w": rng.standard_normal((5, 3, 3, 3)), "scale": rng.uniform(0.5, 1.5, 5)}
    arrays |= {"shift": rng.standard_normal(5), "mean": rng.standard_normal(5)}
    arrays["variance"] = rng.uniform(0.5, 1.5, 5)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], "norm"
        ),
        helper.make_node("Relu", ["n"], ["r"], "act"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["scores"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), path)
    return str(path)


def cnnir(*arguments: str) -> str:
    """What a command prints; fails when the command does."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout


def cnnir_json(*arguments: str) -> dict[str, Any]:
    return json.loads(cnnir(*arguments, "--json"))


def failure(*arguments: str) -> str:
    """The message of a command that must fail as commands should."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_run_checks_its_outputs(model: str, target: str) -> None:
    text = cnnir("run", model, "--target", target, "--check", "--threads", "1")
    assert "scores" in text and "f32[1,5]" in text and " ok" in text
    found = cnnir_json("run", model, "--target", target, "--check")
    assert found["outputs"][0]["type"] == "f32[1,5]"
    assert found["check"][0]["ok"] and found["check"][0]["error"] < 1e-6


def test_run_takes_arrays_and_saves_outputs(model: str, tmp_path: Path) -> None:
    image = np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", image)
    np.savez(tmp_path / "x.npz", image=image, other=image)
    common = ("--shape", "image=2,3,8,8", "--target", "reference")
    saved = []
    for given in ("image={}/x.npy", "{}/x.npy", "{}/x.npz"):
        path = tmp_path / "y.npz"
        source = given.format(tmp_path)
        cnnir("run", model, "--input", source, "--save", str(path), *common)
        saved.append(np.load(path)["scores"])
    assert saved[0].shape == (2, 5)
    np.testing.assert_array_equal(saved[0], saved[1])
    np.testing.assert_array_equal(saved[0], saved[2])
    cnnir("run", model, "--input", "random", "--save", str(path), *common)
    assert not np.array_equal(np.load(path)["scores"], saved[0])


def test_the_check_finds_wrong_outputs() -> None:
    y = np.array([1.0, 2.0, np.nan], np.float32)
    good, far = y.copy(), y + np.float32(1e-3)
    assert accuracy_rows({"y": good}, {"y": y})[0]["ok"]
    assert not accuracy_rows({"y": far}, {"y": y})[0]["ok"]
    assert not accuracy_rows({"y": np.zeros_like(y)}, {"y": y})[0]["ok"]
    assert not accuracy_rows({"i": np.array([1, 2])}, {"i": np.array([1, 3])})[0]["ok"]


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_compile_shows_the_plan(model: str, target: str) -> None:
    text = cnnir("compile", model, "--target", target, "--reasons")
    assert f"plan for {target}" in text and "conv" in text and "import" in text
    found = cnnir_json("compile", model, "--target", target)
    assert found["steps"] == len(found["plan"]) >= 2
    assert found["flops"] >= 2 * 5 * 3 * 9 * 8 * 8
    assert found["seconds"]["import"] > 0


def test_tuning_from_the_command_line(model: str) -> None:
    assert "tuned: " in cnnir("compile", model, "--tune", "--reasons", "--threads", "1")
    assert "only target cpu" in failure("compile", model, "--tune", "--target", "reference")


def test_bench_times_every_runner(model: str) -> None:
    arguments = ("bench", model, "--batch", "2", "--threads", "1", "--seconds", "0.05")
    text = cnnir(*arguments, "--against", "onnxruntime")
    assert "onnxruntime" in text and "GFLOP/s" in text and "of bound" in text
    assert "printed from the op's element definition" not in text
    assert "predicted" in cnnir(*arguments, "--reasons")
    found = cnnir_json(*arguments)
    assert [row["runner"] for row in found["rows"]] == ["cnnir"]
    assert 0 < found["rows"][0]["min_s"] <= found["rows"][0]["median_s"]
    assert found["peak_gflops"] > 0 and found["read_gbytes"]["memory"] > 0
    assert sum(step["share"] for step in found["steps"]) > 0.99
    assert all(step["reason"] and step["binds"] for step in found["steps"])


def test_inspect_shows_the_graph_at_any_pass(model: str) -> None:
    imported = cnnir("inspect", model, "--pass", "import")
    assert imported.startswith("graph @small(%image: f32[1,3,8,8]) {")
    assert "batch_norm" in imported
    final = cnnir("inspect", model)
    assert "batch_norm" not in final.split("\n}")[0] and "fuse" in final
    changed = cnnir("inspect", model, "--diff")
    assert any(line.startswith("-") and "batch_norm" in line for line in changed.splitlines())
    found = cnnir_json("inspect", model)
    assert found["imported"]["nodes"] > found["optimised"]["nodes"]
    for record in found["history"]:
        assert cnnir("inspect", model, "--pass", record["pass"])
    assert "conv" in cnnir("inspect", model, "--costs")


def test_inspect_verifies_passes_and_rules(model: str) -> None:
    found = cnnir_json("inspect", model, "--verify")
    assert 0 <= found["difference"] < 1e-12
    rules = {row["rule"]: row for row in found["rules"]}
    assert rules["batch_norm_to_affine"]["kind"] == "reassociating"
    assert 0 <= rules["batch_norm_to_affine"]["difference"] < 1e-12
    assert "no pass changes an output by more than" in cnnir("inspect", model, "--verify")
    assert "no pass and no rewrite changes" in cnnir("inspect", model, "--bisect", "unused")


def test_a_bad_rewrite_is_reported_with_files(model: str, tmp_path: Path) -> None:
    with registries.declared():

        @rule("batch_norm")
        def forgets_it(g: Graph, node: Node) -> Value | None:
            """bn(x) => x  [wrong]"""
            return node.operands[0]

        rule_pass("forgetful", forgets_it)
        message = failure("inspect", model, "--passes", "forgetful", "--verify")
        assert "pass forgetful changed output 'scores'" in message and "norm" in message
        stem = str(tmp_path / "small")
        message = failure("inspect", model, "--passes", "fold,forgetful", "--bisect", stem)
    assert "rule forgets_it of pass forgetful at <batch_norm" in message and "on 1 nodes" in message
    assert onnx.load(f"{stem}.onnx").graph.node[0].op_type == "BatchNormalization"
    assert "wanted.y0" in np.load(f"{stem}.npz").files


def test_inspect_draws_for_graphviz(model: str) -> None:
    text = cnnir("inspect", model, "--dot")
    lines = text.splitlines()
    assert lines[0] == "digraph {" and lines[-1] == "}"
    nodes = set(re.findall(r"^  (\w+) \[label", text, re.MULTILINE)) - {"graph"}
    edges = re.findall(r"^  (\w+) -> (\w+) \[label=", text, re.MULTILINE)
    assert len(edges) == len(nodes) - 1 and {n for edge in edges for n in edge} == nodes
    assert re.search(r'tooltip="[^"]*norm', text)
    assert "batch_norm" in cnnir("inspect", model, "--dot", "--pass", "import")


def test_why_tells_of_one_node_or_of_all(model: str) -> None:
    text = cnnir("why", model, "norm")
    assert "imported as batch_norm(f32[1,5,8,8]" in text and "batch_norm_to_affine" in text
    assert "step 0" in text and "because:" in text
    rows = cnnir_json("why", model)["provenance"]
    assert {row["source"] for row in rows} == {"conv", "norm", "act", "pool", "flat"}
    assert "kernel" in cnnir("why", model) and "near are 'norm'" in failure("why", model, "norn")


def test_run_shows_watched_tensors(model: str, tmp_path: Path) -> None:
    saved = str(tmp_path / "o.npz")
    found = cnnir_json("run", model, "--watch", "r", "--watch", "norm", "--save", saved)
    assert [row["output"] for row in found["watched"]] == ["r", "norm"]
    with np.load(saved) as arrays:
        np.testing.assert_allclose(arrays["r"], np.maximum(arrays["norm"], 0), atol=1e-6)
        mean = arrays["r"].mean((2, 3))
        np.testing.assert_allclose(arrays["scores"], mean, rtol=1e-5, atol=1e-6)
    assert "watched" in cnnir("run", model, "--watch", "r")


def test_ops_are_listed_and_documented() -> None:
    assert {row["op"] for row in cnnir_json("ops")["ops"]} >= set(OPS) - {"fused"}
    assert "relu" in cnnir("ops")
    assert "max(x, 0)" in cnnir("ops", "relu")
    coverage = {
        row["operator"]: row["imported"] for row in cnnir_json("ops", "--coverage")["coverage"]
    }
    assert coverage["Conv"] and coverage["MaxPool"] and not coverage["LSTM"]
    assert "Conv" in cnnir("ops", "--coverage")


def test_errors_are_one_readable_paragraph(model: str, tmp_path: Path) -> None:
    assert "missing.onnx" in failure("run", str(tmp_path / "missing.onnx"))
    (tmp_path / "junk.onnx").write_bytes(b"this is no model")
    failure("compile", str(tmp_path / "junk.onnx"))
    assert "there is no target 'gpu'" in failure("run", model, "--target", "gpu")
    assert "wanted something like" in failure("run", model, "--shape", "image=a,b")
    assert "junk.onnx is not a .npy" in failure(
        "run", model, "--target", "reference", "--input", str(tmp_path / "junk.onnx")
    )
    assert "there is no input 'img'; the model takes " in failure(
        "run", model, "--input", "img=a.npy"
    )
    assert "there is no op 'nothing'" in failure("ops", "nothing")
    assert "only against onnxruntime" in failure("bench", model, "--against", "other")
    assert "no pass" in failure("inspect", model, "--pass", "nothing")


def test_version_and_the_module_form() -> None:
    assert cnnir("--version").startswith("cnnir 0.")
    command = [sys.executable, "-m", "cnnir.cli", "ops", "relu"]
    assert "max(x, 0)" in subprocess.run(command, capture_output=True, text=True).stdout


def test_inspect_prints_cuda(model: str) -> None:
    assert "__global__" in cnnir("inspect", model, "--cuda")
