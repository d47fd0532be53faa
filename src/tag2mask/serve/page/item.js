// A photo on the page: its pixels, its mask, what the person changed, and how to undo it.

import { getArray, getBitmap } from "./api.js";

export const BACKGROUND = 0;
export const UNDECIDED = 255;
const STEPS = 60; // that can be undone

export class Item {
  // row: as the server describes the photo; url: the address under which its parts lie
  constructor(row, url, bitmap, labels) {
    Object.assign(this, { row, url, bitmap });
    [this.height, this.width] = row.work;
    this.given = labels; // as the server had them
    this.base = labels; // without strokes
    this.givenTags = new Set(row.tags);
    this.tags = new Set(row.tags);
    this.painted = new Uint8Array(labels.length);
    this.touched = new Uint8Array(labels.length); // 1 where painted counts
    this.shown = labels.slice();
    this.done = [];
    this.undone = [];
    this.layers = {}; // maps and prediction, once they were asked for
  }

  static async load(row, url, session) {
    const [bitmap, mask] = await Promise.all([
      getBitmap(`${url}/photo.jpg?v=${session}`),
      getArray(row.key && url.startsWith("/api/photos") ? `${url}/mask` : `${url}/prediction`),
    ]);
    return new Item(row, url, bitmap, mask.values);
  }

  get changed() {
    return this.done.length > 0 && (!sameSet(this.tags, this.givenTags) || !sameBytes(this.shown, this.given));
  }

  // maps or prediction, asked for once
  layer(name) {
    this.layers[name] ??= getArray(`${this.url}/${name}${name === "prediction" ? "?refine=1" : ""}`).catch((error) => {
      delete this.layers[name];
      throw error;
    });
    return this.layers[name];
  }

  at(x, y) {
    return this.shown[y * this.width + x];
  }

  // Paint every pixel within a radius of the line; gives the rectangle that changed.
  stroke(from, to, radius, value) {
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - radius));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(from.x, to.x) + radius));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(from.y, to.y) + radius));
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = dx * dx + dy * dy || 1;
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const along = Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length));
        const [ex, ey] = [x - from.x - along * dx, y - from.y - along * dy];
        if (ex * ex + ey * ey > radius * radius) continue;
        const index = y * this.width + x;
        this.painted[index] = this.shown[index] = value;
        this.touched[index] = 1;
      }
    }
    return { left, top, right, bottom };
  }

  setBase(labels) {
    this.base = labels;
    for (let i = 0; i < labels.length; i++) this.shown[i] = this.touched[i] ? this.painted[i] : labels[i];
  }

  // Everything that undo restores. Strokes copy bytes of the photo's size: a millisecond.
  state() {
    return { base: this.base, tags: new Set(this.tags), painted: this.painted.slice(), touched: this.touched.slice() };
  }

  remember(before) {
    this.done.push(before);
    if (this.done.length > STEPS) this.done.shift();
    this.undone = [];
  }

  undo() {
    return this.#move(this.done, this.undone);
  }

  redo() {
    return this.#move(this.undone, this.done);
  }

  #move(from, to) {
    if (!from.length) return false;
    to.push(this.state());
    const { base, tags, painted, touched } = from.pop();
    Object.assign(this, { tags, painted, touched });
    this.setBase(base);
    return true;
  }
}

export const sameSet = (a, b) => a.size === b.size && [...a].every((one) => b.has(one));

function sameBytes(a, b) {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
