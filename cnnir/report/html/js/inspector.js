// The panel on the right: a node with everything about it, or else what a stage did.

import { NodePanel } from "./node-panel.js";
import { StagePanel } from "./stage-panel.js";

export class Inspector {
  /** `go` has node(number, stage) and stage(k). */
  constructor(model, panel, go) {
    this.model = model;
    this.panel = panel;
    this.nodes = new NodePanel(model, go);
    this.stages = new StagePanel(model, go);
  }

  show(number, stage) {
    const parts =
      number === null
        ? this.stages.parts(stage)
        : this.nodes.parts(number, this.model.stageOf(number, stage));
    this.panel.replaceChildren(...parts.filter((part) => part));
    this.panel.scrollTop = 0;
  }
}
