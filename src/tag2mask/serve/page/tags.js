// Tags change, the mask follows: first as the kept probabilities have it, a moment later sharpened.

import { getArray } from "./api.js";
import { BACKGROUND, sameSet } from "./item.js";

const DWELL = 800; // milliseconds on a photo until its probabilities are computed, should its tags be changed
const DELAY = 120; // milliseconds without a further change before the slower, sharpened mask is asked for

export class TagFollower {
  constructor(run, { redraw, say }) {
    Object.assign(this, { run, redraw, say });
  }

  // The server computes a photo's probabilities once; soon after it is shown, they are there.
  prepare(item) {
    clearTimeout(this.dwelling);
    if (!item || item.row.upload || !this.run.segmenter) return;
    this.dwelling = setTimeout(() => getArray(`${item.url}/prediction`).catch(() => {}), DWELL);
  }

  async toggle(item, c) {
    item.remember(item.state());
    item.tags.has(c) ? item.tags.delete(c) : item.tags.add(c);
    this.redraw(item);
    await this.follow(item);
  }

  async follow(item) {
    this.asked?.abort();
    if (sameSet(item.tags, item.givenTags)) {
      item.setBase(item.given);
      return this.redraw(item);
    }
    if (!this.run.segmenter) return this.#withoutSegmenter(item);
    const { signal } = (this.asked = new AbortController());
    const path = `${item.url}/prediction?tags=${[...item.tags].sort((a, b) => a - b).join(",")}`;
    const start = performance.now();
    try {
      this.#take(item, await getArray(path, signal), signal);
      requestAnimationFrame(() => performance.measure("mask follows tags", { start, end: performance.now() }));
      if (!this.run.refines) return;
      await new Promise((resolve) => setTimeout(resolve, DELAY));
      if (!signal.aborted) this.#take(item, await getArray(`${path}&refine=1`, signal), signal);
    } catch (error) {
      if (!signal.aborted) this.say(error.message);
    }
  }

  #take(item, { values }, signal) {
    if (signal.aborted) return;
    item.setBase(values);
    this.redraw(item);
  }

  #withoutSegmenter(item) {
    const gone = new Set(this.run.values.filter((_, c) => !item.tags.has(c)));
    item.setBase(item.given.map((value) => (gone.has(value) ? BACKGROUND : value)));
    this.redraw(item);
    const added = [...item.tags].filter((c) => !item.givenTags.has(c));
    if (added.length) this.say("This run has no segmenter, so a new tag has no mask yet: paint it.");
  }
}
