// The queue as a list. Only the rows in sight exist; what they show is asked for page by page.

import { getJson } from "./api.js";
import { text } from "./classes.js";

const $ = (id) => document.getElementById(id);
const HEIGHT = 52; // of a row, in CSS pixels
const PAGE = 100;
const MARKS = { accepted: "✓", corrected: "✎", rejected: "✗" };

export class List {
  constructor({ photos: count, session, largest_need: largest }, open) {
    Object.assign(this, { count, session, largest, open });
    this.pages = new Map(); // page number to rows, or to the promise of them
    this.current = -1;
    $("list-sheet").style.height = `${count * HEIGHT}px`;
    $("list").addEventListener("scroll", () => this.#soon());
    new ResizeObserver(() => this.#soon()).observe($("list"));
    $("list").addEventListener("keydown", (event) => this.#key(event));
  }

  // The row at a position if it is known.
  known(position) {
    const page = this.pages.get(Math.floor(position / PAGE));
    return Array.isArray(page) ? page[position % PAGE] : undefined;
  }

  async row(position) {
    const number = Math.floor(position / PAGE);
    if (!this.pages.has(number)) {
      const asked = getJson(`/api/queue?start=${number * PAGE}&count=${PAGE}`);
      this.pages.set(number, asked);
      asked.then((rows) => this.pages.set(number, rows), () => this.pages.delete(number));
    }
    return (await this.pages.get(number))[position % PAGE];
  }

  update(row) {
    const page = this.pages.get(Math.floor(row.position / PAGE));
    if (Array.isArray(page)) page[row.position % PAGE] = row;
    this.#soon();
  }

  select(position) {
    this.current = position;
    const list = $("list");
    const top = position * HEIGHT;
    if (top < list.scrollTop || top + HEIGHT > list.scrollTop + list.clientHeight) {
      list.scrollTop = Math.max(0, top - list.clientHeight / 3);
    }
    this.#soon();
  }

  #soon() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      this.#render();
    });
  }

  #render() {
    const list = $("list");
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 2);
    const last = Math.min(this.count, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 2);
    const kept = new Map([...$("list-sheet").children].map((element) => [element.dataset.mark, element]));
    const rows = [];
    for (let position = first; position < last; position++) {
      const row = this.known(position);
      if (!row) this.row(position).then(() => this.#soon(), () => {});
      const mark = `${position} ${row ? row.decision : "?"} ${position === this.current}`;
      rows.push(kept.get(mark) ?? this.#element(position, row, mark));
    }
    const focused = $("list-sheet").contains(document.activeElement);
    $("list-sheet").replaceChildren(...rows);
    if (focused) $("list-sheet").querySelector('[aria-current="true"]')?.focus({ preventScroll: true });
  }

  #element(position, row, mark) {
    const button = document.createElement("button");
    button.dataset.mark = mark;
    button.className = "entry";
    button.style.top = `${position * HEIGHT}px`;
    button.tabIndex = position === this.current ? 0 : -1;
    button.setAttribute("aria-current", String(position === this.current));
    if (!row) return button;
    const image = Object.assign(document.createElement("img"), { alt: "", loading: "lazy", width: 40, height: 40 });
    image.src = `/api/photos/${row.key}/photo.jpg?side=80&v=${this.session}`;
    const need = text("span", "", "need");
    need.style.setProperty("--need", (row.need ?? 0) / this.largest);
    const said = row.decision ?? "open";
    button.append(image, text("span", row.id, "name"), need, text("span", MARKS[row.decision] ?? "", `mark ${said}`));
    button.setAttribute("aria-label", `${row.id}, ${said}` + (row.need === null ? "" : `, need ${row.need.toFixed(2)}`));
    button.title = `${row.id} (${row.split})` + (row.doubted ? `: tags: ${row.doubted}` : "");
    button.addEventListener("click", () => this.open(position));
    return button;
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    this.open(Math.min(this.count - 1, Math.max(0, this.current + step)));
  }
}
