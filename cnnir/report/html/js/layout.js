// Scenes: the nodes of a stage with what its pass took away beside them, placed by the worker.

import { lastPart, sizes } from "./dom.js";

export const NODE_WIDTH = 208;
export const NODE_HEIGHT = 46;
const PORT_HEIGHT = 30;
const FAR = 240; // an edge without a route that is longer goes around what is between

/** What is to be drawn of a stage; `changes` says whether nodes that went are shown too. */
export function sceneOf(model, k, changes) {
  const { came, went, fused } = model.changes(k);
  const nodes = new Map();
  const add = (number, stage, state) => {
    const port = model.nodes[number].op === "input";
    nodes.set(number, {
      number,
      stage,
      state,
      fused: fused.has(number),
      title: port ? "input" : model.title(number),
      detail: lastPart(port ? (model.nodes[number].name ?? "") : model.label(stage, number)),
      size: sizes(model.nodes[number].types[0]),
      family: model.family(number),
      width: NODE_WIDTH,
      height: port ? PORT_HEIGHT : NODE_HEIGHT,
    });
  };
  for (const number of model.graphs[k].order) {
    add(number, k, changes && came.has(number) ? "came" : "kept");
  }
  const edges = edgesOf(model, k, model.graphs[k].order, false);
  if (changes && went.size) {
    const gone = model.graphs[k - 1].order.filter((n) => went.has(n));
    for (const number of gone) add(number, k - 1, "went");
    edges.push(...edgesOf(model, k - 1, gone, true).filter((e) => nodes.has(e.from)));
    for (const user of model.graphs[k - 1].order) {
      if (went.has(user) || !nodes.has(user)) continue;
      for (const from of model.reads(k - 1, user)) {
        if (went.has(from)) edges.push({ from, to: user, ghost: true });
      }
    }
    edges.push(...heirEdges(model, k, gone));
  }
  addOutputs(model, k, nodes, edges);
  return { stage: k, nodes, edges };
}

function edgesOf(model, k, users, ghost) {
  return users.flatMap((to) => model.reads(k, to).map((from) => ({ from, to, ghost })));
}

/** From what went to what came of it: keeps them side by side. */
function heirEdges(model, k, gone) {
  return Object.entries(model.stages[k].heirs).flatMap(([to, from]) => {
    const last = gone.findLast((number) => from.includes(number));
    const there = last !== undefined && model.graphs[k].alive.has(Number(to));
    return there ? [{ from: last, to: Number(to), ghost: true, heir: true }] : [];
  });
}

/** Outputs are drawn as nodes of their own, with keys that are no numbers of nodes. */
function addOutputs(model, k, nodes, edges) {
  model.graphs[k].outputs.forEach(([name, operand], position) => {
    const from = Array.isArray(operand) ? operand[0] : operand;
    if (from === null || from < 0 || !nodes.has(from)) return;
    const key = `out${position}`;
    nodes.set(key, {
      number: from,
      key,
      stage: k,
      state: "kept",
      fused: false,
      title: "output",
      detail: lastPart(name),
      size: sizes(model.nodes[from].types[operand[1] ?? 0] ?? ""),
      family: "port",
      width: NODE_WIDTH,
      height: PORT_HEIGHT,
    });
    edges.push({ from, to: key, ghost: false });
  });
}

export class Layouts {
  constructor(code) {
    const link = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    this.worker = new Worker(link);
    this.worker.onmessage = ({ data }) => this.came(data);
    this.kept = new Map(); // key -> promise of a placed scene
    this.running = null;
    this.next = null; // what is asked for meanwhile; only the latest matters
  }

  /** The scene of a stage with x and y for its nodes and corners for its edges; null for one that
   * nobody waits for any more, as another was asked for. */
  placed(model, k, changes) {
    const stage = model.sameAs(k);
    const shown = changes && stage === k;
    const key = `${stage} ${shown}`;
    if (!this.kept.has(key)) {
      const asked = new Promise((resolve) =>
        this.ask({ key, scene: sceneOf(model, stage, shown), resolve }),
      );
      this.kept.set(key, asked);
    }
    return this.kept.get(key);
  }

  ask(work) {
    if (this.running) {
      if (this.next) {
        this.kept.delete(this.next.key);
        this.next.resolve(null);
      }
      this.next = work;
      return;
    }
    this.running = work;
    const keys = [...work.scene.nodes.keys()];
    const index = new Map(keys.map((key, i) => [key, i]));
    this.worker.postMessage({
      sizes: [...work.scene.nodes.values()].map((node) => [node.width, node.height]),
      edges: work.scene.edges.map((edge) => [index.get(edge.from), index.get(edge.to)]),
    });
  }

  came({ at, routes }) {
    const { scene, resolve } = this.running;
    [...scene.nodes.values()].forEach((node, i) => {
      node.x = at[2 * i];
      node.y = at[2 * i + 1];
    });
    scene.edges.forEach((edge, i) => (edge.route = routes[i]));
    this.running = null;
    resolve(finished(scene));
    const { next } = this;
    this.next = null;
    if (next) this.ask(next);
  }
}

/** The scene with its extent, and curves for the edges. */
function finished(scene) {
  const box = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  for (const node of scene.nodes.values()) {
    box.left = Math.min(box.left, node.x - node.width / 2);
    box.right = Math.max(box.right, node.x + node.width / 2);
    box.top = Math.min(box.top, node.y - node.height / 2);
    box.bottom = Math.max(box.bottom, node.y + node.height / 2);
  }
  scene.box = scene.nodes.size ? box : { left: 0, top: 0, right: 1, bottom: 1 };
  for (const edge of scene.edges) {
    const [a, b] = [scene.nodes.get(edge.from), scene.nodes.get(edge.to)];
    const start = [a.x, a.y + a.height / 2];
    const end = [b.x, b.y - b.height / 2];
    const inner = edge.route ? edge.route.slice(2, -2) : [];
    edge.points = [...start, ...inner, ...end];
    edge.top = Math.min(...edge.points.filter((_, i) => i % 2));
    edge.bottom = Math.max(...edge.points.filter((_, i) => i % 2));
    edge.far = !edge.route && edge.bottom - edge.top > FAR;
    edge.path = curve(edge.points);
  }
  return scene;
}

/** A smooth line through the middles of its corners, leaving and arriving upright. */
function curve(points) {
  const path = new Path2D();
  const count = points.length / 2;
  const [x0, y0] = points;
  path.moveTo(x0, y0);
  if (count === 2) {
    const [x1, y1] = points.slice(2);
    const far = Math.abs(y1 - y0);
    const bend = Math.max(12, Math.min(far / 2, 60));
    // one that jumps far goes around, the farther the wider
    const aside = far > FAR ? Math.min(120 + far * 0.08, 480) : 0;
    if (aside) {
      const left = Math.min(x0, x1) - aside;
      path.bezierCurveTo(x0, y0 + bend, left, y0 + bend, left, (y0 + y1) / 2);
      path.bezierCurveTo(left, y1 - bend, x1, y1 - bend, x1, y1);
    } else path.bezierCurveTo(x0, y0 + bend, x1, y1 - bend, x1, y1);
    return path;
  }
  for (let i = 1; i < count - 1; i += 1) {
    const [x, y] = [points[2 * i], points[2 * i + 1]];
    const final = i === count - 2;
    const nextX = final ? points[2 * i + 2] : (x + points[2 * i + 2]) / 2;
    const nextY = final ? points[2 * i + 3] : (y + points[2 * i + 3]) / 2;
    path.quadraticCurveTo(x, y, nextX, nextY);
  }
  return path;
}
