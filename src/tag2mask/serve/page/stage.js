// The photo with what is laid over it, and the brush.

import { BACKGROUND, UNDECIDED } from "./item.js";

const $ = (id) => document.getElementById(id);
const HATCH = 8; // pixels between the stripes of undecided pixels

export class Stage {
  // colors: CSS colour of each class; values: its value in masks; changed: called after every change by the person
  constructor(colors, values, changed) {
    this.changed = changed;
    this.item = null;
    this.layer = "mask";
    this.tool = "view";
    this.brush = null; // a value; null: the class under the cursor where the stroke begins
    this.zoom = 1;
    this.hidden = false;
    this.at = { x: 0, y: 0 };
    this.table = new Uint32Array(256); // mask value to a pixel: bytes RGBA
    this.rgb = colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
    this.edges = new Uint32Array(256); // the same, of pixels at a class's border
    values.forEach((value, c) => {
      this.table[value] = pixel(...this.rgb[c], 255);
      this.edges[value] = pixel(...this.rgb[c].map((part) => Math.round(part + (255 - part) * 0.6)), 255);
    });
    this.overlay = $("overlay").getContext("2d");
    this.#listen();
    new ResizeObserver(() => this.fit()).observe($("stage"));
  }

  show(item) {
    this.item = item;
    $("sheet").hidden = !item;
    if (!item) return;
    for (const id of ["photo", "overlay"]) Object.assign($(id), { width: item.width, height: item.height });
    $("photo").getContext("2d").drawImage(item.bitmap, 0, 0, item.width, item.height);
    this.image = this.overlay.createImageData(item.width, item.height);
    this.words = new Uint32Array(this.image.data.buffer);
    this.at = { x: item.width >> 1, y: item.height >> 1 };
    this.zoom = 1;
    this.fit();
    this.draw();
  }

  fit() {
    if (!this.item) return;
    const stage = $("stage");
    this.scale = Math.min(stage.clientWidth / this.item.width, stage.clientHeight / this.item.height) * this.zoom;
    $("sheet").style.width = `${Math.floor(this.item.width * this.scale)}px`;
    $("sheet").style.height = `${Math.floor(this.item.height * this.scale)}px`;
    this.#placeCursor();
  }

  zoomBy(factor) {
    const stage = $("stage");
    const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
    const before = this.zoom;
    this.zoom = factor === 0 ? 1 : Math.min(12, Math.max(1, this.zoom * factor));
    this.fit();
    const grown = this.zoom / before;
    stage.scrollTo(x * grown - stage.clientWidth / 2, y * grown - stage.clientHeight / 2);
  }

  // All of the overlay: labels, or the layer that is chosen once it is there.
  draw() {
    const { item, layer } = this;
    $("overlay").style.visibility = this.hidden ? "hidden" : "visible";
    if (!item) return;
    const ready = layer === "mask" ? null : item.layers[`${layer} there`];
    if (layer === "maps" && ready) this.#drawMaps(ready);
    else if (layer === "mask" || ready) this.#drawLabels(ready?.values ?? item.shown);
    else this.overlay.clearRect(0, 0, item.width, item.height);
  }

  #drawLabels(labels, changed) {
    const { words, table, edges } = this;
    const { width, height } = this.item;
    let { left, top, right, bottom } = changed ?? { left: 0, top: 0, right: width - 1, bottom: height - 1 };
    const stripe = pixel(235, 235, 235, 220);
    [left, top] = [Math.max(0, left - 1), Math.max(0, top - 1)];
    [right, bottom] = [Math.min(width - 1, right + 1), Math.min(height - 1, bottom + 1)];
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const index = y * width + x;
        const label = labels[index];
        if (label === UNDECIDED) words[index] = (x + y) % HATCH < 3 ? stripe : 0;
        else if (label === BACKGROUND) words[index] = 0;
        else {
          const inside =
            (x === 0 || labels[index - 1] === label) && (x + 1 === width || labels[index + 1] === label) &&
            (y === 0 || labels[index - width] === label) && (y + 1 === height || labels[index + width] === label);
          words[index] = (inside ? table : edges)[label];
        }
      }
    }
    this.overlay.putImageData(this.image, 0, 0, left, top, right - left + 1, bottom - top + 1);
  }

  // The strongest class's colour, as opaque as its score.
  #drawMaps({ shape: [count, rows, columns], classes, values }) {
    const small = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    const words = new Uint32Array(image.data.buffer);
    for (let cell = 0; cell < rows * columns; cell++) {
      let best = 0;
      let number = -1;
      for (let c = 0; c < count; c++) {
        const score = values[c * rows * columns + cell];
        if (score > best) [best, number] = [score, c];
      }
      words[cell] = number < 0 ? 0 : pixel(...this.rgb[classes[number]], best);
    }
    small.getContext("2d").putImageData(image, 0, 0);
    this.overlay.clearRect(0, 0, this.item.width, this.item.height);
    this.overlay.imageSmoothingQuality = "high";
    this.overlay.drawImage(small, 0, 0, this.item.width, this.item.height);
  }

  // --- brush

  get radius() {
    return Number($("size").value);
  }

  moveCursor(dx, dy, painting) {
    if (!this.item) return;
    const from = this.at;
    this.at = {
      x: Math.min(this.item.width - 1, Math.max(0, from.x + dx)),
      y: Math.min(this.item.height - 1, Math.max(0, from.y + dy)),
    };
    if (painting) this.#paint(from, this.at);
    this.#placeCursor(true);
  }

  begin() {
    if (!this.item || this.tool === "view" || this.stroke) return;
    const under = this.item.at(Math.round(this.at.x), Math.round(this.at.y));
    const value = this.tool === "eraser" ? BACKGROUND : this.brush ?? under;
    this.stroke = { before: this.item.state(), value };
    this.#paint(this.at, this.at);
  }

  end(keep = true) {
    if (!this.stroke) return;
    const { before } = this.stroke;
    this.stroke = null;
    this.item.remember(before);
    if (!keep) {
      this.item.undo();
      this.item.undone.pop();
      this.draw();
    }
    this.changed();
  }

  pick() {
    if (!this.item) return null;
    return this.item.at(Math.round(this.at.x), Math.round(this.at.y));
  }

  #paint(from, to) {
    if (!this.stroke) return;
    this.#drawLabels(this.item.shown, this.item.stroke(from, to, this.radius, this.stroke.value));
  }

  #placeCursor(show = false) {
    const cursor = $("cursor");
    if (show) cursor.hidden = this.tool === "view";
    const diameter = Math.max(4, 2 * this.radius * this.scale);
    const { x, y } = this.at;
    Object.assign(cursor.style, {
      width: `${diameter}px`, height: `${diameter}px`,
      left: `${(x + 0.5) * this.scale - diameter / 2}px`, top: `${(y + 0.5) * this.scale - diameter / 2}px`,
    });
  }

  refreshCursor() {
    if (this.item) this.#placeCursor(true);
  }

  #place(event) {
    const box = $("overlay").getBoundingClientRect();
    return {
      x: Math.min(this.item.width - 1, Math.max(0, ((event.clientX - box.left) / box.width) * this.item.width - 0.5)),
      y: Math.min(this.item.height - 1, Math.max(0, ((event.clientY - box.top) / box.height) * this.item.height - 0.5)),
    };
  }

  #listen() {
    const sheet = $("sheet");
    sheet.addEventListener("pointerdown", (event) => {
      if (!this.item || event.button !== 0) return;
      this.at = this.#place(event);
      if (event.altKey || event.ctrlKey) {
        this.picked?.(this.pick());
        event.preventDefault();
      } else if (this.tool !== "view" && this.layer === "mask") {
        if (!event.isPrimary) return this.end(false); // a second finger: it is a gesture, no stroke
        sheet.setPointerCapture(event.pointerId);
        this.begin();
        event.preventDefault();
        $("stage").focus({ preventScroll: true });
      }
    });
    sheet.addEventListener("pointermove", (event) => {
      if (!this.item || !event.isPrimary) return;
      for (const one of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const to = this.#place(one);
        this.#paint(this.at, to);
        this.at = to;
      }
      this.#placeCursor(true);
    });
    sheet.addEventListener("pointerup", () => this.end());
    sheet.addEventListener("pointercancel", () => this.end(false));
    sheet.addEventListener("pointerleave", () => ($("cursor").hidden = true));
    $("stage").addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8);
    }, { passive: false });
  }
}

const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const word = (a, b, c, d) => ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
const pixel = (r, g, b, a) => (little ? word(a, b, g, r) : word(r, g, b, a));
