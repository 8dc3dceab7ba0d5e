// What an element of a layer sees: its receptive field on the image, and those of its neighbours.

import { element, shape } from "./dom.js";
import { section } from "./panel-parts.js";

const ROOM = { width: 300, height: 170 };

/** A picture of the receptive field of a node's result, or null where it has none of two axes. */
export function fieldView(model, k, number) {
  const row = layerOf(model, model.sourcesOf(k, number));
  const image = imageOf(model);
  if (!image || row?.field?.length !== 2) return null;
  const whole = row.stride.every((step) => step === 0);
  const [tall, wide] = row.field;
  const told = whole
    ? `an element sees all of the ${image.join("×")} pixels`
    : `an element sees ${tall}×${wide} of ${image.join("×")} pixels; ` +
      `its neighbours, dashed, lie ${steps(row.stride)} further`;
  return section(
    "Sees",
    whole ? null : picture(image, row),
    element("div", { className: "small faint", textContent: told }),
  );
}

const steps = (stride) =>
  (stride[0] === stride[1] ? [stride[0]] : stride).map((v) => Number(v.toPrecision(4))).join("×");

/** The last layer that a node comes from, which gives its result. */
function layerOf(model, sources) {
  const named = new Set([...sources, sources.join(", ")]);
  return model.layers.findLast((row) => named.has(row.layer));
}

/** Height and width of the first input that is an image. */
function imageOf(model) {
  for (const node of model.nodes) {
    const sizes = node.op === "input" ? (node.types[0].match(/\d+(?=[,\]])/g) ?? []) : [];
    if (sizes.length >= 3) return sizes.length === 4 ? sizes.slice(2).map(Number) : null;
  }
  return null;
}

function picture(image, { field, stride, offset }) {
  const first = image.map((size, a) => {
    const middle = (size - 1) / 2 - (offset[a] + (field[a] - 1) / 2);
    return offset[a] + Math.max(0, Math.round(middle / stride[a])) * stride[a];
  });
  const box = (dy, dx, className) =>
    shape("rect", {
      x: first[1] + dx * stride[1],
      y: first[0] + dy * stride[0],
      width: field[1],
      height: field[0],
      class: className,
    });
  const least = [0, 1].map((a) => Math.min(0, first[a] - stride[a]));
  const most = [0, 1].map((a) => Math.max(image[a], first[a] + stride[a] + field[a]));
  const size = [0, 1].map((a) => most[a] - least[a]);
  const margin = 0.01 * Math.max(...size);
  const view = [least[1] - margin, least[0] - margin, size[1] + 2 * margin, size[0] + 2 * margin];
  const scale = Math.min(ROOM.width / view[2], ROOM.height / view[3]);
  return shape(
    "svg",
    {
      viewBox: view.join(" "),
      width: view[2] * scale,
      height: view[3] * scale,
      class: "field",
      role: "img",
      "aria-label": `a field of ${field.join("×")} pixels on an image of ${image.join("×")}`,
    },
    shape("rect", { x: 0, y: 0, width: image[1], height: image[0], class: "image" }),
    [
      [-1, 0],
      [1, 0],
      [0, -1],
      [0, 1],
    ].map(([dy, dx]) => box(dy, dx, "near")),
    box(0, 0, "seen"),
  );
}
