"""The report in headless Chromium: opens without a word in the console, and does what it should.

Needs the Python package playwright and a Chromium on the PATH; skips, saying so, without them.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_models import EVIL, long_net, odd_graphs, small_net

import cnnir

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

PATIENCE = 120_000
"""Milliseconds; a busy machine may take its time."""

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    models = {"small": (small_net(), "cpu"), "evil": (small_net(EVIL, EVIL[0]), "cpu")}
    models |= {name: (graph, "cpu") for name, graph in odd_graphs().items()}
    models |= {"long": (long_net(2000), "reference")}
    for name, (graph, target) in models.items():
        exe = cnnir.compile(graph, target, threads=1)
        exe.report(folder / f"{name}.html", seconds=0.05)
    return {name: folder / f"{name}.html" for name in models}


class Opened:
    """A report in a page of its own; `messages` is all that the console and the network got."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1300, "height": 800}, color_scheme="light")
        self.messages: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(path.as_uri())
        self.settle()

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "blob:")):
            self.messages.append(f"asked for {url}")

    def settle(self) -> None:
        """Wait until the graph of the stage that is asked for is drawn."""
        drawn = "report.graph.scene?.stage === report.model.sameAs(report.stage)"
        self.page.wait_for_function(f"() => {drawn}")

    def value(self, script: str) -> Any:
        return self.page.evaluate(script)

    def node(self, title: str) -> int:
        """The number of a node of the stage that is shown."""
        find = "n => report.model.title(n) === title"
        order = "report.model.graphs[report.stage].order"
        return int(self.page.evaluate(f"(title) => {order}.find({find})", title))

    def click_node(self, number: int) -> None:
        place = self.value(f"report.graph.place({number})")
        self.page.mouse.click(place["x"], place["y"])

    @property
    def panel(self) -> str:
        text: str = self.page.inner_text("#inspector")
        return text


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path]) -> Iterator[Any]:
    pages: list[Opened] = []

    def open_report(name: str) -> Opened:
        pages.append(Opened(browser, reports[name]))
        return pages[-1]

    yield open_report
    for one in pages:
        one.page.close()
        assert one.messages == []


def test_every_view_opens(opened: Any) -> None:
    report = opened("small")
    assert report.page.inner_text("#name") == "small"
    for name, shown in (("Layers", "conv1"), ("Time", "Roofline"), ("Memory", "The arena")):
        report.page.click(f"#tabs button:text-is('{name}')")
        assert shown in report.page.inner_text("#view")
    assert report.page.locator("#view rect.buffer").count() >= 2
    report.page.keyboard.press("3")
    steps = report.value("report.model.plan.steps.length")
    assert report.page.locator("#view .kernel").count() == steps
    assert report.page.locator("#view circle").count() >= 3
    report.page.keyboard.press("1")
    assert report.page.locator("#view canvas").count() == 2


def test_the_slider_shows_what_passes_changed(opened: Any) -> None:
    report = opened("small")
    last = report.value("report.model.last")
    fuse = report.value("report.model.stages.findIndex((s) => s.label === 'fuse')")
    report.page.focus(".rail input")
    for _ in range(last - fuse):
        report.page.keyboard.press("ArrowLeft")
    report.settle()
    assert "fuse" in report.page.inner_text(".pass-label")
    assert "fused" in report.page.inner_text(".chip.fused")
    states = report.value("[...report.graph.scene.nodes.values()].map((n) => n.state)")
    assert {"came", "went", "kept"} <= set(states)
    went = report.value(
        "[...report.graph.scene.nodes.values()].find((n) => n.state === 'went').number"
    )
    assert not report.value(f"report.model.graphs[{fuse}].alive.has({went})")
    report.page.keyboard.press("c")  # without what went
    report.page.wait_for_function(
        "() => [...report.graph.scene.nodes.values()].every((n) => n.state === 'kept')"
    )
    report.page.click(".dots button >> nth=0", force=True)
    report.page.wait_for_function("() => report.stage === 0")
    report.settle()
    assert report.value("report.graph.scene.nodes.size") == 7 + 2  # ops, the input, the output


def test_a_click_shows_everything_of_a_node(opened: Any) -> None:
    report = opened("small")
    report.click_node(report.node("conv + relu"))
    panel = report.panel
    assert "conv + relu" in panel and "conv1" in panel and "norm1" in panel and "relu1" in panel
    assert "f32[1,3,12,12]" in panel and "padding" not in panel  # that is in the body
    assert "made it by" in panel and "deviation" in panel
    assert report.page.locator("#inspector canvas.filters").count() == 1
    for kind, text in (
        ("loops", "kernel "),
        ("LLVM IR", "define "),
        ("assembly", ".text"),
        ("CUDA C", "__global__"),
        ("body", "relu("),
    ):
        report.page.click(f"#inspector .chips button:text-is('{kind}')")
        report.page.wait_for_function(
            "(text) => [...document.querySelectorAll('#inspector pre')]"
            ".some((pre) => pre.textContent.includes(text))",
            arg=text,
        )
    report.page.click("#inspector .link:text-is('norm1')")  # back to where it came from
    report.page.wait_for_function("() => report.stage === 0")
    assert "batch_norm" in report.panel and "Taken away by" in report.panel.replace("\n", " ")
    report.page.keyboard.press("Escape")
    assert report.value("report.selected") is None


def test_the_receptive_field_is_drawn_on_the_image(opened: Any) -> None:
    """Two layers of 3x3 see 5x5 pixels; behind the mean over the image it is all of them."""
    report = opened("small")

    def boxes() -> list[str]:
        found: list[str] = report.value(
            "[...document.querySelectorAll('#inspector svg.field rect')].map((r) => ["
            "r.getAttribute('class'), ...['x', 'y', 'width', 'height'].map((a) =>"
            " r.getAttribute(a))].join(' '))"
        )
        return found

    report.click_node(report.node("conv + relu"))
    assert boxes()[-1] == "seen 5 5 3 3" and "sees 3\u00d73 of 12\u00d712 pixels" in report.panel
    report.value("report.select(report.model.imported('conv2')[0], 0, true)")
    report.page.wait_for_function("() => report.stage === 0")
    assert boxes() == [
        "image 0 0 12 12", *(f"near {x} {y} 5 5" for x, y in ((4, 3), (4, 5), (3, 4), (5, 4))),
        "seen 4 4 5 5",
    ]  # fmt: skip
    report.value("report.select(report.model.imported('mean')[0], 0, true)")
    report.page.wait_for_function("() => report.model.nodes[report.selected].op === 'reduce_mean'")
    assert not boxes() and "sees all of the 12\u00d712 pixels" in report.panel


def test_search_finds_and_goes_there(opened: Any) -> None:
    report = opened("small")
    report.page.keyboard.press("/")
    report.page.keyboard.type("norm1 batch")
    assert "norm1" in report.page.inner_text("#hits")
    report.page.keyboard.press("Enter")
    report.page.wait_for_function("() => report.selected !== null")
    report.settle()
    assert "batch_norm" in report.panel
    assert report.value("report.model.graphs[report.stage].alive.has(report.selected)")
    report.page.fill("#query", "there is no such node")
    assert "Nothing of that name" in report.page.inner_text("#hits")


def test_keys_walk_zoom_and_darken(opened: Any) -> None:
    report = opened("small")
    for _ in range(3):
        report.page.keyboard.press("ArrowDown")
    assert "conv" in report.panel
    before = report.value("report.graph.zoom")
    report.page.keyboard.press("+")
    assert report.value("report.graph.zoom") > before
    paper = "getComputedStyle(document.body).backgroundColor"
    light = report.value(paper)
    report.page.keyboard.press("d")
    assert report.value(paper) != light
    assert report.value("document.documentElement.dataset.theme") == "dark"
    report.page.keyboard.press("?")
    assert report.page.locator("#keys").is_visible()
    assert "Permission is hereby granted" in report.page.text_content("#keys pre")


def test_wheel_and_drag_move_the_graph(opened: Any) -> None:
    report = opened("small")
    x, y, zoom = report.value("[report.graph.x, report.graph.y, report.graph.zoom]")
    report.page.mouse.move(500, 400)
    report.page.mouse.down()
    report.page.mouse.move(470, 380, steps=4)
    report.page.mouse.up()
    after = report.value("[report.graph.x, report.graph.y]")
    assert after == pytest.approx([x + 30 / zoom, y + 20 / zoom])
    report.page.keyboard.down("Control")
    report.page.mouse.wheel(0, -100)
    report.page.keyboard.up("Control")
    report.page.wait_for_function(f"() => report.graph.zoom > {zoom}")


def test_hostile_names_are_shown_as_text(opened: Any) -> None:
    report = opened("evil")
    assert report.page.inner_text("#name") == EVIL[0]
    report.click_node(report.node("conv + relu"))
    for name in EVIL:
        assert name.replace("\u2028", "") in report.panel.replace("\u2028", "").replace("\n", "")
    report.page.keyboard.press("/")
    report.page.keyboard.type("bitten")
    assert EVIL[0] in report.page.inner_text("#hits")
    report.page.keyboard.press("Escape")
    for key in "234":
        report.page.keyboard.press(key)
    report.page.keyboard.press("2")
    assert EVIL[0] in report.page.inner_text("#view")
    report.page.hover("#view td >> nth=0")
    assert report.page.locator("img").count() == 0
    assert report.value("window.bitten") is None


@pytest.mark.parametrize("name", ["ports", "empty"])
def test_odd_graphs_open(opened: Any, name: str) -> None:
    report = opened(name)
    for key in "2341":
        report.page.keyboard.press(key)
    report.settle()
    numbers = report.value("report.model.nodes.map((_, number) => number)")
    for number in numbers:
        report.value(f"report.select({number}, report.model.last, true)")
        report.page.wait_for_function(f"() => report.graph.selected === {number}")
        assert report.panel
    outputs = report.value(
        "[...report.graph.scene.nodes.keys()].filter((k) => /^out/.test(k)).length"
    )
    assert outputs == (5 if name == "ports" else 1)  # the fixed one has no node


def test_two_thousand_nodes(opened: Any) -> None:
    report = opened("long")
    assert report.value("report.model.graphs[0].order.length") > 2000
    scene = report.value(
        "[...report.graph.scene.nodes.values()].map((n) => [n.x, n.y, n.width, n.height])"
    )
    rows: dict[float, list[list[float]]] = {}
    for box in scene:
        rows.setdefault(box[1], []).append(box)
    for row in rows.values():  # nothing lies on anything else
        row.sort()
        for left, right in itertools.pairwise(row):
            assert left[0] + left[2] / 2 <= right[0] - right[2] / 2
    report.page.keyboard.press("0")
    report.page.keyboard.press("ArrowDown")
    report.page.keyboard.press("Home")
    report.settle()
    assert "not measured" in report.panel or "input" in report.panel
    report.page.keyboard.press("3")
    assert "Times were not measured" in report.page.inner_text("#view")
    report.page.keyboard.press("4")
    assert "Nothing in the arena" in report.page.inner_text("#view")
