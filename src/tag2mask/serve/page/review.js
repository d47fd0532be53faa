// The run's photos one after the other. The next ones are loaded ahead, so a key shows the next photo at once.

import { getJson } from "./api.js";
import { Item } from "./item.js";
import { List } from "./list.js";
import { Outbox } from "./outbox.js";

const $ = (id) => document.getElementById(id);
const AHEAD = 4; // photos loaded ahead
const KEPT = 14; // photos kept in the page's memory

export class Review {
  // page: {run, show(item), say(text), trouble(text, count), conflict(entry, error), counted(counts), empty(text)}
  constructor(page) {
    this.page = page;
    this.loaded = new Map(); // key to the promise of an item
    this.ready = new Map(); // key to the item
    this.coming = [];
    this.visited = [];
    this.decided = [];
    this.item = null;
    this.list = new List(page.run, (position) => this.open(position));
    this.outbox = new Outbox({
      kept: (answer) => this.#kept(answer),
      conflict: (entry, error) => page.conflict(entry, error),
      trouble: page.trouble,
    });
    $("undecided").addEventListener("change", () => this.#lookAhead());
  }

  async begin() {
    if (!this.page.run.photos) {
      const rest = this.page.run.segmenter ? " New photos can be tried nevertheless." : "";
      const why = "This run has no masks of its photos, tags and settings as they are now";
      this.page.empty(`${why}: run its command again (\`tag2mask plan\` says what has changed).${rest}`);
      return;
    }
    const rows = await this.#upcoming(-1);
    if (rows.length) return this.#go(rows[0]);
    this.page.say("Every photo has a decision.");
    return this.open(0);
  }

  async open(position) {
    this.wanted = position;
    const row = await this.list.row(position);
    if (this.wanted === position) await this.#go(row);
  }

  // The next photo; in the same turn where it is loaded.
  next() {
    const row = this.coming[0];
    if (!row) {
      this.page.say(this.waiting ? "Looking for the next photo …" : "This is the last photo.");
      return this.waiting;
    }
    return this.#go(row);
  }

  previous() {
    const position = this.visited.pop();
    if (position === undefined) return this.page.say("This is where you began.");
    this.back = true;
    return this.open(position);
  }

  // verdict: accept, reject or withdraw. The decision travels while the next photo is shown.
  decide(verdict) {
    const item = this.item;
    if (!item) return;
    const named = { accept: item.changed ? "corrected" : "accepted", reject: "rejected", withdraw: "withdrawn" }[verdict];
    const tags = item.row.tagged || item.changed ? [...item.tags] : null;
    const labels = named === "corrected" ? item.shown.slice() : null;
    this.outbox.add({ row: { ...item.row }, verdict: named, tags, labels, who: $("who").value.trim() });
    this.#forget(item.row.key);
    if (verdict === "withdraw") return;
    this.decided.push(item.row.position);
    this.coming = this.coming.filter((row) => row.key !== item.row.key);
    return this.next();
  }

  // Back to the photo that was decided last, its decision withdrawn.
  async takeBack() {
    const position = this.decided.pop();
    if (position === undefined) return this.page.say("You have decided nothing yet.");
    while (this.outbox.waiting.length) await new Promise((resolve) => setTimeout(resolve, 50));
    await this.open(position);
    this.decide("withdraw");
    this.page.say(`The decision on ${this.item.row.id} is taken back.`);
  }

  async #go(row) {
    const start = this.pressed;
    this.wanted = row.position;
    const item = this.ready.get(row.key) ?? (await this.#load(row).catch((error) => this.#unreadable(row, error)));
    if (!item || this.wanted !== row.position) return;
    if (this.item && !this.back && this.item !== item) this.visited.push(this.item.row.position);
    this.back = false;
    this.item = item;
    this.page.show(item);
    this.list.select(row.position);
    if (start !== undefined) {
      requestAnimationFrame(() => performance.measure("next photo", { start, end: performance.now() }));
    }
    this.#lookAhead();
  }

  #unreadable(row, error) {
    this.page.say(`${row.id}: ${error.message}`);
    this.coming = this.coming.filter((other) => other.key !== row.key);
    this.item = null;
    this.page.show(null);
    this.page.empty(error.message);
    this.list.select(row.position);
    this.#lookAhead(row.position);
  }

  #load(row) {
    if (!this.loaded.has(row.key)) {
      const asked = Item.load(row, `/api/photos/${row.key}`, this.page.run.session);
      this.loaded.set(row.key, asked);
      asked.then(
        (item) => this.loaded.get(row.key) === asked && this.ready.set(row.key, item),
        () => this.loaded.delete(row.key),
      );
      for (const key of this.loaded.keys()) {
        if (this.loaded.size <= KEPT) break;
        if (key !== this.item?.row.key && key !== row.key) this.#forget(key);
      }
    }
    return this.loaded.get(row.key);
  }

  #forget(key) {
    this.loaded.delete(key);
    this.ready.delete(key);
  }

  #upcoming(after) {
    const undecided = $("undecided").checked ? 1 : 0;
    return getJson(`/api/upcoming?after=${after}&count=${AHEAD + 4}&undecided=${undecided}`);
  }

  #lookAhead(after = this.item?.row.position ?? -1) {
    this.coming = this.coming.filter((row) => row.position > after);
    this.waiting = this.#upcoming(after).then(
      (rows) => {
        this.waiting = null;
        if ((this.item?.row.position ?? after) !== after) return;
        this.coming = rows.filter((row) => !this.outbox.has(row.key) || !$("undecided").checked);
        for (const row of this.coming.slice(0, AHEAD)) this.#load(row).catch(() => {});
      },
      (error) => {
        this.waiting = null;
        this.page.trouble(error.message, this.outbox.waiting.length);
      },
    );
  }

  #kept({ row, counts }) {
    this.list.update(row);
    if (this.item?.row.key === row.key) Object.assign(this.item.row, row);
    else this.#forget(row.key);
    this.page.counted(counts);
  }
}
