"""`check` lists every obstacle at once; `diff` shows what two graphs share and what they do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import info, model, node
from test_cli import cnnir as command
from test_cli import cnnir_json, failure, small_model

import cnnir
from cnnir.pipeline import optimise
from cnnir.report.diff import diff_rows, pairs
from cnnir.report.diff_page import diff_page


def full_of_obstacles() -> onnx.ModelProto:
    """Operators that are not there, one behind another, a shape known too late, a type."""
    lstm = node("LSTM", ["x", "w", "r"], ["h"], hidden_size=3)
    return model(
        [
            lstm,
            node("Relu", ["h"], ["behind"]),
            node("HannWindow", ["n"], ["window"]),
            node("Reshape", ["i", "to"], ["p"]),
            helper.make_node("Foo", ["behind"], ["f"], "mine", domain="my.domain"),
            node("Concat", ["f", "p", "window"], ["y"], axis=0),
        ],
        [
            info("x", (2, 1, 4)), info("w", (1, 12, 4)), info("r", (1, 12, 3)),
            info("i", (1, 1, 4, 4)), info("n", (), TensorProto.INT64),
            info("to", (4,), TensorProto.INT64),
            info("s", (2,), TensorProto.STRING),
        ],
    )  # fmt: skip


def test_check_lists_every_obstacle_with_what_is_near() -> None:
    proto = full_of_obstacles()
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    found = {o.operator or o.where: o for o in cnnir.check(proto)}
    lstm = found["LSTM"]
    assert lstm.where == "'lstm'" and lstm.opset > 6 and "MatMul" in lstm.nearest
    assert lstm.operands == ("f32[2,1,4]", "f32[1,12,4]", "f32[1,12,3]")
    assert found["HannWindow"].nearest == "a constant"
    assert "given at run time" in found["Reshape"].what
    assert found["Reshape"].nearest == "a constant" and found["Reshape"].operands[1] == "i64[4]"
    assert "my.domain.Foo" in found
    (string,) = (o for o in found.values() if "string" in o.what.lower())
    assert "floats" in string.nearest and "'s'" in string.where + string.what
    with pytest.raises(cnnir.UnsupportedError) as caught:
        cnnir.load(proto)
    assert list(caught.value.obstacles) == cnnir.check(proto)


def test_check_of_good_and_of_broken_models() -> None:
    assert cnnir.check(small_model()) == []
    (defect,) = cnnir.check(b"\x89PNG" * 9)
    assert "do not parse" in defect.what


def test_the_command_tables_them_and_fails(tmp_path) -> None:
    onnx.save(small_model(), tmp_path / "good.onnx")
    assert "nothing stands in the way" in command("check", str(tmp_path / "good.onnx"))
    assert cnnir_json("check", str(tmp_path / "good.onnx")) == {"obstacles": []}


# ---------------------------------------------------------------- diff


def test_a_graph_differs_in_nothing_from_itself() -> None:
    graph = cnnir.load(small_model())
    rows = diff_rows(graph, graph.clone())
    assert {row["status"] for row in rows} == {"same"}
    assert all(row["difference"] == 0 and not row["weights"] for row in rows)
    again = diff_rows(graph, cnnir.load(small_model()))  # other nodes, the same model
    assert {row["status"] for row in again} == {"same"}


def test_changed_weights_show_where_they_are() -> None:
    graph, other = cnnir.load(small_model()), cnnir.load(small_model())
    other.params["w"] = other.params["w"] * np.float32(1.5)
    rows = {row["left_sources"][0]: row for row in diff_rows(graph, other)}
    assert rows["conv"]["weights"] == pytest.approx(0.5)
    assert rows["conv"]["difference"] == pytest.approx(0.5)
    assert rows["norm"]["weights"] == 0 and rows["act"]["difference"] > 0.1
    assert all(row["difference"] is None for row in diff_rows(graph, other, values=False))


def test_passes_side_by_side() -> None:
    graph = cnnir.load(small_model())
    before = graph.clone()
    optimise(graph, "fold,batch_norm")
    status = [
        (p.status, p.left and p.left.name, p.right and p.right.name) for p in pairs(before, graph)
    ]
    assert ("removed", "conv", None) in status and ("same", "relu", "relu") in status
    assert [s for s in status if s[2] == "conv"] == [("changed", "batch_norm", "conv")]
    rows = diff_rows(before, graph)
    assert [row["status"] for row in rows][:2] == ["removed", "changed"]
    assert all(row["difference"] < 1e-6 for row in rows if row["difference"] is not None)


def test_diff_on_the_command_line(tmp_path) -> None:
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    onnx.save(small_model(), a)
    changed = small_model()
    changed.graph.node[2].op_type = "Tanh"
    onnx.save(changed, b)
    text = command("diff", a, b, "--html", str(tmp_path / "diff.html"))
    page = (tmp_path / "diff.html").read_text("utf-8")
    assert page.count("<tr class=") == len(cnnir_json("diff", a, b)["rows"])
    assert "relu(" in text and "tanh(" in text and "4 nodes the same" in text
    assert "batch_norm(" in command("diff", a)
    rows = cnnir_json("diff", a, "--from", "import", "--to", "fold")["rows"]
    assert {row["status"] for row in rows} == {"same"}
    assert "no pass 'nothing' ran" in failure("diff", a, "--to", "nothing")


def test_a_page_shows_hostile_names_as_text() -> None:
    g = cnnir.Graph("g")
    x = g.input(cnnir.TensorType("f32", (2,)), "x")
    with g.provenance("</pre><script>alert(1)</script>"):
        g.output(g.add("exp", x, name="<img src=x>"), "y")
    other = g.clone()
    page = diff_page(("<b>a", "b"), diff_rows(g, other), lambda row: True)
    assert "<script" not in page and "<img" not in page and "<b>a" not in page
    assert "&lt;script&gt;alert(1)" in page and '<tr class="changed">' in page
