// Draws a scene on a canvas: panning, zooming, hovering, selecting. Knows nothing of passes.

import { colour, element } from "./dom.js";
import { GraphMap } from "./graph-map.js";

const LEAST_ZOOM = 0.02;
const MOST_ZOOM = 3;
const TEXT_FROM = 0.42; // zoom from which nodes have text
const DETAIL_FROM = 0.62;
const FONT = "ui-sans-serif, system-ui, sans-serif";
const MONO = "ui-monospace, Menlo, Consolas, monospace";

export class GraphView {
  /** `on` has select(number or null), hover(event, node or null). */
  constructor(on) {
    this.on = on;
    this.scene = null;
    this.zoom = 1;
    this.x = 0; // of the scene's point in the middle of the canvas
    this.y = 0;
    this.selected = null;
    this.hits = null;
    this.heat = () => 0;
    this.canvas = element("canvas", {
      tabIndex: 0,
      "aria-label": "The graph; arrows walk along it",
    });
    this.map = new GraphMap((x, y) => this.lookAt(x, y));
    this.busy = element("div", { className: "busy", hidden: true, textContent: "laying out …" });
    this.element = element("div", { className: "graph" }, this.canvas, this.map.element, this.busy);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  show(scene) {
    const anchor = this.scene ? this.anchor(scene) : null;
    const first = !this.scene;
    this.scene = scene;
    if (anchor) {
      this.x += anchor.now.x - anchor.then.x;
      this.y += anchor.now.y - anchor.then.y;
    }
    if (first) this.start();
    this.clamp();
    this.map.forget();
    this.redraw();
  }

  /** A node that both scenes have, to hold the picture by: the selected one, or the middlemost. */
  anchor(scene) {
    let best = null;
    for (const [key, then] of this.scene.nodes) {
      const now = scene.nodes.get(key);
      if (!now) continue;
      const chosen = then.number === this.selected;
      const far = chosen ? -1 : (then.x - this.x) ** 2 + (then.y - this.y) ** 2;
      if (!best || far < best.far) best = { far, then, now };
    }
    return best;
  }

  /** The beginning of the graph at a zoom where it can be read. */
  start() {
    const { box } = this.scene;
    const [width, height] = this.extent();
    const all = Math.min(
      (width - 80) / (box.right - box.left),
      (height - 80) / (box.bottom - box.top),
    );
    this.zoom = Math.min(1, Math.max(all, 0.88));
    const input = [...this.scene.nodes.values()].find((node) => node.title === "input");
    this.x = input?.x ?? (box.left + box.right) / 2;
    this.y = box.top + (height / 2 - 60) / this.zoom;
    if (all >= this.zoom) this.fit();
  }

  /** All of the graph. */
  fit() {
    const { box } = this.scene;
    const [width, height] = this.extent();
    const room = Math.min(
      (width - 60) / (box.right - box.left),
      (height - 60) / (box.bottom - box.top),
    );
    this.zoom = Math.max(LEAST_ZOOM, Math.min(1.2, room));
    this.x = (box.left + box.right) / 2;
    this.y = (box.top + box.bottom) / 2;
    this.redraw();
  }

  zoomBy(factor, point = null) {
    const [width, height] = this.extent();
    const [px, py] = point ?? [width / 2, height / 2];
    const before = this.at(px, py);
    this.zoom = Math.max(LEAST_ZOOM, Math.min(MOST_ZOOM, this.zoom * factor));
    const after = this.at(px, py);
    this.x += before[0] - after[0];
    this.y += before[1] - after[1];
    this.clamp();
    this.redraw();
  }

  panBy(dx, dy) {
    this.x += dx / this.zoom;
    this.y += dy / this.zoom;
    this.clamp();
    this.redraw();
  }

  lookAt(x, y) {
    this.x = x;
    this.y = y;
    this.clamp();
    this.redraw();
  }

  /** Some of the graph stays in sight. */
  clamp() {
    const { box } = this.scene;
    this.x = Math.max(box.left - 100, Math.min(box.right + 100, this.x));
    this.y = Math.max(box.top - 100, Math.min(box.bottom + 100, this.y));
  }

  select(number, reveal) {
    this.selected = number;
    const node = number === null ? null : this.scene?.nodes.get(number);
    if (node && reveal) this.reveal(node);
    this.redraw();
  }

  /** Move only as far as needed for a node to be well in sight. */
  reveal(node) {
    if (this.zoom < TEXT_FROM) this.zoom = 0.9;
    const [width, height] = this.extent();
    const [roomX, roomY] = [width / this.zoom / 2 - 130, height / this.zoom / 2 - 70];
    if (Math.abs(node.x - this.x) > roomX) this.x = node.x;
    if (Math.abs(node.y - this.y) > roomY) this.y = node.y;
  }

  /** Where a node is on the screen, for tests and tooltips. */
  place(number) {
    const node = this.scene.nodes.get(number);
    const [width, height] = this.extent();
    const bounds = this.canvas.getBoundingClientRect();
    return {
      x: bounds.left + (node.x - this.x) * this.zoom + width / 2,
      y: bounds.top + (node.y - this.y) * this.zoom + height / 2,
    };
  }

  extent() {
    return [this.element.clientWidth || 1, this.element.clientHeight || 1];
  }

  /** The scene's point under a point of the canvas. */
  at(px, py) {
    const [width, height] = this.extent();
    return [(px - width / 2) / this.zoom + this.x, (py - height / 2) / this.zoom + this.y];
  }

  hit(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const [x, y] = this.at(event.clientX - bounds.left, event.clientY - bounds.top);
    for (const node of this.scene?.nodes.values() ?? []) {
      if (Math.abs(node.x - x) <= node.width / 2 && Math.abs(node.y - y) <= node.height / 2)
        return node;
    }
    return null;
  }

  listen() {
    let drag = null;
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) {
        const node = this.hit(event);
        canvas.style.cursor = node ? "pointer" : "grab";
        this.on.hover(event, node);
        return;
      }
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      canvas.style.cursor = "grabbing";
      this.panBy(-dx, -dy);
      drag = { x: event.clientX, y: event.clientY, moved: true };
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) this.on.select(this.hit(event)?.number ?? null);
      drag = null;
    });
    canvas.addEventListener("pointerleave", (event) => this.on.hover(event, null));
    canvas.addEventListener("dblclick", (event) => {
      const node = this.hit(event);
      if (!node) return;
      [this.x, this.y, this.zoom] = [node.x, node.y, Math.max(this.zoom, 1.2)];
      this.redraw();
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const bounds = canvas.getBoundingClientRect();
        const point = [event.clientX - bounds.left, event.clientY - bounds.top];
        const lines = event.deltaMode === 1 ? 16 : 1;
        if (event.ctrlKey || event.metaKey)
          this.zoomBy(Math.exp(-event.deltaY * lines * 0.01), point);
        else if (event.shiftKey && !event.deltaX) this.panBy(event.deltaY * lines, 0);
        else this.panBy(event.deltaX * lines, event.deltaY * lines);
      },
      { passive: false },
    );
  }

  resize() {
    const [width, height] = this.extent();
    const dots = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(height * dots);
    this.map.forget();
    this.draw();
  }

  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => this.draw());
  }

  /** Colours are read again when the theme changes. */
  recolour() {
    this.palette = null;
    this.map.forget();
    this.redraw();
  }

  draw() {
    this.pending = null;
    if (!this.scene) return;
    const c = this.canvas.getContext("2d");
    const [width, height] = this.extent();
    const dots = devicePixelRatio || 1;
    this.palette ??= new Proxy({}, { get: (kept, name) => (kept[name] ??= colour(name)) });
    c.setTransform(dots, 0, 0, dots, 0, 0);
    c.clearRect(0, 0, width, height);
    c.translate(width / 2, height / 2);
    c.scale(this.zoom, this.zoom);
    c.translate(-this.x, -this.y);
    const [left, top] = this.at(0, 0);
    const [right, bottom] = this.at(width, height);
    for (const edge of this.scene.edges) {
      if (edge.bottom >= top && edge.top <= bottom) this.drawEdge(c, edge);
    }
    for (const [key, node] of this.scene.nodes) {
      const apart = node.x + node.width < left || node.x - node.width > right;
      if (!apart && node.y + node.height >= top && node.y - node.height <= bottom) {
        this.drawNode(c, key, node);
      }
    }
    this.map.draw(this.scene, { left, top, right, bottom }, [width, height], this.palette);
  }

  drawEdge(c, edge) {
    const near =
      this.selected !== null && (edge.from === this.selected || edge.to === this.selected);
    const faint = this.hits && !(this.hits.has(edge.from) && this.hits.has(edge.to));
    c.globalAlpha = faint ? 0.25 : edge.far && !near ? 0.55 : 1;
    c.strokeStyle = near
      ? this.palette.accent
      : edge.heir
        ? this.palette.fused
        : edge.ghost
          ? this.palette.went
          : this.palette.edge;
    c.lineWidth = (near ? 2.2 : 1.3) / Math.max(this.zoom, 0.35) ** 0.5;
    c.setLineDash(edge.heir ? [1.5, 4] : edge.ghost ? [5, 4] : []);
    c.stroke(edge.path);
    c.setLineDash([]);
    if (this.zoom > TEXT_FROM) {
      const [x, y] = edge.points.slice(-2);
      c.fillStyle = c.strokeStyle;
      c.beginPath();
      c.moveTo(x - 3.5, y - 6);
      c.lineTo(x + 3.5, y - 6);
      c.lineTo(x, y);
      c.fill();
    }
    c.globalAlpha = 1;
  }

  drawNode(c, key, node) {
    const { palette } = this;
    const [x, y] = [node.x - node.width / 2, node.y - node.height / 2];
    const gone = node.state === "went";
    const chosen = node.number === this.selected && !node.key;
    const tint = node.fused && node.state !== "kept" ? palette.fused : palette[node.state];
    c.globalAlpha = this.hits && !this.hits.has(key) ? 0.2 : 1;
    c.beginPath();
    c.roundRect(x, y, node.width, node.height, node.family === "port" ? node.height / 2 : 6);
    c.fillStyle = this.zoom < TEXT_FROM && !gone ? palette[`f-${node.family}`] : palette.node;
    c.fill();
    if (this.zoom >= TEXT_FROM && node.family !== "port") this.drawBand(c, node, x, y, gone);
    c.strokeStyle = chosen ? palette.accent : node.state === "kept" ? palette.line : tint;
    c.lineWidth = chosen ? 3 : node.state === "kept" ? 1 : 2;
    if (this.zoom < TEXT_FROM)
      c.lineWidth = (chosen || node.state !== "kept" ? 2.5 : 0) / this.zoom;
    c.setLineDash(gone ? [6, 4] : []);
    c.beginPath();
    c.roundRect(x, y, node.width, node.height, node.family === "port" ? node.height / 2 : 6);
    if (c.lineWidth) c.stroke();
    c.setLineDash([]);
    if (this.zoom >= TEXT_FROM) this.drawText(c, node, x, y, gone, tint);
    c.globalAlpha = 1;
  }

  /** The family's colour on the left, the share of the time along the bottom. */
  drawBand(c, node, x, y, gone) {
    c.save();
    c.clip();
    c.globalAlpha *= gone ? 0.45 : 1;
    c.fillStyle = this.palette[`f-${node.family}`];
    c.fillRect(x, y, 6, node.height);
    const heat = gone ? 0 : this.heat(node.number);
    if (heat > 0.004) {
      c.fillStyle = this.palette.heat;
      c.fillRect(x + 6, y + node.height - 4, (node.width - 6) * heat, 4);
    }
    c.restore();
  }

  drawText(c, node, x, y, gone, tint) {
    const { palette } = this;
    const port = node.family === "port";
    const right = x + node.width - (port ? 14 : 10);
    const left = x + (port ? 14 : 15);
    c.textBaseline = "middle";
    c.textAlign = "left";
    c.fillStyle = gone ? palette.faint : palette.ink;
    c.font = `600 13px ${FONT}`;
    const line = port ? node.y : this.zoom < DETAIL_FROM ? node.y : y + 16;
    const sign = node.state === "kept" ? "" : node.fused ? "⊕" : gone ? "−" : "+";
    c.fillText(
      fitting(c, node.title, node.width - (port ? 100 : 30) - (sign ? 16 : 0)),
      left,
      line,
    );
    if (sign) {
      c.fillStyle = tint;
      c.font = `700 15px ${FONT}`;
      c.textAlign = "right";
      c.fillText(sign, right, y + 14);
    }
    if (this.zoom < DETAIL_FROM) return;
    c.fillStyle = palette.faint;
    c.font = `11px ${MONO}`;
    c.textAlign = "right";
    const below = port ? node.y : y + 32;
    c.fillText(node.size, right, below);
    if (port) return;
    const room = node.width - 34 - c.measureText(node.size).width;
    c.textAlign = "left";
    c.font = `11.5px ${FONT}`;
    c.fillText(fitting(c, node.detail, room), left, below);
  }
}

/** A text cut so that it fits into a width. */
function fitting(c, text, width) {
  if (c.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (c.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low ? `${text.slice(0, low)}…` : "";
}
