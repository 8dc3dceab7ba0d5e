// The page: reads the data, makes the views, and lets them talk to each other.

import { bytes, byId, duration, element, percent, plural, short, tip } from "./dom.js";
import { GraphView } from "./graph-view.js";
import { Inspector } from "./inspector.js";
import { layersView } from "./layers-view.js";
import { Layouts } from "./layout.js";
import { memoryView } from "./memory-view.js";
import { Model } from "./model.js";
import { PassesBar } from "./passes-bar.js";
import { Search } from "./search.js";
import { timeView } from "./time-view.js";

const KEYS = [
  ["/", "find"],
  ["← →", "pass before, after"],
  ["↑ ↓", "along the graph"],
  ["Home End", "first, last pass"],
  ["+ − 0", "zoom, all of it"],
  ["f", "find the selected node again"],
  ["c", "show what the pass changed"],
  ["1 2 3 4", "graph, layers, time, memory"],
  ["d", "light or dark"],
  ["Esc", "back"],
  ["?", "these keys"],
];
const VIEWS = ["Graph", "Layers", "Time", "Memory"];

class Page {
  constructor(model) {
    this.model = model;
    this.stage = model.last;
    this.selected = null;
    this.graph = new GraphView({
      select: (n) => this.select(n, this.stage, false),
      hover: (e, node) => this.hover(e, node),
    });
    this.layouts = new Layouts(byId("layout-worker").textContent);
    const go = {
      node: (number, stage) => this.select(number, stage, true),
      stage: (k) => (k === undefined ? this.stage : this.goTo(k)),
      mark: (numbers) => this.mark(numbers),
    };
    this.go = go;
    this.inspector = new Inspector(model, byId("inspector"), go);
    this.passes = new PassesBar(model, go);
    this.search = new Search(model, go);
    const slowest = model.slowest || 1;
    this.graph.heat = (number) =>
      this.stage === model.last
        ? (model.stepsOf.get(number) ?? []).reduce((sum, step) => sum + (step.seconds ?? 0), 0) /
          slowest
        : 0;
    this.views = {
      Graph: () =>
        (this.graphPage ??= element(
          "div",
          { className: "graph-page" },
          this.graph.element,
          this.zoomButtons(),
          this.legend(),
          this.passes.element,
        )),
      Layers: () => layersView(model, go),
      Time: () => timeView(model, go),
      Memory: () => memoryView(model, go),
    };
    this.header();
    this.tabs();
    this.theme(localGet("theme"));
    this.divide();
    addEventListener("keydown", (event) => this.key(event));
    this.open("Graph");
  }

  header() {
    const { model } = this;
    document.body.dataset.ready = "no";
    byId("name").textContent = model.name;
    byId("name").title = model.name;
    const facts = [
      plural(model.layers.length, "layer"),
      `${short(model.total.weights)} weights`,
      `${short(model.total.connections)} multiply-adds`,
      model.measured ? duration(model.time) : null,
      model.plan.target,
    ];
    byId("facts").append(
      ...facts.filter(Boolean).map((text) => element("span", { textContent: text })),
    );
    byId("theme").addEventListener("click", () => this.theme(this.dark() ? "light" : "dark"));
    byId("help").addEventListener("click", () => this.help());
    byId("keys").append(
      element("h2", { textContent: "Keys" }),
      element(
        "table",
        {},
        element(
          "tbody",
          {},
          KEYS.map(([keys, what]) =>
            element(
              "tr",
              {},
              element(
                "td",
                {},
                keys.split(" ").map((key) => element("kbd", { textContent: key })),
              ),
              element("td", { textContent: what }),
            ),
          ),
        ),
      ),
      element("p", {
        className: "faint small",
        textContent:
          "Scroll to move, Ctrl and scroll or pinch to zoom, drag to pan, double click to come near.",
      }),
      element(
        "details",
        { className: "small faint" },
        element("summary", { textContent: `cnnir ${model.version}; licences` }),
        element("pre", { textContent: byId("licence").content.textContent }),
      ),
      element(
        "form",
        { method: "dialog" },
        element("button", { textContent: "Close", autofocus: true }),
      ),
    );
  }

  tabs() {
    this.buttons = VIEWS.map((name, i) =>
      element("button", {
        role: "tab",
        textContent: name,
        title: `${name} (${i + 1})`,
        click: () => this.open(name),
      }),
    );
    byId("tabs").append(...this.buttons);
  }

  open(name) {
    this.view = name;
    document.body.dataset.view = name;
    this.buttons.forEach((button) =>
      button.setAttribute("aria-selected", String(button.textContent === name)),
    );
    byId("view").replaceChildren(this.views[name]());
    if (name === "Graph") this.goTo(this.stage);
  }

  zoomButtons() {
    const button = (text, title, act) =>
      element("button", { textContent: text, title, "aria-label": title, click: act });
    return element(
      "div",
      { className: "zoom" },
      button("+", "Nearer (+)", () => this.graph.zoomBy(1.3)),
      button("−", "Farther (−)", () => this.graph.zoomBy(1 / 1.3)),
      button("⤢", "All of it (0)", () => this.graph.fit()),
    );
  }

  legend() {
    const families = [
      ["conv", "convolution"],
      ["matmul", "product"],
      ["pool", "pool"],
      ["reduce", "reduction"],
      ["norm", "norm, softmax"],
      ["point", "elementwise"],
      ["move", "movement"],
    ];
    const used = new Set(this.model.nodes.map((_, number) => this.model.family(number)));
    const rows = families
      .filter(([family]) => used.has(family))
      .map(([family, name]) =>
        element("span", {}, element("i", { className: `swatch f-${family}` }), name),
      );
    if (this.model.measured)
      rows.push(
        element("span", {}, element("i", { className: "swatch heat" }), "share of the time"),
      );
    return element("div", { className: "families" }, rows);
  }

  // ---- stages and selection

  async goTo(k) {
    const { model } = this;
    this.stage = Math.max(0, Math.min(model.last, k));
    this.passes.show(this.stage);
    if (this.selected === null) this.inspector.show(null, this.stage);
    const { changes } = this.passes;
    const asked = `${this.stage} ${changes}`;
    this.asked = asked;
    const slow = setTimeout(() => (this.graph.busy.hidden = false), 150);
    const scene = await this.layouts.placed(model, this.stage, changes);
    clearTimeout(slow);
    if (!scene || this.asked !== asked) return; // the slider has moved on
    this.graph.busy.hidden = true;
    this.graph.show(scene);
    if (this.pendingReveal) this.graph.select(this.selected, true);
    this.pendingReveal = false;
    document.body.dataset.ready = "yes";
  }

  select(number, stage, reveal) {
    this.selected = number;
    if (number === null) {
      this.graph.select(null, false);
      this.inspector.show(null, this.stage);
      return;
    }
    const at = this.model.stageOf(number, stage);
    const ghost =
      this.view === "Graph" && this.graph.scene?.nodes.has(number) && stage === this.stage;
    this.inspector.show(number, at);
    if (reveal && this.view === "Layers") this.open("Graph");
    if (at === this.stage || ghost) this.graph.select(number, reveal);
    else {
      this.pendingReveal = true;
      this.graph.selected = number;
      this.goTo(at);
    }
  }

  mark(numbers) {
    this.graph.hits = numbers;
    this.graph.redraw();
  }

  hover(event, node) {
    if (!node) {
      tip(event);
      return;
    }
    const { model } = this;
    const steps = this.stage === model.last ? (model.stepsOf.get(node.number) ?? []) : [];
    const times = steps
      .filter((step) => step.seconds !== null)
      .map((step) =>
        element("div", {
          textContent: `${step.kernel}: ${duration(step.seconds)}, ${percent(step.seconds / model.time)}`,
        }),
      );
    const facts = model.nodes[node.number];
    tip(
      event,
      element("b", { textContent: node.key ? node.detail : node.title }),
      element("div", {
        className: "mono small",
        textContent: model.label(node.stage, node.number),
      }),
      element("div", { className: "faint", textContent: facts.types.join(", ") }),
      facts.flops
        ? element("div", {
            className: "faint",
            textContent: `${short(facts.flops)} FLOP, ${bytes(facts.bytes)}`,
          })
        : "",
      ...times,
    );
  }

  /** Walk along the graph: down to the first reader, up to the first operand. */
  walk(down) {
    const { model, stage } = this;
    const alive = this.selected !== null && model.graphs[stage].alive.has(this.selected);
    const [next] = alive
      ? down
        ? model.readBy(stage, this.selected)
        : model.reads(stage, this.selected)
      : [model.graphs[stage].order[0]];
    if (next !== undefined) this.select(next, stage, true);
  }

  // ---- keys, theme, width

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const typing = event.target.matches?.("input[type=search], select, pre, summary");
    if (typing && event.key !== "Escape") return;
    const actions = {
      "/": () => byId("query").focus(),
      "?": () => this.help(),
      d: () => byId("theme").click(),
      c: () => this.passes.setChanges(!this.passes.changes),
      ArrowLeft: () => this.goTo(this.stage - 1),
      ArrowRight: () => this.goTo(this.stage + 1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.model.last),
      ArrowUp: () => this.walk(false),
      ArrowDown: () => this.walk(true),
      "+": () => this.graph.zoomBy(1.3),
      "=": () => this.graph.zoomBy(1.3),
      "-": () => this.graph.zoomBy(1 / 1.3),
      0: () => this.graph.fit(),
      f: () => this.graph.select(this.selected, true),
      Escape: () => this.select(null, this.stage, false),
    };
    VIEWS.forEach((name, i) => (actions[i + 1] = () => this.open(name)));
    const action = actions[event.key];
    const elsewhere =
      this.view !== "Graph" && ["ArrowUp", "ArrowDown", "Home", "End"].includes(event.key);
    if (!action || elsewhere) return;
    event.preventDefault();
    action();
  }

  help() {
    byId("keys").showModal();
  }

  dark() {
    const { theme } = document.documentElement.dataset;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  theme(name) {
    if (name) {
      document.documentElement.dataset.theme = name;
      localSet("theme", name);
    }
    byId("theme").textContent = this.dark() ? "☀" : "☾";
    this.graph.recolour();
  }

  /** The border between view and panel can be moved. */
  divide() {
    byId("divider").addEventListener("pointerdown", (event) => {
      event.target.setPointerCapture(event.pointerId);
      event.target.onpointermove = ({ clientX }) => {
        const width = Math.max(260, Math.min(innerWidth * 0.7, innerWidth - clientX));
        document.documentElement.style.setProperty("--panel", `${width}px`);
      };
      event.target.onpointerup = () => (event.target.onpointermove = null);
    });
  }
}

/** Storage may be refused to files. */
function localGet(name) {
  try {
    return localStorage.getItem(`cnnir-${name}`);
  } catch {
    return null;
  }
}

function localSet(name, value) {
  try {
    localStorage.setItem(`cnnir-${name}`, value);
  } catch {
    // it is only a wish
  }
}

globalThis.report = new Page(new Model(JSON.parse(byId("data").textContent)));
