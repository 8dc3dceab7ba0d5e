// Elements and figures: everything of a model goes into the page as text, by these functions.

/** An element; `props` are properties, `data-` and `aria-` names attributes, functions listeners. */
export function element(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** An element of SVG; all props but listeners are attributes. */
export function shape(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function filled(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name.includes("-") || name === "role" || name === "for")
      made.setAttribute(name, value);
    else if (name === "style") made.style.cssText = value;
    else made[name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** The value of one of the style sheet's colours. */
export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A count in three digits: 53, 9.47 k, 118 M, 15.5 G. */
export function short(count) {
  if (count === null || count === undefined) return "";
  const units = ["", " k", " M", " G", " T"];
  let unit = 0;
  while (Math.abs(count) >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  if (!unit) return `${Math.round(count * 100) / 100}`;
  const size = Math.abs(count);
  return count.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2) + units[unit];
}

/** A rate: 118 GFLOP/s. */
export function rate(count, unit = "FLOP/s") {
  const written = short(count);
  return written + (written.includes(" ") ? "" : " ") + unit;
}

/** Bytes: 812 B, 3.4 MiB. */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (Math.abs(count) >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

/** A time: 12.3 µs, 4.56 ms, 1.20 s. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(1)} µs`;
  return seconds < 1 ? `${(seconds * 1e3).toFixed(2)} ms` : `${seconds.toFixed(2)} s`;
}

/** A share of one: 93.1 %. */
export const percent = (share) => `${(share * 100).toFixed(1)} %`;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** `f32[1,64,56,56]` as 64×56×56: without element type and a batch of one. */
export function sizes(type) {
  const inside = type
    .slice(type.indexOf("[") + 1, -1)
    .split(",")
    .filter((size) => size !== "");
  if (inside.length > 1 && inside[0] === "1") inside.shift();
  return inside.join("×") || "scalar";
}

/** The last part of a path-like name, which tells most. */
export function lastPart(name) {
  const parts = name.split("/").filter((part) => part !== "");
  return parts.length > 1 ? parts.slice(-2).join("/") : name;
}

/** Show a text beside the pointer, or nothing. */
export function tip(event, ...content) {
  const box = byId("tip");
  box.hidden = !content.length;
  if (box.hidden) return;
  box.replaceChildren(...content);
  const { offsetWidth: width, offsetHeight: height } = box;
  const left = Math.min(event.clientX + 14, innerWidth - width - 8);
  const above = event.clientY + 18 + height > innerHeight;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${above ? event.clientY - height - 10 : event.clientY + 18}px`;
}
