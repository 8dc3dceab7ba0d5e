// Params: a histogram, and filters as pictures.

import { element, shape, sizes } from "./dom.js";

const number = (x) => (typeof x === "number" ? Number(x.toPrecision(4)).toString() : String(x));

/** A param of a node with all that is known of it. */
export function paramBox(param) {
  const parts = [
    element(
      "div",
      { className: "row" },
      element("span", { className: "mono grow", textContent: param.name, title: param.name }),
      element("span", { className: "mono faint", textContent: sizes(param.type) }),
    ),
  ];
  if (param.values) {
    parts.push(element("div", { className: "mono small", textContent: param.values.join(", ") }));
  } else if (param.histogram) parts.push(histogram(param));
  if (param.special)
    parts.push(
      element("div", {
        className: "small",
        textContent: `${param.special} numbers are not finite`,
      }),
    );
  if (param.filters) parts.push(filters(param.filters));
  return element("div", { className: "param" }, parts);
}

function histogram({ histogram: counts, least, most, mean, deviation, zeros, sampled }) {
  const [width, height] = [300, 56];
  const top = Math.max(...counts);
  const step = width / counts.length;
  const bars = counts.map((count, k) => {
    const tall = top ? Math.max(count ? 1 : 0, (count / top) * height) : 0;
    return shape("rect", {
      x: k * step,
      y: height - tall,
      width: step - 0.75,
      height: tall,
      class: "bar-fill",
    });
  });
  const zero = most > least ? (-least / (most - least)) * width : -1;
  if (zero > 0 && zero < width)
    bars.push(shape("line", { x1: zero, x2: zero, y1: 0, y2: height, class: "rule" }));
  const facts =
    `mean ${number(mean)}, deviation ${number(deviation)}` +
    (zeros > 0.0005 ? `, ${(zeros * 100).toFixed(1)} % zeros` : "");
  return element(
    "div",
    { className: "histogram" },
    shape(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" },
      bars,
    ),
    element(
      "div",
      { className: "row small faint mono" },
      element("span", { className: "grow", textContent: number(least) }),
      element("span", { textContent: number(most) }),
    ),
    element("div", {
      className: "small faint",
      textContent: facts,
      title: sampled ? "Of an even sample; least and most are of all numbers." : null,
    }),
  );
}

/** Filters side by side; three channels are colours, one is grey; the middle grey is zero. */
function filters({ count, of, channels, height, width, pixels }) {
  const raw = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
  const scale = Math.max(2, Math.min(8, Math.floor(30 / Math.max(width, height))));
  const [cellX, cellY] = [width * scale + 3, height * scale + 3];
  const columns = Math.max(1, Math.min(count, Math.floor(318 / cellX)));
  const rows = Math.ceil(count / columns);
  const canvas = element("canvas", {
    className: "filters",
    width: columns * cellX,
    height: rows * cellY,
    role: "img",
    "aria-label": `${count} filters`,
  });
  const c = canvas.getContext("2d");
  const at = (o, ch, y, x) => raw[((o * channels + ch) * height + y) * width + x];
  for (let o = 0; o < count; o += 1) {
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const value = [0, 1, 2].map((ch) => at(o, channels === 3 ? ch : 0, y, x));
        c.fillStyle = `rgb(${value.join(" ")})`;
        c.fillRect(
          (o % columns) * cellX + x * scale,
          Math.floor(o / columns) * cellY + y * scale,
          scale,
          scale,
        );
      }
    }
  }
  const told =
    (count < of ? `the first ${count} of ${of} filters` : `${count} filters`) +
    (channels === 3 ? ", channels as red, green, blue" : "") +
    "; mid grey is zero";
  return element(
    "div",
    {},
    canvas,
    element("div", { className: "small faint", textContent: told }),
  );
}
