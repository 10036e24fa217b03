// The memory strip: the shots that the newest chunk attends to, a row a layer.

import { make } from "./dom.js";

const MANY = 24; // shots, above which only every fifth has a tick

export class MemoryStrip {
  constructor(parent) {
    const box = make(parent, "div", "cd-strip");
    this.title = make(box, "div", "cd-label", { textContent: "KV cache" });
    this.grid = make(box, "div", "cd-grid");
  }

  show(attended) {
    const key = JSON.stringify(attended);
    if (key === this.key) return;
    this.key = key;
    const rows = attended.rows;
    const shots = rows[0]?.length ?? 0;
    const what = shots
      ? "the shots that each layer's heads attend to"
      : "what the newest chunk attends to, once the film plays";
    this.title.textContent = `KV cache: ${what}`;
    this.grid.replaceChildren();
    this.grid.style.gridTemplateColumns = `max-content repeat(${shots}, minmax(3px, 64px))`;
    const layers = rows.length;
    [...rows].reverse().forEach((row, place) => this.addLayer(row, layers - place, layers));
    if (shots) make(this.grid, "span", "cd-tick cd-axis", { textContent: "shot" });
    for (let shot = 1; shot <= shots; shot++) {
      const textContent = shots <= MANY || shot % 5 === 0 ? shot : "";
      make(this.grid, "span", "cd-tick", { textContent });
    }
  }

  // The uppermost tick names its axis.
  addLayer(row, number, layers) {
    const textContent = number === layers ? `layer ${number}` : number;
    make(this.grid, "span", "cd-tick cd-axis", { textContent });
    row.forEach((share, shot) => {
      const title = `layer ${number}, shot ${shot + 1}: ${Math.round(100 * share)} % of heads`;
      const cell = make(this.grid, "i", "", { title });
      if (share) cell.style.setProperty("--share", `${Math.round(12 + 88 * share)}%`);
    });
  }
}
