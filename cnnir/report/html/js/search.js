// The box that finds nodes.

import { byId, element } from "./dom.js";

const MOST_HITS = 40;

export class Search {
  /** `go` has node(number, stage), mark(numbers or null), stage() for the one that is shown. */
  constructor(model, go) {
    Object.assign(this, { model, go, chosen: 0, found: [] });
    [this.box, this.list] = [byId("query"), byId("hits")];
    this.box.addEventListener("input", () => this.look());
    this.box.addEventListener("focus", () => this.look());
    this.box.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  look() {
    const text = this.box.value.trim();
    this.found = this.model.search(text, this.go.stage(), text ? 2000 : 0);
    this.chosen = 0;
    this.go.mark(text ? new Set(this.found.map((hit) => hit.number)) : null);
    this.list.hidden = !text;
    this.box.setAttribute("aria-expanded", String(Boolean(text)));
    const rows = this.found.slice(0, MOST_HITS).map((hit, i) => this.row(hit, i));
    if (text && !rows.length)
      rows.push(element("li", { className: "faint none", textContent: "Nothing of that name" }));
    if (this.found.length > MOST_HITS)
      rows.push(
        element("li", {
          className: "faint none",
          textContent: `and ${this.found.length - MOST_HITS} more`,
        }),
      );
    this.list.replaceChildren(...rows);
    this.point();
  }

  row(hit, i) {
    const elsewhere = hit.stage !== this.go.stage() ? this.model.stages[hit.stage].label : "";
    return element(
      "li",
      { role: "option", pointerdown: () => this.take(i) },
      element("span", { className: `swatch f-${this.model.family(hit.number)}` }),
      element("span", { className: "grow", textContent: hit.label }),
      element("span", {
        className: "faint small",
        textContent: elsewhere ? `until ${elsewhere}` : this.model.title(hit.number),
      }),
    );
  }

  key(event) {
    const last = Math.min(this.found.length, MOST_HITS) - 1;
    if (event.key === "ArrowDown") this.chosen = Math.min(this.chosen + 1, last);
    else if (event.key === "ArrowUp") this.chosen = Math.max(this.chosen - 1, 0);
    else if (event.key === "Enter") this.take(this.chosen);
    else if (event.key === "Escape") this.leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.point();
  }

  point() {
    [...this.list.children].forEach((row, i) =>
      row.setAttribute("aria-selected", String(i === this.chosen)),
    );
    this.list.children[this.chosen]?.scrollIntoView({ block: "nearest" });
  }

  take(i) {
    const hit = this.found[i];
    if (hit) this.go.node(hit.number, hit.stage);
    this.box.blur();
  }

  leave() {
    this.box.value = "";
    this.look();
    this.box.blur();
  }

  close() {
    this.list.hidden = true;
    this.box.setAttribute("aria-expanded", "false");
    this.go.mark(null);
  }
}
