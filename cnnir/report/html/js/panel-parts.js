// What panels are made of: sections, rows of facts, and links from node to node.

import { element } from "./dom.js";

/** Base of panels: a model, and where links go: `go` has node(number, stage) and stage(k). */
export class Panel {
  constructor(model, go) {
    this.model = model;
    this.go = go;
  }

  link(number, stage, text = null) {
    const at = this.model.stageOf(number, stage);
    return element("button", {
      className: "link",
      textContent: text ?? this.model.label(at, number),
      title: this.model.title(number),
      click: () => this.go.node(number, at),
    });
  }

  listed(links) {
    return links.flatMap((link, i) => (i ? [", ", link] : [link]));
  }
}

export const heading = (text) =>
  element("div", { className: "head" }, element("h2", { textContent: text }));

/** A heading and what is under it. */
export function section(heading, ...parts) {
  return element(
    "section",
    { className: "section" },
    element("h3", { textContent: heading }),
    ...parts,
  );
}

/** Rows of a name and a text; those without a text are left out. */
export function pairs(rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element(
    "table",
    { className: "pairs" },
    element(
      "tbody",
      {},
      shown.map(([name, value]) =>
        element(
          "tr",
          {},
          element("td", { textContent: name }),
          element("td", { textContent: value }),
        ),
      ),
    ),
  );
}

export const kindMark = (kind) => element("span", { className: `kind ${kind}`, textContent: kind });
