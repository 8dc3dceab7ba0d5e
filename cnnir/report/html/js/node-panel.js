// A node with everything about it: kernel, types, attributes, provenance, field, weights.

import { codeTabs } from "./code.js";
import { bytes, duration, element, percent, plural, rate, short } from "./dom.js";
import { fieldView } from "./field-view.js";
import { nodeOf } from "./model.js";
import { kindMark, pairs, Panel, section } from "./panel-parts.js";
import { paramBox } from "./weights-view.js";

export class NodePanel extends Panel {
  parts(number, k) {
    const { model } = this;
    const node = model.nodes[number];
    const label = model.label(k, number);
    return [
      element(
        "div",
        { className: "head" },
        element("span", { className: `swatch f-${model.family(number)}` }),
        element("h2", { textContent: model.title(number) }),
        element("button", {
          className: "quiet",
          textContent: "×",
          title: "Close (Esc)",
          "aria-label": "Close",
          click: () => this.go.node(null, k),
        }),
      ),
      label === node.op ? null : element("p", { className: "label mono", textContent: label }),
      this.fate(number, k),
      this.kernel(number, k),
      this.types(number, k),
      this.attributes(node),
      this.provenance(number, k),
      fieldView(model, k, number),
      this.weights(number, k),
    ];
  }

  types(number, k) {
    const { model } = this;
    const inputs = model.graphs[k].inputs.get(number) ?? [];
    const rows = inputs.map((operand) => {
      if (operand === null) return this.typeRow("", "left out", "");
      const from = nodeOf(operand);
      if (from === null) {
        const param = model.params[-1 - operand];
        return this.typeRow("param", param.name, param.type);
      }
      const index = Array.isArray(operand) ? operand[1] : 0;
      return this.typeRow("in", this.link(from, k), model.nodes[from].types[index]);
    });
    rows.push(
      ...model.nodes[number].types.map((type) =>
        this.typeRow("out", model.nodes[number].name ?? "", type),
      ),
    );
    const users = model.readBy(k, number);
    const read = users.length
      ? element(
          "div",
          { className: "small" },
          element("span", { className: "faint", textContent: "read by " }),
          this.listed(users.map((user) => this.link(user, k))),
        )
      : null;
    return section(
      "Types",
      element("table", { className: "types" }, element("tbody", {}, rows)),
      read,
    );
  }

  typeRow(kind, name, type) {
    return element(
      "tr",
      {},
      element("td", { className: "faint small", textContent: kind }),
      element("td", { className: "mono" }, name),
      element("td", { className: "mono", textContent: type }),
    );
  }

  attributes(node) {
    const rows = Object.entries(node.attrs);
    if (!rows.length && !node.body) return null;
    const table = rows.length
      ? element(
          "table",
          { className: "pairs" },
          element(
            "tbody",
            {},
            rows.map(([name, value]) =>
              element(
                "tr",
                {},
                element("td", { textContent: name }),
                element("td", { className: "mono", textContent: value }),
              ),
            ),
          ),
        )
      : null;
    return section(
      "Attributes",
      table,
      node.body ? codeTabs(this.model, [["body", node.body]]) : null,
    );
  }

  provenance(number, k) {
    const { model } = this;
    const names = model.sourcesOf(k, number);
    const items = names.map((name) => {
      const [origin] = model.imported(name);
      return origin === undefined || (origin === number && k === 0)
        ? element("span", { className: "mono", textContent: name })
        : this.link(origin, 0, name);
    });
    const rewrites = model.rewritesOf(number).map(({ stage, rewrite, made }) =>
      element(
        "li",
        {},
        element("button", {
          className: "link",
          textContent: model.stages[stage].label,
          click: () => this.go.stage(stage),
        }),
        element("span", { textContent: made ? " made it by " : " replaced it by " }),
        element("span", { className: "mono", textContent: rewrite.rule }),
        kindMark(rewrite.kind),
        rewrite.reason
          ? element("div", { className: "small faint", textContent: rewrite.reason })
          : null,
        this.others(rewrite, made, stage),
      ),
    );
    return section(
      "Comes from",
      items.length
        ? element(
            "ul",
            { className: "plain" },
            items.map((item) => element("li", {}, item)),
          )
        : element("p", {
            className: "faint",
            textContent: "No node of the model: it was made on the way.",
          }),
      rewrites.length ? element("h4", { textContent: "Rewrites" }) : null,
      rewrites.length ? element("ul", { className: "plain" }, rewrites) : null,
    );
  }

  others(rewrite, made, stage) {
    const numbers = made ? rewrite.gone : rewrite.made;
    if (!numbers.length) return null;
    const links = numbers.slice(0, 12).map((n) => this.link(n, made ? stage - 1 : stage));
    return element(
      "div",
      { className: "small" },
      element("span", { className: "faint", textContent: made ? "from " : "made " }),
      this.listed(links),
    );
  }

  /** What became of a node that the last stage does not have. */
  fate(number, k) {
    const { model } = this;
    if (!model.gone.has(number)) return null;
    const stage = model.gone.get(number);
    const heirs = model
      .heirs(k, number)
      .slice(0, 8)
      .map((heir) => this.link(heir, model.last));
    return element(
      "div",
      { className: "note went" },
      element(
        "div",
        {},
        "Taken away by ",
        element("button", {
          className: "link",
          textContent: model.stages[stage].label,
          click: () => this.go.stage(stage),
        }),
      ),
      heirs.length ? element("div", {}, "its work is now in ", this.listed(heirs)) : null,
    );
  }

  weights(number, k) {
    const params = this.model.paramsOf(k, number);
    return params.length ? section("Weights", ...params.map(paramBox)) : null;
  }

  kernel(number, k) {
    const { model } = this;
    const steps = model.stepsOf.get(number) ?? [];
    if (model.nodes[number].op === "input" || model.gone.has(number)) return null;
    if (!steps.length) {
      return section(
        "Kernel",
        element("p", {
          className: "faint",
          textContent: "None of its own: it is another name for memory that is there already.",
        }),
      );
    }
    return section("Kernel", ...steps.map((step) => this.step(step)));
  }

  step(step) {
    const { model } = this;
    const found = { ...step.texts, ...model.plan.kernels[step.symbol] };
    const texts = ["loops", "LLVM IR", "assembly", "CUDA C"]
      .filter((kind) => kind in found)
      .map((kind) => [kind, found[kind]]);
    return element(
      "div",
      { className: "step" },
      element(
        "div",
        { className: "row" },
        element("strong", { className: "grow", textContent: step.kernel }),
        element("span", { className: "faint small", textContent: `step ${step.number}` }),
      ),
      timeFacts(model, step),
      pairs([
        ["why", step.reason],
        ["how", step.summary],
        ["layout", step.layout],
        ["shared as", plural(step.items, "work item")],
        ["work", `${short(step.flops)} FLOP, ${bytes(step.bytes)}`],
      ]),
      step.rejected.length
        ? element(
            "details",
            {},
            element("summary", { textContent: `${step.rejected.length} not taken` }),
            element(
              "ul",
              { className: "plain small" },
              step.rejected.map((why) => element("li", { textContent: why })),
            ),
          )
        : null,
      texts.length ? codeTabs(model, texts) : null,
    );
  }
}

/** Time, share of the run, and share of the bound as two bars. */
function timeFacts(model, step) {
  if (step.seconds === null || !model.time) return null;
  const share = step.seconds / model.time;
  const rows = [bar("of the run", share, `${duration(step.seconds)}, ${percent(share)}`)];
  if (step.bound) {
    const reached = step.bound / step.seconds;
    rows.push(
      bar(`of its bound, ${step.by}`, reached, `${percent(reached)} of ${duration(step.bound)}`),
    );
    if (step.flops) rows.push(pairs([["rate", rate(step.flops / step.seconds)]]));
  }
  return element("div", { className: "bars" }, rows);
}

function bar(name, share, text) {
  return element(
    "div",
    { className: "meter" },
    element(
      "div",
      { className: "row small" },
      element("span", { className: "grow faint", textContent: name }),
      element("span", { className: "mono", textContent: text }),
    ),
    element(
      "div",
      { className: "track" },
      element("div", {
        className: share > 1 ? "fill over" : "fill",
        style: `width:${Math.min(100, share * 100).toFixed(1)}%`,
      }),
    ),
  );
}
