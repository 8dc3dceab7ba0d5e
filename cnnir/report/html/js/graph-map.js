// A small picture of the whole graph, with a frame around what is in sight.

import { element } from "./dom.js";

const WIDEST = 150; // dots
const LARGEST_SCALE = 0.12;

export class GraphMap {
  /** `lookAt(x, y)` moves the view to a point of the scene. */
  constructor(lookAt) {
    this.element = element("canvas", { className: "map", "aria-hidden": "true" });
    this.sketch = null; // the picture without the frame, drawn once a scene
    const jump = (event) => {
      if (!(event.buttons & 1) || !this.sketch) return;
      const bounds = this.element.getBoundingClientRect();
      const { scale, left, top } = this.sketch;
      lookAt(
        (event.clientX - bounds.left) / scale + left,
        (event.clientY - bounds.top) / scale + top,
      );
    };
    this.element.addEventListener("pointerdown", jump);
    this.element.addEventListener("pointermove", jump);
  }

  /** Draw the picture anew: for another scene, size or theme. */
  forget() {
    this.sketch = null;
  }

  /** Nothing where all of the scene is in sight; `extent` is that of the view, in dots. */
  draw(scene, sight, extent, palette) {
    const { box } = scene;
    this.element.hidden =
      sight.left <= box.left &&
      sight.right >= box.right &&
      sight.top <= box.top &&
      sight.bottom >= box.bottom;
    if (this.element.hidden) return;
    this.sketch ??= this.sketched(scene, extent, palette);
    const { canvas, scale } = this.sketch;
    const c = this.element.getContext("2d");
    const dots = devicePixelRatio || 1;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    c.drawImage(canvas, 0, 0);
    c.scale(scale * dots, scale * dots);
    c.translate(-box.left, -box.top);
    c.strokeStyle = palette.accent;
    c.lineWidth = 1.5 / scale;
    c.strokeRect(sight.left, sight.top, sight.right - sight.left, sight.bottom - sight.top);
  }

  sketched({ box, nodes }, [, viewHeight], palette) {
    const [wide, high] = [box.right - box.left, box.bottom - box.top];
    const dots = devicePixelRatio || 1;
    const scale = Math.min(LARGEST_SCALE, WIDEST / wide, Math.max(120, viewHeight - 140) / high);
    const [width, height] = [Math.max(10, wide * scale), high * scale];
    const canvas = element("canvas", {
      width: Math.ceil(width * dots) || 1,
      height: Math.ceil(height * dots) || 1,
    });
    const c = canvas.getContext("2d");
    c.scale(scale * dots, scale * dots);
    c.translate(-box.left, -box.top);
    const least = 1.5 / scale;
    for (const node of nodes.values()) {
      c.fillStyle = palette[`f-${node.family}`];
      c.globalAlpha = node.state === "went" ? 0.3 : 0.9;
      const tall = Math.max(node.height * 0.8, least);
      c.fillRect(node.x - node.width / 2, node.y - tall / 2, Math.max(node.width, least), tall);
    }
    this.element.width = canvas.width;
    this.element.height = canvas.height;
    this.element.style.width = `${width}px`;
    this.element.style.height = `${height}px`;
    return { canvas, scale, left: box.left, top: box.top };
  }
}
