// Memory over time: every buffer of the arena as a rectangle, steps to the right, addresses up.

import { bytes, element, plural, shape, tip } from "./dom.js";
import { empty } from "./time-view.js";

export function memoryView(model, go) {
  const { buffers, arena, bound, constants, code, steps } = model.plan;
  const facts = element(
    "div",
    { className: "figures" },
    fact(
      bytes(arena),
      "arena",
      bound
        ? bound >= arena * 0.999
          ? "no placement needs less"
          : `at least ${bytes(bound)} are needed`
        : "",
    ),
    fact(
      bytes(buffers.reduce((sum, b) => sum + b.bytes, 0)),
      "if nothing were shared",
      plural(buffers.length, "buffer"),
    ),
    fact(bytes(constants), "constants", "packed weights"),
    code ? fact(bytes(code), "code", "") : null,
  );
  if (!buffers.length) {
    return element(
      "div",
      { className: "page" },
      facts,
      empty(
        "Nothing in the arena",
        "No value lives between kernels, or the target plans no memory of its own.",
      ),
    );
  }
  return element(
    "div",
    { className: "page" },
    facts,
    liveChart(model),
    arenaChart(model, go),
    element("p", {
      className: "faint small",
      textContent:
        `A rectangle is a buffer: as wide as the steps that need it (${steps.length} in all), as high as its bytes. ` +
        "What lies inside another one, such as a part of a concatenation, is not drawn. Click for its node.",
    }),
  );
}

function fact(value, name, detail) {
  return element(
    "div",
    { className: "figure" },
    element("div", { className: "value", textContent: value }),
    element("div", { textContent: name }),
    element("div", { className: "small faint", textContent: detail }),
  );
}

const WIDTH = 1000;
const LEFT = 76;

const across = (model, step) =>
  LEFT + (step / Math.max(1, model.plan.steps.length)) * (WIDTH - LEFT - 8);

function liveChart(model) {
  const { buffers, steps, arena } = model.plan;
  const live = steps.map((_, k) =>
    buffers.reduce((sum, b) => sum + (b.first <= k && k <= b.last ? b.bytes : 0), 0),
  );
  const height = 110;
  const top = Math.max(arena, ...live) || 1;
  const y = (count) => height - 6 - (count / top) * (height - 16);
  const points = live.flatMap((count, k) => [
    `${across(model, k)},${y(count)}`,
    `${across(model, k + 1)},${y(count)}`,
  ]);
  const base = `${across(model, steps.length)},${y(0)} ${across(model, 0)},${y(0)}`;
  return element(
    "figure",
    {},
    element(
      "figcaption",
      {},
      element("h2", { textContent: "Live bytes" }),
      element("span", { className: "faint small", textContent: "the line is the arena" }),
    ),
    shape(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${height}`, class: "plot", role: "img", "aria-label": "Live bytes" },
      shape("polygon", { points: `${points.join(" ")} ${base}`, class: "area" }),
      shape("line", { x1: LEFT, x2: WIDTH - 8, y1: y(arena), y2: y(arena), class: "roof" }),
      shape("text", { x: LEFT - 8, y: y(arena) + 4, "text-anchor": "end" }, bytes(arena)),
      shape("text", { x: LEFT - 8, y: y(0), "text-anchor": "end" }, "0"),
    ),
  );
}

function arenaChart(model, go) {
  const { buffers, steps, arena } = model.plan;
  const height = 420;
  const y = (offset) => height - 28 - (offset / (arena || 1)) * (height - 44);
  const boxes = buffers.map((buffer) => {
    const node = steps[buffer.first]?.node ?? null;
    const [left, right] = [across(model, buffer.first), across(model, buffer.last + 1)];
    const high = Math.max(1.5, y(buffer.offset) - y(buffer.offset + buffer.bytes));
    const family = node === null ? "move" : model.family(node);
    return shape("rect", {
      x: left,
      y: y(buffer.offset + buffer.bytes),
      width: Math.max(1.5, right - left - 0.5),
      height: high,
      rx: 1.5,
      class: `buffer f-${family}`,
      pointermove: (event) =>
        tip(
          event,
          element("b", { textContent: buffer.name }),
          element("br"),
          `${buffer.type}, ${buffer.layout}`,
          element("br"),
          `${bytes(buffer.bytes)} at ${bytes(buffer.offset)}, steps ${buffer.first} to ${buffer.last}`,
        ),
      pointerleave: (event) => tip(event),
      click: () => node !== null && go.node(node, model.last),
    });
  });
  const lines = [0, 0.25, 0.5, 0.75, 1].map((part) =>
    shape(
      "g",
      {},
      shape("line", {
        x1: LEFT,
        x2: WIDTH - 8,
        y1: y(arena * part),
        y2: y(arena * part),
        class: "grid",
      }),
      shape(
        "text",
        { x: LEFT - 8, y: y(arena * part) + 4, "text-anchor": "end" },
        bytes(Math.round(arena * part)),
      ),
    ),
  );
  const every = Math.max(1, Math.ceil(steps.length / 12));
  const numbers = steps
    .filter((_, k) => k % every === 0)
    .map((_, i) =>
      shape(
        "text",
        { x: across(model, i * every), y: height - 8, "text-anchor": "middle" },
        String(i * every),
      ),
    );
  return element(
    "figure",
    {},
    element("figcaption", {}, element("h2", { textContent: "The arena" })),
    shape(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${height}`, class: "plot", role: "img", "aria-label": "The arena" },
      lines,
      numbers,
      boxes,
    ),
  );
}
