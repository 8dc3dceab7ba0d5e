// A stage: what its pass rewrote, what it left alone and why; or the model, where it did nothing.

import { bytes, duration, element, plural, short } from "./dom.js";
import { heading, kindMark, pairs, Panel, section } from "./panel-parts.js";

const MOST_ROWS = 60;

export class StagePanel extends Panel {
  parts(k) {
    const { model } = this;
    const stage = model.stages[k];
    if (!k) return [heading("As imported"), this.summary()];
    const rewrites = stage.rewrites ?? [];
    if (k === model.last && !rewrites.length && !stage.declined.length) {
      return [heading("The model"), this.summary(), this.passes()];
    }
    return [
      element(
        "div",
        { className: "head" },
        element("h2", { textContent: stage.label }),
        stage.options !== stage.label
          ? element("span", { className: "mono faint", textContent: stage.options })
          : null,
      ),
      sizeTable(stage),
      stage.difference === null
        ? null
        : element("p", {
            className: "small",
            textContent: `Values changed by ${stage.difference.toExponential(1)} of the largest.`,
          }),
      section(
        plural(rewrites.length, "rewrite"),
        rewrites.length
          ? element(
              "ul",
              { className: "plain rows" },
              rewrites.slice(0, MOST_ROWS).map((r) => this.rewrite(r, k)),
            )
          : element("p", { className: "faint", textContent: "Nothing matched." }),
        more(rewrites.length),
      ),
      this.declined(stage.declined),
    ];
  }

  rewrite(rewrite, k) {
    const made = rewrite.made.map((n) => this.link(n, k));
    const gone = rewrite.gone.map((n) => this.link(n, k - 1));
    return element(
      "li",
      {},
      element(
        "div",
        {},
        element("span", { className: "mono", textContent: rewrite.rule }),
        kindMark(rewrite.kind),
      ),
      element(
        "div",
        { className: "small" },
        this.listed(gone.slice(0, 6)),
        element("span", { className: "faint", textContent: " ⇒ " }),
        made.length
          ? this.listed(made.slice(0, 6))
          : element("span", { className: "faint", textContent: "what was there" }),
      ),
      rewrite.reason
        ? element("div", { className: "small faint", textContent: rewrite.reason })
        : null,
      rewrite.difference
        ? element("div", {
            className: "small faint",
            textContent: `changed values by ${rewrite.difference.toExponential(1)}`,
          })
        : null,
    );
  }

  declined(declined) {
    if (!declined.length) return null;
    const groups = new Map();
    for (const one of declined) {
      const key = `${one.rule}: ${one.reason}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    const rows = [...groups].slice(0, MOST_ROWS).map(([key, members]) =>
      element(
        "li",
        {},
        element(
          "div",
          {},
          element("span", { className: "mono", textContent: members[0].rule }),
          members.length > 1
            ? element("span", { className: "faint", textContent: ` × ${members.length}` })
            : null,
        ),
        element("div", { className: "small faint", textContent: members[0].reason }),
        element(
          "div",
          { className: "small" },
          this.listed(
            members.slice(0, 3).map(({ sources, node }) => {
              const [origin] = sources.length ? this.model.imported(sources[0]) : [];
              return origin === undefined
                ? element("span", { textContent: sources[0] ?? node })
                : this.link(origin, 0, sources[0]);
            }),
          ),
        ),
      ),
    );
    return element(
      "details",
      { className: "section", open: declined.length <= 8 },
      element("summary", {}, element("h3", { textContent: `${declined.length} left alone` })),
      element("ul", { className: "plain rows" }, rows),
    );
  }

  summary() {
    const { model } = this;
    const { plan, total } = model;
    return element(
      "div",
      {},
      pairs([
        ["nodes", `${countOps(model, 0)} as imported, ${countOps(model, model.last)} in the end`],
        ["weights", short(total.weights)],
        ["multiply-adds", short(total.connections)],
        ["target", `${plan.target}, ${plural(plan.threads, "thread")}`],
        [
          "kernels",
          `${plural(plan.steps.length, "step")}, ${Object.keys(plan.kernels).length} different`,
        ],
        ["a run", model.measured ? duration(model.time) : "not measured"],
        ["memory", `${bytes(plan.arena)} for values, ${bytes(plan.constants)} for weights`],
        ["passes", duration(model.stages.reduce((sum, stage) => sum + (stage.seconds ?? 0), 0))],
      ]),
      plan.notes.length
        ? section(
            "Notes",
            element(
              "ul",
              { className: "plain small" },
              plan.notes.map((note) => element("li", { textContent: note })),
            ),
          )
        : null,
      element("p", {
        className: "faint small hint",
        textContent:
          "Move the slider below the graph to follow the passes; click a node to see all of it.",
      }),
    );
  }

  passes() {
    const { stages } = this.model;
    const rows = stages
      .map((stage, k) => [stage, k])
      .filter(([stage, k]) => k && stage.rewrites.length)
      .map(([stage, k]) =>
        element(
          "tr",
          {},
          element(
            "td",
            {},
            element("button", {
              className: "link",
              textContent: stage.label,
              click: () => this.go.stage(k),
            }),
          ),
          element("td", {
            className: "num",
            textContent: plural(stage.rewrites.length, "rewrite"),
          }),
          element("td", {
            className: "num faint",
            textContent: `${stage.before.nodes} → ${stage.after.nodes} nodes`,
          }),
        ),
      );
    const quiet = stages.length - 1 - rows.length;
    return section(
      "What the passes did",
      rows.length
        ? element("table", { className: "sizes full" }, element("tbody", {}, rows))
        : null,
      element("p", {
        className: "faint small",
        textContent: rows.length
          ? `${quiet} more found nothing to do.`
          : "No pass changed anything.",
      }),
    );
  }
}

const countOps = (model, k) =>
  model.graphs[k].order.filter((n) => model.nodes[n].op !== "input").length;

const more = (count) =>
  count > MOST_ROWS
    ? element("p", { className: "faint small", textContent: `and ${count - MOST_ROWS} more` })
    : null;

function sizeTable({ before, after, seconds }) {
  const row = (name, key, write) =>
    element(
      "tr",
      { className: before[key] === after[key] ? "faint" : "" },
      element("td", { textContent: name }),
      element("td", { className: "num", textContent: write(before[key]) }),
      element("td", { className: "faint", textContent: "→" }),
      element("td", { className: "num", textContent: write(after[key]) }),
    );
  return element(
    "table",
    { className: "sizes" },
    element(
      "tbody",
      {},
      row("nodes", "nodes", String),
      row("FLOP", "flops", short),
      row("moved", "bytes", bytes),
      row("weights", "params", short),
      element(
        "tr",
        { className: "faint" },
        element("td", { textContent: "time" }),
        element("td"),
        element("td"),
        element("td", { className: "num", textContent: duration(seconds) }),
      ),
    ),
  );
}
