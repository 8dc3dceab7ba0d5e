// The slider over the passes, with a dot for each: filled where it changed something.

import { element, plural } from "./dom.js";

export class PassesBar {
  constructor(model, go) {
    this.model = model;
    this.go = go;
    this.changes = true;
    this.dots = model.stages.map((stage, k) =>
      element("button", {
        className: k && !stage.rewrites.length && !stage.order ? "dot idle" : "dot",
        tabIndex: -1,
        title: stage.label,
        "aria-label": stage.label,
        click: () => go.stage(k),
      }),
    );
    this.range = element("input", {
      type: "range",
      min: 0,
      max: model.last,
      step: 1,
      "aria-label": "Pass",
      input: () => go.stage(Number(this.range.value)),
    });
    this.label = element("div", { className: "pass-label", "aria-live": "polite" });
    this.toggle = element(
      "label",
      { className: "check" },
      element("input", {
        type: "checkbox",
        checked: true,
        change: (event) => this.setChanges(event.target.checked),
      }),
      "what changed ",
      element("kbd", { textContent: "c" }),
    );
    this.element = element(
      "footer",
      { className: "passes" },
      element("div", { className: "row" }, this.label, this.toggle),
      element(
        "div",
        { className: "slider" },
        element("button", {
          className: "quiet",
          textContent: "‹",
          title: "Pass before (←)",
          "aria-label": "Pass before",
          click: () => go.stage(this.k - 1),
        }),
        element(
          "div",
          { className: "rail" },
          element("div", { className: "dots" }, this.dots),
          this.range,
          this.names(),
        ),
        element("button", {
          className: "quiet",
          textContent: "›",
          title: "Pass after (→)",
          "aria-label": "Pass after",
          click: () => go.stage(this.k + 1),
        }),
      ),
    );
  }

  /** Names under the dots of passes that changed something, where there is room. */
  names() {
    const { stages, last } = this.model;
    let before = -2;
    const names = stages.flatMap((stage, k) => {
      if ((k && !stage.rewrites.length) || k - before < 2) return [];
      before = k;
      return [
        element("span", {
          textContent: k ? stage.label : "import",
          style: `left:${(k / Math.max(1, last)) * 100}%`,
        }),
      ];
    });
    return element("div", { className: "names", "aria-hidden": "true" }, names);
  }

  setChanges(shown) {
    this.changes = shown;
    this.toggle.firstElementChild.checked = shown;
    this.go.stage(this.k);
  }

  show(k) {
    this.k = k;
    this.range.value = k;
    this.dots.forEach((dot, i) => {
      dot.classList.toggle("now", i === k);
      dot.classList.toggle("past", i < k);
    });
    const stage = this.model.stages[k];
    const { came, went, fused } = this.model.changes(k);
    const chips = [
      ["came", "+", came.size - [...came].filter((n) => fused.has(n)).length, "added"],
      ["went", "−", went.size - [...went].filter((n) => fused.has(n)).length, "removed"],
      ["fused", "⊕", fused.size, "fused"],
    ];
    const shown = chips.filter(([, , count]) => count > 0);
    this.label.replaceChildren(
      element("strong", { textContent: k ? stage.label : "as imported" }),
      element("span", { className: "faint", textContent: ` ${k} of ${this.model.last}` }),
      ...shown.map(([kind, sign, count, word]) =>
        element("span", { className: `chip ${kind}`, textContent: `${sign}${count} ${word}` }),
      ),
      k && !shown.length
        ? element("span", { className: "faint", textContent: "  changed nothing" })
        : "",
      k && stage.rewrites.length
        ? element("span", { className: "faint rules", textContent: rules(stage) })
        : "",
    );
  }
}

function rules({ rewrites }) {
  const counts = new Map();
  for (const { rule } of rewrites) counts.set(rule, (counts.get(rule) ?? 0) + 1);
  return (
    `${plural(rewrites.length, "rewrite")}: ` +
    [...counts].map(([rule, count]) => (count > 1 ? `${rule} ×${count}` : rule)).join(", ")
  );
}
