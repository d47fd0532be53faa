// The classes of the photo at hand: legend, tags, and what the brush paints with. Names are put in as text alone.

import { BACKGROUND, UNDECIDED } from "./item.js";

const $ = (id) => document.getElementById(id);

export class Classes {
  // toggled(c): a tag was ticked or unticked; chosen(value): the brush paints with it
  constructor(run, toggled, chosen) {
    Object.assign(this, { run, toggled, chosen });
    this.order = []; // classes listed, in the order of their number keys
    this.rows = new Map();
    this.value = null;
    for (const name of run.classes) $("tag-names").append(new Option(name));
    $("add-tag").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#typed();
    });
  }

  // A new photo: its tags and what its mask shows, in the order of the classes.
  show(item) {
    this.order = [];
    this.rows.clear();
    $("classes").replaceChildren();
    this.choose(null);
    if (!item) return;
    this.#fixed(null, "under the cursor", "C", "auto");
    this.#fixed(BACKGROUND, "background", "0", "background");
    this.update(item);
    this.#fixed(UNDECIDED, "undecided", "D", "undecided");
    this.#mark();
  }

  // The same photo after a change: shares, ticks, classes that came.
  update(item) {
    const counts = new Uint32Array(256);
    for (const value of item.shown) counts[value]++;
    const there = new Set([...item.tags, ...this.run.values.flatMap((value, c) => (counts[value] ? [c] : []))]);
    for (const c of [...there].sort((a, b) => a - b)) if (!this.order.includes(c)) this.#add(c);
    for (const [c, row] of this.rows) {
      row.tick.checked = item.tags.has(c);
      const share = (100 * counts[this.run.values[c]]) / item.shown.length;
      row.share.textContent = share === 0 ? "–" : share < 1 ? "<1 %" : `${Math.round(share)} %`;
    }
  }

  byNumber(number) {
    return this.order[number - 1];
  }

  choose(value) {
    this.value = value;
    this.#mark();
  }

  nameOf(value) {
    if (value === BACKGROUND) return "background";
    if (value === UNDECIDED) return "undecided";
    return this.run.classes[this.run.values.indexOf(value)];
  }

  #mark() {
    for (const button of $("classes").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.value === String(this.value)));
    }
  }

  #add(c) {
    this.order.push(c);
    const number = this.order.length;
    const tick = Object.assign(document.createElement("input"), { type: "checkbox" });
    tick.setAttribute("aria-label", `${this.run.classes[c]} is in the photo`);
    tick.addEventListener("change", () => this.toggled(c));
    const share = text("span", "", "share number soft small");
    const row = this.#row(this.run.values[c], this.run.classes[c], number < 10 ? String(number) : "", this.run.colors[c]);
    row.prepend(tick);
    row.append(share);
    this.rows.set(c, { tick, share });
    const undecided = $("classes").querySelector(`[data-kind="undecided"]`);
    $("classes").insertBefore(row, undecided);
    this.#mark();
  }

  #fixed(value, name, key, kind) {
    const row = this.#row(value, name, key, null);
    row.dataset.kind = kind;
    row.prepend(text("span", "", "no-tick"));
    $("classes").append(row);
  }

  #row(value, name, key, color) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.dataset.value = String(value);
    button.title = value === null ? "Paint with the class where the stroke begins" : `Paint with ${name}`;
    const swatch = text("span", "", "swatch");
    if (color) swatch.style.background = color;
    button.append(swatch, text("span", name, "name"), ...(key ? [text("kbd", key)] : []));
    button.addEventListener("click", () => this.chosen(value));
    row.append(button);
    return row;
  }

  #typed() {
    const wanted = $("tag").value.trim().toLowerCase();
    const names = this.run.classes.map((name) => name.toLowerCase());
    const exact = names.indexOf(wanted);
    const near = names.flatMap((name, c) => (wanted && name.startsWith(wanted) ? [c] : []));
    const c = exact >= 0 ? exact : near.length === 1 ? near[0] : -1;
    if (c < 0) {
      $("tag-note").textContent = near.length ? `${near.length} classes begin so` : `No class is called “${wanted}”`;
      return;
    }
    $("tag").value = "";
    $("tag-note").textContent = "";
    this.toggled(c);
    $("stage").focus();
  }
}

export function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  if (className) element.className = className;
  return element;
}
