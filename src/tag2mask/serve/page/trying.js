// Photos that are dropped on the page.

import { getArray, postJson } from "./api.js";
import { text } from "./classes.js";
import { Item } from "./item.js";

const $ = (id) => document.getElementById(id);

export class Trying {
  // page: as of Review; opened(): the person dropped something, wherever that was
  constructor(page, opened) {
    this.page = page;
    this.item = null;
    this.queue = Promise.resolve();
    $("files").addEventListener("change", () => {
      this.add([...$("files").files]);
      $("files").value = "";
    });
    addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
    addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").classList.remove("over");
      opened();
      this.add([...(event.dataTransfer?.files ?? [])]);
    });
  }

  // One after the other: the server segments one photo at a time.
  add(files) {
    for (const file of files) {
      const entry = this.#entry(file);
      this.queue = this.queue.then(() => this.#upload(file, entry));
    }
    return this.queue;
  }

  async #upload(file, entry) {
    try {
      if (file.size > this.page.run.upload_bytes) throw new Error("larger than this page takes");
      const row = await postJson(`/api/uploads?name=${encodeURIComponent(file.name)}`, file);
      Object.assign(row, { layer: "prediction", upload: true, tagged: false, need: null, decision: null });
      const item = await Item.load(row, `/api/uploads/${row.key}`, "");
      entry.name.textContent = row.id;
      entry.state.textContent = "";
      entry.button.disabled = false;
      entry.button.addEventListener("click", () => this.#show(item, entry));
      this.#show(item, entry);
      if (this.page.run.refines) await this.#sharpen(item);
    } catch (error) {
      entry.element.classList.add("failed");
      entry.state.textContent = error.message;
    }
  }

  // The mask as the run predicts, in the place of the first one, unless the person changed something already.
  async #sharpen(item) {
    const { values } = await getArray(`${item.url}/prediction?refine=1`);
    if (item.done.length) return;
    item.given = values;
    item.setBase(values);
    this.page.redraw(item);
  }

  #show(item, entry) {
    for (const button of $("dropped").querySelectorAll("button")) button.setAttribute("aria-current", "false");
    entry.button.setAttribute("aria-current", "true");
    this.item = item;
    this.page.show(item);
  }

  #entry(file) {
    const element = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { disabled: true });
    const name = text("span", file.name, "name");
    const state = text("span", "segmenting …", "state soft small");
    button.append(name);
    element.append(button, state);
    $("dropped").prepend(element);
    return { element, button, name, state };
  }
}
