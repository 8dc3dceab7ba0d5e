// Where the time goes: kinds of kernel, the roofline, and a bar for each kernel.

import { bytes, duration, element, percent, plural, rate, shape, short, tip } from "./dom.js";

/** Colours of kinds of kernel, the slowest kind first; told apart without red and green. */
const KINDS = ["k0", "k1", "k2", "k3", "k4", "k5", "k6"];

export function timeView(model, go) {
  const { steps } = model.plan;
  if (!steps.length) return empty("Nothing to run", "The model has no kernels.");
  if (!model.measured) {
    const why = model.plan.notes.find((note) => note.startsWith("times were not measured"));
    return empty(
      "Times were not measured",
      why ??
        "The report was written without measuring. The predictions of the plan are with each node.",
    );
  }
  const kinds = kindsOf(model);
  const rows = element("div", { className: "kernel-rows" });
  const fill = (sorted) => {
    const order = sorted ? [...steps].sort((a, b) => b.seconds - a.seconds) : steps;
    rows.replaceChildren(...order.map((step) => kernelRow(model, step, kinds, go)));
  };
  fill(true);
  const order = element(
    "select",
    { "aria-label": "Order", change: (event) => fill(event.target.value === "time") },
    element("option", { value: "time", textContent: "slowest first" }),
    element("option", { value: "order", textContent: "as they run" }),
  );
  return element(
    "div",
    { className: "page" },
    element(
      "div",
      { className: "figures" },
      figure(duration(model.time), "a run", `median of ${model.plan.runs} runs, kernel by kernel`),
      figure(
        rate(model.plan.flops / model.time),
        "reached",
        model.plan.peak
          ? `${percent(model.plan.flops / model.time / model.plan.peak)} of the peak`
          : "",
      ),
      figure(
        duration(steps.reduce((sum, step) => sum + (step.bound ?? 0), 0)),
        "the bounds' sum",
        "every kernel at the peak, or as quick as its bytes come",
      ),
    ),
    kindsBar(kinds, model),
    element("div", { className: "charts" }, roofline(model, kinds, go)),
    element(
      "div",
      { className: "row heading" },
      element("h2", { className: "grow", textContent: `${steps.length} kernels` }),
      order,
    ),
    element("p", {
      className: "faint small",
      textContent:
        "The mark on a bar is the bound: operations at the peak, or bytes from the cache or memory that holds them. " +
        "Winograd convolution does fewer operations than are counted, so it can be quicker.",
    }),
    rows,
  );
}

/** A page with nothing on it but why. */
export function empty(heading, text) {
  return element(
    "div",
    { className: "empty" },
    element("h2", { textContent: heading }),
    element("p", { textContent: text }),
  );
}

function figure(value, name, detail) {
  return element(
    "div",
    { className: "figure" },
    element("div", { className: "value", textContent: value }),
    element("div", { textContent: name }),
    element("div", { className: "small faint", textContent: detail }),
  );
}

function kindsOf(model) {
  const kinds = new Map();
  for (const step of model.plan.steps) {
    const kind = kinds.get(step.kernel) ?? { name: step.kernel, seconds: 0, steps: 0, flops: 0 };
    kind.seconds += step.seconds;
    kind.flops += step.flops;
    kind.steps += 1;
    kinds.set(step.kernel, kind);
  }
  const sorted = [...kinds.values()].sort((a, b) => b.seconds - a.seconds);
  sorted.forEach((kind, i) => (kind.colour = KINDS[Math.min(i, KINDS.length - 1)]));
  return new Map(sorted.map((kind) => [kind.name, kind]));
}

function kindsBar(kinds, model) {
  const parts = [...kinds.values()];
  return element(
    "div",
    { className: "kinds" },
    element(
      "div",
      { className: "stack" },
      parts.map((kind) =>
        element("div", {
          className: `part ${kind.colour}`,
          title: `${kind.name}: ${percent(kind.seconds / model.time)}`,
          style: `flex-grow:${kind.seconds / model.time}`,
        }),
      ),
    ),
    element(
      "div",
      { className: "legend" },
      parts.map((kind) =>
        element(
          "span",
          {},
          element("i", { className: kind.colour }),
          element("b", { textContent: kind.name }),
          element("span", {
            className: "faint",
            textContent: ` ${percent(kind.seconds / model.time)}, ${plural(kind.steps, "step")}, ${rate(kind.flops / kind.seconds)}`,
          }),
        ),
      ),
    ),
  );
}

function kernelRow(model, step, kinds, go) {
  const share = step.seconds / model.slowest;
  const bound = step.bound ? Math.min(1, step.bound / model.slowest) : null;
  const name = step.sources.join(", ") || step.op;
  return element(
    "button",
    {
      className: "kernel",
      title: name,
      click: () => step.node !== null && go.node(step.node, model.last),
    },
    element("span", { className: "faint num small", textContent: step.number }),
    element(
      "span",
      { className: "what" },
      element("span", { className: "mono name", textContent: name }),
      element("span", { className: "small faint", textContent: `${step.op} → ${step.result}` }),
    ),
    element("span", { className: "small", textContent: step.kernel }),
    element(
      "span",
      { className: "track" },
      element("span", {
        className: `fill ${kinds.get(step.kernel).colour}`,
        style: `width:${(share * 100).toFixed(2)}%`,
      }),
      bound === null
        ? null
        : element("span", { className: "mark", style: `left:${(bound * 100).toFixed(2)}%` }),
    ),
    element("span", { className: "num mono small", textContent: duration(step.seconds) }),
    element("span", {
      className: "num mono small faint",
      textContent: percent(step.seconds / model.time),
    }),
    element("span", {
      className: "num mono small faint",
      title: `of the ${step.by} bound`,
      textContent: step.bound ? percent(step.bound / step.seconds) : "",
    }),
  );
}

function roofline(model, kinds, go) {
  const { peak, levels, steps } = model.plan;
  if (!peak || !levels.length)
    return empty("No roofline", "The machine's limits were not measured.");
  const dots = steps.filter((step) => step.flops > 0 && step.bytes > 0 && step.seconds > 0);
  const [width, height] = [880, 380];
  const edge = { left: 92, right: 36, top: 16, bottom: 44 };
  const intensities = dots.map((step) => step.flops / step.bytes);
  const rates = dots.map((step) => step.flops / step.seconds);
  const ridges = levels.map(([, bytesRate]) => peak / bytesRate);
  const [x0, x1] = decades([...intensities, ...ridges]);
  const sane = rates.filter((r) => r > peak / 1e4 && r < peak * 10); // others stand at the border
  const [y0, y1] = decades([...sane, peak * 1.1]);
  const px = (v) =>
    edge.left + ((Math.log10(v) - x0) / (x1 - x0)) * (width - edge.left - edge.right);
  const py = (v) =>
    height - edge.bottom - ((Math.log10(v) - y0) / (y1 - y0)) * (height - edge.top - edge.bottom);
  const inside = (v) => Math.min(Math.max(v, 10 ** y0), 10 ** y1);
  const roofs = levels.map(([name, bytesRate], i) => {
    const low = Math.max(10 ** x0, 10 ** y0 / bytesRate);
    const points = [
      [low, low * bytesRate],
      [ridges[i], peak],
      [10 ** x1, peak],
    ].map(([x, y]) => `${px(x)},${py(y)}`);
    return shape(
      "g",
      {},
      shape("polyline", {
        class: `roof${i < levels.length - 1 ? " cache" : ""}`,
        points: points.join(" "),
      }),
      shape("text", { x: px(low) + 24, y: py(low * bytesRate) - 2, class: "axis" }, name),
    );
  });
  const lines = [
    ...ticks(x0, x1).map((v) =>
      shape(
        "g",
        {},
        shape("line", {
          x1: px(v),
          x2: px(v),
          y1: edge.top,
          y2: height - edge.bottom,
          class: "grid",
        }),
        shape(
          "text",
          { x: px(v), y: height - edge.bottom + 17, "text-anchor": "middle" },
          label(v),
        ),
      ),
    ),
    ...ticks(y0, y1).map((v) =>
      shape(
        "g",
        {},
        shape("line", {
          x1: edge.left,
          x2: width - edge.right,
          y1: py(v),
          y2: py(v),
          class: "grid",
        }),
        shape("text", { x: edge.left - 8, y: py(v) + 4, "text-anchor": "end" }, rate(v)),
      ),
    ),
  ];
  const marks = [...dots]
    .sort((a, b) => b.seconds - a.seconds)
    .map((step) =>
      shape("circle", {
        cx: px(step.flops / step.bytes),
        cy: py(inside(step.flops / step.seconds)),
        r: Math.min(24, 3 + 32 * Math.sqrt(step.seconds / model.time)),
        class: `dot-mark ${kinds.get(step.kernel).colour}`,
        pointermove: (event) => tip(event, ...told(model, step)),
        pointerleave: (event) => tip(event),
        click: () => step.node !== null && go.node(step.node, model.last),
      }),
    );
  return element(
    "figure",
    {},
    element(
      "figcaption",
      {},
      element("h2", { textContent: "Roofline" }),
      element("span", {
        className: "faint small",
        textContent: `peak ${rate(peak)} with ${plural(model.plan.threads, "thread")}, ${levels.map(([name, r]) => `${name} ${rate(r, "B/s")}`).join(", ")}; areas are times`,
      }),
    ),
    shape(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": "Roofline" },
      lines,
      roofs,
      marks,
      shape(
        "text",
        { x: width - edge.right, y: height - 8, "text-anchor": "end", class: "axis" },
        "operations a byte",
      ),
    ),
  );
}

function told(model, step) {
  return [
    element("b", { textContent: step.sources.join(", ") || step.op }),
    element("br"),
    `${step.kernel}, ${duration(step.seconds)}, ${percent(step.seconds / model.time)} of the run`,
    element("br"),
    `${rate(step.flops / step.seconds)} at ${short(step.flops / step.bytes)} FLOP a byte (${bytes(step.bytes)})`,
  ];
}

const decades = (values) => [
  Math.floor(Math.log10(Math.min(...values))),
  Math.ceil(Math.log10(Math.max(...values))),
];

const ticks = (low, high) => Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));

const label = (v) => (v >= 1 ? short(v) : String(Number(v.toPrecision(1))));
