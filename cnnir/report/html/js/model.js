// The data of the page, and what follows from it: graphs by stage, fates of nodes, kernels.

const FAMILIES = {
  conv: ["conv", "conv_transpose", "conv_weight_grad"],
  matmul: ["matmul"],
  pool: ["max_pool", "avg_pool", "lp_pool", "max_pool_index", "max_pool_grad"],
  norm: [
    "batch_norm",
    "batch_norm_training",
    "layer_norm",
    "group_norm",
    "lrn",
    "softmax",
    "log_softmax",
  ],
  move: [
    "reshape",
    "transpose",
    "concat",
    "slice",
    "pad",
    "expand",
    "tile",
    "gather",
    "gather_nd",
    "gather_elements",
    "scatter_nd",
    "scatter_elements",
    "resize",
    "identity",
    "barrier",
  ],
  port: ["input", "output"],
};
const FAMILY_OF = new Map(
  Object.entries(FAMILIES).flatMap(([family, ops]) => ops.map((op) => [op, family])),
);
const ANCHORS = ["conv", "matmul", "pool", "norm", "reduce"];

/** The family of an op, which gives its colour. */
export function familyOfOp(op) {
  if (FAMILY_OF.has(op)) return FAMILY_OF.get(op);
  return op.startsWith("reduce") || op.startsWith("arg") ? "reduce" : "point";
}

export class Model {
  constructor(data) {
    Object.assign(this, data);
    this.last = this.stages.length - 1;
    this.graphs = [];
    this.born = new Map();
    this.gone = new Map();
    this.stages.forEach((stage, k) => this.graphs.push(this.follow(stage, k)));
    this.stepsOf = new Map();
    this.plan.steps.forEach((step, k) => {
      step.number = k;
      if (step.node === null) return;
      if (!this.stepsOf.has(step.node)) this.stepsOf.set(step.node, []);
      this.stepsOf.get(step.node).push(step);
    });
    this.measured = this.plan.runs > 0;
    this.time = this.plan.steps.reduce((sum, step) => sum + (step.seconds ?? 0), 0);
    this.slowest = Math.max(0, ...this.plan.steps.map((step) => step.seconds ?? 0));
  }

  /** The graph of a stage, from the one before and what changed. */
  follow(stage, k) {
    const before = this.graphs[k - 1];
    const order = stage.order ?? before.order;
    const inputs = new Map(before?.inputs);
    const sources = new Map(before?.sources);
    for (const [number, told] of Object.entries(stage.changed)) {
      if (told.in) inputs.set(Number(number), told.in);
      if (told.from) sources.set(Number(number), told.from);
    }
    const alive = new Set(order);
    for (const number of order) if (!this.born.has(number)) this.born.set(number, k);
    for (const number of before?.order ?? []) if (!alive.has(number)) this.gone.set(number, k);
    return { order, alive, inputs, sources, outputs: stage.outputs, users: null };
  }

  /** Numbers of the nodes that a node of a stage reads. */
  reads(k, number) {
    const found = (this.graphs[k].inputs.get(number) ?? []).map(nodeOf).filter((n) => n !== null);
    return [...new Set(found)];
  }

  /** Numbers of the nodes that read a node of a stage. */
  readBy(k, number) {
    const graph = this.graphs[k];
    if (!graph.users) {
      graph.users = new Map();
      for (const user of graph.order) {
        for (const used of this.reads(k, user)) {
          if (!graph.users.has(used)) graph.users.set(used, []);
          graph.users.get(used).push(user);
        }
      }
    }
    return graph.users.get(number) ?? [];
  }

  /** Rows of the params that a node reads. */
  paramsOf(k, number) {
    const inputs = this.graphs[k].inputs.get(number) ?? [];
    return inputs.filter((v) => typeof v === "number" && v < 0).map((v) => this.params[-1 - v]);
  }

  /** The stage at which to look at a node: the one asked for, or the last that has it. */
  stageOf(number, wanted) {
    if (this.graphs[wanted].alive.has(number)) return wanted;
    return this.gone.has(number) ? this.gone.get(number) - 1 : this.last;
  }

  /** The first stage of those before k that all have the same graph: k itself where it changed it. */
  sameAs(k) {
    while (k > 0 && !this.stages[k].order && !Object.keys(this.stages[k].changed).length) k -= 1;
    return k;
  }

  sourcesOf(k, number) {
    return this.graphs[k].sources.get(number) ?? [];
  }

  /** `conv + add + relu` for a fused node, the op's name for another. */
  title(number) {
    const node = this.nodes[number];
    return node.parts ? node.parts.join(" + ") : node.op;
  }

  /** What a node is called: the source that it mostly is, or else its value. */
  label(k, number) {
    const sources = this.sourcesOf(k, number);
    const alike = (name) => this.imported(name).some((n) => this.family(n) === this.family(number));
    const [first] = sources;
    const main = sources.length > 1 ? sources.find(alike) : first;
    return main ?? first ?? this.nodes[number].name ?? this.nodes[number].op;
  }

  family(number) {
    const node = this.nodes[number];
    if (!node.parts) return familyOfOp(node.op);
    const families = node.parts.map(familyOfOp);
    return ANCHORS.find((anchor) => families.includes(anchor)) ?? families[0] ?? "point";
  }

  /** What a pass did: numbers of nodes that came, that went, and of those that are fusions. */
  changes(k) {
    if (!k) return { came: new Set(), went: new Set(), fused: new Set() };
    const [before, after] = [this.graphs[k - 1], this.graphs[k]];
    const came = new Set(after.order.filter((n) => !before.alive.has(n)));
    const went = new Set(before.order.filter((n) => !after.alive.has(n)));
    const fused = new Set([...came].filter((n) => this.nodes[n].parts));
    const into = new Set([...fused].flatMap((n) => this.sourcesOf(k, n)));
    for (const number of went) {
      const sources = this.sourcesOf(k - 1, number);
      if (sources.length && sources.every((name) => into.has(name))) fused.add(number);
    }
    return { came, went, fused };
  }

  /** Rewrites that took a node away or made it, with their stages. */
  rewritesOf(number) {
    return this.stages.flatMap((stage, k) =>
      (stage.rewrites ?? [])
        .filter((r) => r.gone.includes(number) || r.made.includes(number))
        .map((rewrite) => ({ stage: k, rewrite, made: rewrite.made.includes(number) })),
    );
  }

  /** Nodes of the last stage that hold what a node computed: those that share a source with it. */
  heirs(k, number) {
    if (this.graphs[this.last].alive.has(number)) return [number];
    const sources = new Set(this.sourcesOf(k, number));
    return this.graphs[this.last].order.filter((n) =>
      this.sourcesOf(this.last, n).some((name) => sources.has(name)),
    );
  }

  /** Nodes of the import by source name. */
  imported(name) {
    this.byName ??= this.graphs[0].order.reduce((found, number) => {
      for (const source of this.sourcesOf(0, number)) {
        if (!found.has(source)) found.set(source, []);
        found.get(source).push(number);
      }
      return found;
    }, new Map());
    return this.byName.get(name) ?? [];
  }

  /** Nodes that a text is found in, those of stage k first: [{number, stage, label}]. */
  search(text, k, most) {
    const words = text
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== "");
    if (!words.length) return [];
    this.haystacks ??= this.nodes.map((node, number) => {
      const stage = this.stageOf(number, this.born.get(number));
      const names = this.sourcesOf(stage, number).join(" ");
      return `${this.title(number)} ${names} ${node.name ?? ""} ${node.types}`.toLowerCase();
    });
    const hits = [];
    const order = [...this.graphs[k].order];
    const here = this.graphs[k].alive;
    for (let n = 0; n < this.nodes.length; n += 1) if (!here.has(n)) order.push(n);
    for (const number of order) {
      if (!words.every((word) => this.haystacks[number].includes(word))) continue;
      const stage = this.stageOf(number, k);
      hits.push({ number, stage, label: this.label(stage, number) });
      if (hits.length === most) break;
    }
    return hits;
  }
}

/** The node of an operand, null for params and what is left out. */
export function nodeOf(operand) {
  if (Array.isArray(operand)) return operand[0];
  return operand === null || operand < 0 ? null : operand;
}
