// Decisions on their way to the server, in their order. None is lost while the page is open: what cannot be kept yet is
// tried again, and the page says so.

import { postJson } from "./api.js";

const WAIT = 3000; // milliseconds until the next try
const AGAIN = [0, 500, 503, 507]; // no answer, a fault, the run folder is gone, the disk is full: it may pass

export class Outbox {
  // kept(answer, entry); conflict(entry, error) gives whether to replace; trouble(message, count), message null: none
  constructor({ kept, conflict, trouble }) {
    Object.assign(this, { kept, conflict, trouble });
    this.waiting = [];
    addEventListener("beforeunload", (event) => this.waiting.length && event.preventDefault());
  }

  add(entry) {
    this.waiting.push(entry);
    this.#work();
  }

  has(key) {
    return this.waiting.some((entry) => entry.row.key === key);
  }

  async #work() {
    if (this.busy) return;
    this.busy = true;
    while (this.waiting.length) {
      const entry = this.waiting[0];
      try {
        const answer = await postJson(address(entry), entry.labels);
        this.waiting.shift();
        this.trouble(null, 0);
        this.kept(answer, entry);
      } catch (error) {
        await this.#failed(entry, error);
      }
    }
    this.busy = false;
  }

  async #failed(entry, error) {
    if (error.status === 409) {
      const mine = await this.conflict(entry, error);
      entry.row.revision = error.answer.current.revision;
      if (!mine) this.waiting.shift();
      return;
    }
    if (!AGAIN.includes(error.status)) {
      this.waiting.shift();
      this.trouble(`The decision on ${entry.row.id} was not kept: ${error.message}`, 0);
      return;
    }
    this.trouble(error.message, this.waiting.length);
    await new Promise((resolve) => setTimeout(resolve, WAIT));
  }
}

function address({ row, verdict, tags, who }) {
  const query = new URLSearchParams({ verdict, revision: row.revision, who });
  if (tags) query.set("tags", tags.join(","));
  return `/api/photos/${row.key}/decision?${query}`;
}
