// The panel on the right: a node with everything about it, or else what a stage did.

import { codeTabs } from "./code.js";
import { bytes, duration, element, percent, plural, rate, short } from "./dom.js";
import { nodeOf } from "./model.js";
import { paramBox } from "./weights-view.js";

const MOST_ROWS = 60;

export class Inspector {
  /** `go` has node(number, stage) and stage(k). */
  constructor(model, panel, go) {
    Object.assign(this, { model, panel, go });
  }

  show(number, stage) {
    const parts = number === null ? this.stage(stage) : this.node(number, this.model.stageOf(number, stage));
    this.panel.replaceChildren(...parts.filter((part) => part));
    this.panel.scrollTop = 0;
  }

  // ---- a node

  node(number, k) {
    const { model } = this;
    const node = model.nodes[number];
    const label = model.label(k, number);
    return [
      element("div", { className: "head" },
        element("span", { className: `swatch f-${model.family(number)}` }),
        element("h2", { textContent: model.title(number) }),
        element("button", { className: "quiet", textContent: "×", title: "Close (Esc)",
          "aria-label": "Close", click: () => this.go.node(null, k) })),
      label === node.op ? null : element("p", { className: "label mono", textContent: label }),
      this.fate(number, k),
      this.kernel(number, k),
      this.types(number, k),
      this.attributes(node),
      this.provenance(number, k),
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
    rows.push(...model.nodes[number].types.map((type) => this.typeRow("out", model.nodes[number].name ?? "", type)));
    const users = model.readBy(k, number);
    const read = users.length
      ? element("div", { className: "small" }, element("span", { className: "faint", textContent: "read by " }),
          this.listed(users.map((user) => this.link(user, k))))
      : null;
    return section("Types", element("table", { className: "types" }, element("tbody", {}, rows)), read);
  }

  typeRow(kind, name, type) {
    return element("tr", {}, element("td", { className: "faint small", textContent: kind }),
      element("td", { className: "mono" }, name), element("td", { className: "mono", textContent: type }));
  }

  attributes(node) {
    const rows = Object.entries(node.attrs);
    if (!rows.length && !node.body) return null;
    const table = rows.length
      ? element("table", { className: "pairs" }, element("tbody", {}, rows.map(([name, value]) =>
          element("tr", {}, element("td", { textContent: name }), element("td", { className: "mono", textContent: value })))))
      : null;
    return section("Attributes", table, node.body ? codeTabs(this.model, [["body", node.body]]) : null);
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
      element("li", {},
        element("button", { className: "link", textContent: model.stages[stage].label, click: () => this.go.stage(stage) }),
        element("span", { textContent: made ? " made it by " : " replaced it by " }),
        element("span", { className: "mono", textContent: rewrite.rule }), kindMark(rewrite.kind),
        rewrite.reason ? element("div", { className: "small faint", textContent: rewrite.reason }) : null,
        this.others(rewrite, made, stage)));
    return section("Comes from",
      items.length ? element("ul", { className: "plain" }, items.map((item) => element("li", {}, item)))
        : element("p", { className: "faint", textContent: "No node of the model: it was made on the way." }),
      rewrites.length ? element("h4", { textContent: "Rewrites" }) : null,
      rewrites.length ? element("ul", { className: "plain" }, rewrites) : null);
  }

  others(rewrite, made, stage) {
    const numbers = made ? rewrite.gone : rewrite.made;
    if (!numbers.length) return null;
    const links = numbers.slice(0, 12).map((n) => this.link(n, made ? stage - 1 : stage));
    return element("div", { className: "small" },
      element("span", { className: "faint", textContent: made ? "from " : "made " }), this.listed(links));
  }

  /** What became of a node that the last stage does not have. */
  fate(number, k) {
    const { model } = this;
    if (!model.gone.has(number)) return null;
    const stage = model.gone.get(number);
    const heirs = model.heirs(k, number).slice(0, 8).map((heir) => this.link(heir, model.last));
    return element("div", { className: "note went" },
      element("div", {}, "Taken away by ",
        element("button", { className: "link", textContent: model.stages[stage].label, click: () => this.go.stage(stage) })),
      heirs.length ? element("div", {}, "its work is now in ", this.listed(heirs)) : null);
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
      return section("Kernel", element("p", { className: "faint",
        textContent: "None of its own: it is another name for memory that is there already." }));
    }
    return section("Kernel", ...steps.map((step) => this.step(step)));
  }

  step(step) {
    const { model } = this;
    const found = { ...step.texts, ...model.plan.kernels[step.symbol] };
    const texts = ["loops", "LLVM IR", "assembly", "CUDA C"].filter((kind) => kind in found)
      .map((kind) => [kind, found[kind]]);
    return element("div", { className: "step" },
      element("div", { className: "row" },
        element("strong", { className: "grow", textContent: step.kernel }),
        element("span", { className: "faint small", textContent: `step ${step.number}` })),
      timeFacts(model, step),
      pairs([
        ["why", step.reason],
        ["how", step.summary],
        ["layout", step.layout],
        ["shared as", plural(step.items, "work item")],
        ["work", `${short(step.flops)} FLOP, ${bytes(step.bytes)}`],
      ]),
      step.rejected.length
        ? element("details", {}, element("summary", { textContent: `${step.rejected.length} not taken` }),
            element("ul", { className: "plain small" }, step.rejected.map((why) => element("li", { textContent: why }))))
        : null,
      texts.length ? codeTabs(model, texts) : null);
  }

  // ---- a stage

  stage(k) {
    const { model } = this;
    const stage = model.stages[k];
    if (!k) return [heading("As imported"), this.summary()];
    const rewrites = stage.rewrites ?? [];
    if (k === model.last && !rewrites.length && !stage.declined.length) {
      return [heading("The model"), this.summary(), this.passes()];
    }
    return [
      element("div", { className: "head" }, element("h2", { textContent: stage.label }),
        stage.options !== stage.label ? element("span", { className: "mono faint", textContent: stage.options }) : null),
      sizeTable(stage),
      stage.difference === null ? null
        : element("p", { className: "small", textContent: `Values changed by ${stage.difference.toExponential(1)} of the largest.` }),
      section(plural(rewrites.length, "rewrite"), rewrites.length
        ? element("ul", { className: "plain rows" }, rewrites.slice(0, MOST_ROWS).map((r) => this.rewrite(r, k)))
        : element("p", { className: "faint", textContent: "Nothing matched." }),
      more(rewrites.length)),
      this.declined(stage.declined),
    ];
  }

  rewrite(rewrite, k) {
    const made = rewrite.made.map((n) => this.link(n, k));
    const gone = rewrite.gone.map((n) => this.link(n, k - 1));
    return element("li", {},
      element("div", {}, element("span", { className: "mono", textContent: rewrite.rule }), kindMark(rewrite.kind)),
      element("div", { className: "small" }, this.listed(gone.slice(0, 6)),
        element("span", { className: "faint", textContent: " ⇒ " }),
        made.length ? this.listed(made.slice(0, 6)) : element("span", { className: "faint", textContent: "what was there" })),
      rewrite.reason ? element("div", { className: "small faint", textContent: rewrite.reason }) : null,
      rewrite.difference ? element("div", { className: "small faint", textContent: `changed values by ${rewrite.difference.toExponential(1)}` }) : null);
  }

  declined(declined) {
    if (!declined.length) return null;
    const groups = new Map();
    for (const one of declined) {
      const key = `${one.rule}: ${one.reason}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    const rows = [...groups].slice(0, MOST_ROWS).map(([key, members]) => element("li", {},
      element("div", {}, element("span", { className: "mono", textContent: members[0].rule }),
        members.length > 1 ? element("span", { className: "faint", textContent: ` × ${members.length}` }) : null),
      element("div", { className: "small faint", textContent: members[0].reason }),
      element("div", { className: "small" }, this.listed(members.slice(0, 3).map(({ sources, node }) => {
        const [origin] = sources.length ? this.model.imported(sources[0]) : [];
        return origin === undefined ? element("span", { textContent: sources[0] ?? node }) : this.link(origin, 0, sources[0]);
      })))));
    return element("details", { className: "section", open: declined.length <= 8 },
      element("summary", {}, element("h3", { textContent: `${declined.length} left alone` })),
      element("ul", { className: "plain rows" }, rows));
  }

  summary() {
    const { model } = this;
    const { plan, total } = model;
    return element("div", {},
      pairs([
        ["nodes", `${countOps(model, 0)} as imported, ${countOps(model, model.last)} in the end`],
        ["weights", short(total.weights)],
        ["multiply-adds", short(total.connections)],
        ["target", `${plan.target}, ${plural(plan.threads, "thread")}`],
        ["kernels", `${plural(plan.steps.length, "step")}, ${Object.keys(plan.kernels).length} different`],
        ["a run", model.measured ? duration(model.time) : "not measured"],
        ["memory", `${bytes(plan.arena)} for values, ${bytes(plan.constants)} for weights`],
        ["passes", duration(model.stages.reduce((sum, stage) => sum + (stage.seconds ?? 0), 0))],
      ]),
      plan.notes.length ? section("Notes", element("ul", { className: "plain small" }, plan.notes.map((note) => element("li", { textContent: note })))) : null,
      element("p", { className: "faint small hint", textContent:
        "Move the slider below the graph to follow the passes; click a node to see all of it." }));
  }

  passes() {
    const { stages } = this.model;
    const rows = stages.map((stage, k) => [stage, k]).filter(([stage, k]) => k && stage.rewrites.length)
      .map(([stage, k]) => element("tr", {},
        element("td", {}, element("button", { className: "link", textContent: stage.label, click: () => this.go.stage(k) })),
        element("td", { className: "num", textContent: plural(stage.rewrites.length, "rewrite") }),
        element("td", { className: "num faint", textContent: `${stage.before.nodes} → ${stage.after.nodes} nodes` })));
    const quiet = stages.length - 1 - rows.length;
    return section("What the passes did",
      rows.length ? element("table", { className: "sizes full" }, element("tbody", {}, rows)) : null,
      element("p", { className: "faint small", textContent: rows.length ? `${quiet} more found nothing to do.` : "No pass changed anything." }));
  }

  // ---- links

  link(number, stage, text = null) {
    const at = this.model.stageOf(number, stage);
    return element("button", { className: "link", textContent: text ?? this.model.label(at, number),
      title: this.model.title(number), click: () => this.go.node(number, at) });
  }

  listed(links) {
    return links.flatMap((link, i) => (i ? [", ", link] : [link]));
  }
}

const heading = (text) => element("div", { className: "head" }, element("h2", { textContent: text }));

/** A heading and what is under it. */
function section(heading, ...parts) {
  return element("section", { className: "section" }, element("h3", { textContent: heading }), ...parts);
}

/** Rows of a name and a text; those without a text are left out. */
export function pairs(rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("table", { className: "pairs" }, element("tbody", {}, shown.map(([name, value]) =>
    element("tr", {}, element("td", { textContent: name }), element("td", { textContent: value })))));
}

const countOps = (model, k) => model.graphs[k].order.filter((n) => model.nodes[n].op !== "input").length;

const kindMark = (kind) => element("span", { className: `kind ${kind}`, textContent: kind });

const more = (count) => (count > MOST_ROWS
  ? element("p", { className: "faint small", textContent: `and ${count - MOST_ROWS} more` }) : null);

function sizeTable({ before, after, seconds }) {
  const row = (name, key, write) => element("tr", { className: before[key] === after[key] ? "faint" : "" },
    element("td", { textContent: name }), element("td", { className: "num", textContent: write(before[key]) }),
    element("td", { className: "faint", textContent: "→" }),
    element("td", { className: "num", textContent: write(after[key]) }));
  return element("table", { className: "sizes" }, element("tbody", {},
    row("nodes", "nodes", String), row("FLOP", "flops", short), row("moved", "bytes", bytes),
    row("weights", "params", short),
    element("tr", { className: "faint" }, element("td", { textContent: "time" }), element("td"), element("td"),
      element("td", { className: "num", textContent: duration(seconds) }))));
}

/** Time, share of the run, and share of the bound as two bars. */
function timeFacts(model, step) {
  if (step.seconds === null || !model.time) return null;
  const share = step.seconds / model.time;
  const rows = [bar("of the run", share, `${duration(step.seconds)}, ${percent(share)}`)];
  if (step.bound) {
    const reached = step.bound / step.seconds;
    rows.push(bar(`of its bound, ${step.by}`, reached, `${percent(reached)} of ${duration(step.bound)}`));
    if (step.flops) rows.push(pairs([["rate", rate(step.flops / step.seconds)]]));
  }
  return element("div", { className: "bars" }, rows);
}

function bar(name, share, text) {
  return element("div", { className: "meter" },
    element("div", { className: "row small" }, element("span", { className: "grow faint", textContent: name }),
      element("span", { className: "mono", textContent: text })),
    element("div", { className: "track" },
      element("div", { className: share > 1 ? "fill over" : "fill", style: `width:${Math.min(100, share * 100).toFixed(1)}%` })));
}
