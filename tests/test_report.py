"""The report's data: what a browser would find in it is what the compiler did."""

from __future__ import annotations

import base64
import json
import re
import tomllib
import zlib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_models import EVIL, small_net
from test_cli import cnnir as command

import cnnir
from cnnir.ir import Graph, Node
from cnnir.pipeline import optimise
from cnnir.report.html import page as html_page
from cnnir.report.html.page import as_json, joined
from cnnir.report.html.stages import Stages
from cnnir.report.html.subject import Subject
from cnnir.report.html.weights import Weights, described
from cnnir.tensortype import TensorType

FOLDER = Path(__file__).parents[1] / "cnnir" / "report" / "html"


def parsed(path: Path) -> dict[str, Any]:
    """The JSON of a report."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def compiled() -> Any:
    return cnnir.compile(small_net(), threads=1)


@pytest.fixture(scope="module")
def report(compiled: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("report") / "small.html"
    compiled.report(path, title="a title", seconds=0.05)
    return parsed(path)


def test_stages_replay_to_the_graphs_after_each_pass() -> None:
    """Numbers, operands and sources at each stage are those of the graph, node by node."""
    imported = small_net()
    records = optimise(imported.clone(), snapshots=True)
    plan = cnnir.compile(small_net(), "reference").plan
    subject = Subject("t", imported, records, plan)
    weights = Weights()
    stages = Stages(subject, weights)
    order: list[int] = []
    inputs: dict[int, list[Any]] = {}
    sources: dict[int, list[str]] = {}
    seen = 0
    for stage, graph in zip(stages.stages, subject.graphs, strict=True):
        order = stage.get("order", order)
        for number, told in stage["changed"].items():
            inputs |= {number: told["in"]} if "in" in told else {}
            sources |= {number: told["from"]} if "from" in told else {}
        nodes = [node for node in graph.order() if node.kind != "param"]
        assert [stages.nodes[n]["op"] for n in order] == [node.name for node in nodes]
        for number, node in zip(order, nodes, strict=True):
            assert sources[number] == list(node.sources)
            assert inputs[number] == [
                _reference(graph, v, order, nodes, weights) for v in node.operands
            ]
        seen += "order" in stage
    assert seen >= 3  # import, a pass that folds, fusion


def _reference(
    graph: Graph, value: Any, order: list[int], nodes: list[Node], weights: Weights
) -> Any:
    if value.node.kind == "param":
        row = -1 - weights.number(graph, value)
        assert weights.rows[-1 - row]["name"] == value.name
        return row
    return order[nodes.index(value.node)]


def test_fused_nodes_name_what_they_are_made_of(report: dict[str, Any]) -> None:
    fuse = next(stage for stage in report["stages"] if stage["label"] == "fuse")
    nodes = report["nodes"]
    made = [number for number in fuse["heirs"] if "parts" in nodes[int(number)]]
    assert any("conv" in nodes[int(number)]["parts"] for number in made)
    for number in made:
        gone = [nodes[n]["op"] for n in fuse["heirs"][number]]
        assert sorted(gone) == sorted(nodes[int(number)]["parts"])


def test_kernels_have_their_texts_times_and_bounds(compiled: Any, report: dict[str, Any]) -> None:
    def text(number: int) -> str:
        return zlib.decompress(base64.b64decode(report["texts"][number]), -15).decode()

    plan, program = report["plan"], compiled._first.program
    assert [step["kernel"] for step in plan["steps"]] == [s.kernel for s in compiled.plan.steps]
    for step in plan["steps"]:
        kernel = plan["kernels"][step["symbol"]]
        assert text(kernel["LLVM IR"]) == program.texts()[step["symbol"]]
        assert step["symbol"] in text(kernel["assembly"])
        assert step["seconds"] > 0
        assert step["by"] in ("FMA", *(name for name, _ in plan["levels"]))
        if step["by"] == "FMA":
            assert step["bound"] == pytest.approx(step["flops"] / plan["peak"], rel=1e-4)
        slowest = min(rate for _, rate in plan["levels"])
        most = max(step["flops"] / plan["peak"], step["bytes"] / slowest)
        assert 0 < step["bound"] <= most * 1.0001
        if step["kernel"] != "pack":
            assert text(step["texts"]["loops"]).startswith("kernel ")
            assert "__global__" in text(step["texts"]["CUDA C"])
            node = report["nodes"][step["node"]]
            assert step["op"] == " + ".join(node.get("parts", [node["op"]]))


def test_steps_name_source_nodes_of_the_last_stage(report: dict[str, Any]) -> None:
    order = next(s["order"] for s in reversed(report["stages"]) if "order" in s)
    assert {step["node"] for step in report["plan"]["steps"]} <= set(order)


def test_buffers_that_live_together_do_not_overlap(report: dict[str, Any]) -> None:
    plan = report["plan"]
    assert plan["buffers"]
    for i, a in enumerate(plan["buffers"]):
        assert 0 <= a["first"] <= a["last"] < len(plan["steps"])
        assert a["offset"] + a["bytes"] <= plan["arena"]
        for b in plan["buffers"][:i]:
            together = a["first"] <= b["last"] and b["first"] <= a["last"]
            apart = (
                a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]
            )
            assert apart or not together, (a, b)


def test_weights_as_histogram_and_picture() -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((70, 3, 5, 5)).astype(np.float32)
    row = described("w", str(TensorType.of(array)), array)
    assert sum(row["histogram"]) == array.size
    assert (row["least"], row["most"]) == (array.min(), array.max())
    assert row["mean"] == pytest.approx(array.mean(), abs=1e-6)
    picture = row["filters"]
    raw = np.frombuffer(base64.b64decode(picture["pixels"]), np.uint8)
    shown = raw.reshape(picture["count"], 3, 5, 5).astype(np.float64)
    back = (shown - 128) / 127 * np.abs(array[:64]).max()
    assert picture["of"] == 70
    np.testing.assert_allclose(back, array[:64], atol=np.abs(array).max() / 127)


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, 1.0] * 8, np.float32),
        np.array([np.inf] * 16, np.float32),
        np.zeros((0, 3), np.float32),
        np.full(20, 7, np.float32),
        np.arange(40, dtype=np.int64),
        np.array([True, False] * 6),
        np.array(3.5, np.float32),
    ],
    ids=["nan", "inf", "empty", "constant", "integers", "bools", "scalar"],
)
def test_any_array_can_be_described(array: np.ndarray) -> None:
    row = described("p", str(TensorType.of(array)), array)
    if np.isfinite(array.astype(np.float64)).all():
        assert "special" not in row
    else:
        assert row["special"] == np.sum(~np.isfinite(array))
    if "histogram" in row:
        assert sum(row["histogram"]) == array.size


def test_inputs_that_random_numbers_do_not_fit_are_told(tmp_path: Path) -> None:
    g = Graph("lookup")
    at = g.input(TensorType("i64", (40,)), "at")
    g.output(g.add("gather", g.param("table", np.ones((1, 3), np.float32)), at, axis=0))
    cnnir.compile(g, threads=1).report(tmp_path / "r.html", seconds=0.01)
    plan = parsed(tmp_path / "r.html")["plan"]
    assert plan["runs"] == 0 and "out of range" in plan["notes"][-1]


def test_hostile_names_stay_inside_the_data(tmp_path: Path) -> None:
    exe = cnnir.compile(small_net(EVIL, title=EVIL[0]), "reference")
    exe.report(tmp_path / "evil.html")
    text = (tmp_path / "evil.html").read_text()
    assert "<img" not in text
    assert text.count("</script>") == 3  # the layout's, the data's and the page's own
    assert text.count("<!--") == 0
    data = parsed(tmp_path / "evil.html")
    names = [name for stage in data["stages"] for told in stage["changed"].values()
             for name in told.get("from", [])]  # fmt: skip
    assert set(EVIL) <= set(names)
    assert data["name"] == EVIL[0]
    assert not data["plan"]["runs"] and not data["plan"]["kernels"]


def test_json_survives_the_page() -> None:
    found = {"a": "</script>", "b": [1.5, float("inf"), None], "c": "\u2028 <b>"}
    assert "<" not in as_json(found)
    assert json.loads(as_json(found)) == {
        "a": "</script>",
        "b": [1.5, "inf", None],
        "c": "\u2028 <b>",
    }


@pytest.mark.parametrize("entry", ["main.js", "layout-worker.js"])
def test_modules_join_to_one_script(entry: str) -> None:
    script = joined(entry)
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    assert "</script" not in script
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names))


def test_all_modules_are_used_and_installed() -> None:
    joint = joined("main.js") + joined("layout-worker.js")
    for path in (FOLDER / "js").iterdir():
        first, *rest = path.read_text().splitlines()
        assert len(rest) < 400, f"{path.name} is more than a sitting"
        assert first.startswith("// ") and first in joint, path.name
    project = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["cnnir.report.html"]
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch(str(path.relative_to(FOLDER)), p) for p in patterns), path


def test_inspect_writes_a_report(tmp_path: Path) -> None:
    model, target = tmp_path / "small net.onnx", tmp_path / "report.html"
    cnnir.save_onnx(small_net(), model)
    shown = command(
        "inspect", str(model), "--html", str(target), "--target", "reference", "--seconds", "0"
    )
    assert "report.html" in shown
    assert parsed(target)["name"] == "small net"


def test_a_report_needs_no_passes() -> None:
    """A target that runs none, a graph of one node: one stage."""
    g = Graph("one")
    g.output(g.add("relu", g.input(TensorType("f32", (2,)), "x")))
    plan = cnnir.compile(g, "reference").plan
    data = json.loads(
        re.search(r'id="data">(.*?)</script>', html_page(Subject("one", g, [], plan)))[1]
    )  # type: ignore[index]
    assert [stage["label"] for stage in data["stages"]] == ["import"]
