// The page: what is on it is wired together here.

import { getJson, post, saveBlob } from "./api.js";
import { Classes } from "./classes.js";
import { fillHelp, listenToKeys } from "./keys.js";
import { Review } from "./review.js";
import { Stage } from "./stage.js";
import { TagFollower } from "./tags.js";
import { Trying } from "./trying.js";

const $ = (id) => document.getElementById(id);
const LAYERS = ["mask", "maps", "prediction"];
const NO_SEGMENTER = "This run has no trained segmenter, which new photos need: run `tag2mask train` to its end.";

let run, stage, classes, review, trying, follower;
let mode = "review";

const current = () => (mode === "review" ? review.item : trying.item);

// --- what the person is told

function say(message) {
  const toast = Object.assign(document.createElement("p"), { textContent: message });
  $("toasts").replaceChildren(toast);
  setTimeout(() => toast.remove(), 5000);
}

function trouble(message, count) {
  const waiting = count ? ` ${count} ${count > 1 ? "decisions wait" : "decision waits"} to be kept; this page tries again.` : "";
  $("banner").textContent = message ? message + waiting : "";
  $("banner").hidden = !message;
}

function empty(message) {
  $("empty").textContent = message;
  $("empty").hidden = !message;
}

function counted({ accepted, corrected, rejected }) {
  run.counts = { accepted, corrected, rejected };
  const done = accepted + corrected + rejected;
  $("progress").textContent = `${done.toLocaleString()} of ${run.photos.toLocaleString()} decided`;
  $("progress").title = `${accepted} accepted, ${corrected} corrected, ${rejected} rejected`;
}

function conflict({ row, verdict }, error) {
  $("conflict-text").textContent = `${error.message}. Yours: ${verdict}.`;
  const dialog = $("conflict");
  dialog.showModal();
  return new Promise((resolve) => {
    const end = (mine) => (dialog.close(), resolve(mine));
    $("keep-theirs").onclick = () => end(false);
    $("keep-mine").onclick = () => end(true);
    dialog.oncancel = () => resolve(false);
  });
}

// --- the photo at hand

function show(item) {
  empty("");
  setLayer("mask");
  stage.show(item);
  classes.show(item);
  $("tag-note").textContent = "";
  $("photo-name").textContent = item?.row.id ?? "\u00a0";
  $("photo-name").title = item?.row.id ?? "";
  describe(item);
  buttons(item);
  follower.prepare(item);
  $("stage").toggleAttribute("data-ready", Boolean(item));
}

function describe(item) {
  if (!item) return ($("photo-note").textContent = "");
  const { row } = item;
  const [height, width] = row.size;
  const parts = [`${width} × ${height}`];
  if (row.size[1] !== row.work[1]) parts.push(`shown at ${row.work[1]} × ${row.work[0]}`);
  if (row.split) parts.push(row.split);
  if (row.need !== null) parts.push(`need ${row.need.toFixed(2)}`);
  if (row.doubted) parts.push(`tags: ${row.doubted}`);
  if (row.decision) parts.push(row.decision + (row.who ? ` by ${row.who}` : ""));
  $("photo-note").textContent = parts.join(" · ");
}

function redraw(item) {
  if (item !== current()) return;
  stage.draw();
  refresh();
}

function refresh() {
  const item = current();
  if (item) classes.update(item);
  buttons(item);
}

function buttons(item) {
  $("undo").disabled = !item?.done.length;
  $("redo").disabled = !item?.undone.length;
  for (const id of ["accept", "reject", "download"]) $(id).disabled = !item;
  $("take-prediction").disabled = !item || !run.segmenter || item.row.upload;
  $("accept").firstChild.textContent = item?.changed ? "Save " : "Accept ";
}

async function setLayer(name) {
  stage.layer = name;
  check($("layers"), "layer", name);
  const item = current();
  stage.draw();
  if (!item || name === "mask" || item.layers[`${name} there`]) return;
  try {
    item.layers[`${name} there`] = await item.layer(name);
    if (item === current() && stage.layer === name) stage.draw();
  } catch (error) {
    say(error.message);
    if (item === current() && stage.layer === name) setLayer("mask");
  }
}

async function usePrediction() {
  const item = current();
  if (!item || $("take-prediction").disabled) return;
  try {
    const { values } = await item.layer("prediction");
    item.remember(item.state());
    item.touched.fill(0);
    item.setBase(values);
    setLayer("mask");
    redraw(item);
  } catch (error) {
    say(error.message);
  }
}

function toggleTag(c) {
  const item = current();
  if (!item) return;
  setLayer("mask");
  follower.toggle(item, c);
}

function choose(value) {
  if (value === undefined) return;
  classes.choose(value);
  stage.brush = value;
  if (stage.tool !== "brush") setTool("brush");
}

function setTool(name) {
  stage.tool = name;
  $("stage").dataset.tool = name;
  check($("tools"), "tool", name);
  if (name !== "view") setLayer("mask");
  stage.refreshCursor();
}

function undo(step) {
  const item = current();
  if (item && (step < 0 ? item.undo() : item.redo())) redraw(item);
}

async function download() {
  const item = current();
  if (!item) return;
  try {
    const response = await post(`${item.url}/mask.png`, item.shown);
    const name = item.row.id.split("/").pop().replace(item.row.upload ? /\.[^.]*$/ : /$^/, "");
    saveBlob(await response.blob(), `${name || "mask"}.png`);
  } catch (error) {
    say(error.message);
  }
}

// --- controls

function check(group, name, value) {
  for (const button of group.querySelectorAll("[role=radio], [role=tab]")) {
    const on = button.dataset[name] === value;
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on ? 0 : -1;
  }
}

function roving(group) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...group.querySelectorAll("button")];
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  });
}

function slide(id, change) {
  const slider = $(id);
  slider.value = Number(slider.value) + change;
  slider.dispatchEvent(new Event("input"));
}

function open(name) {
  mode = name;
  for (const one of ["review", "try"]) {
    const on = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", String(on));
    $(`tab-${one}`).tabIndex = on ? 0 : -1;
    $(`side-${one}`).hidden = !on;
  }
  $("actions-review").hidden = name !== "review";
  show(current());
  if (current()) return;
  if (name === "review") review.begin();
  else empty(run.segmenter ? "Drop a photo here." : NO_SEGMENTER);
}

const inReview = (action) => (event) => {
  if (mode !== "review") return;
  review.pressed = event?.timeStamp;
  action();
  review.pressed = undefined;
};

const actions = {
  accept: inReview(() => review.decide("accept")),
  reject: inReview(() => review.decide("reject")),
  next: inReview(() => review.next()),
  previous: inReview(() => review.previous()),
  takeBack: inReview(() => review.takeBack()),
  typeTag: () => $("tag").focus(),
  tool: setTool,
  size: (change) => slide("size", change * Math.max(1, Math.round(stage.radius / 5))),
  opacity: (change) => slide("opacity", change),
  undo: () => undo(-1),
  redo: () => undo(1),
  usePrediction,
  nextLayer: () => setLayer(LAYERS[(LAYERS.indexOf(stage.layer) + 1) % LAYERS.length]),
  zoom: (factor) => stage.zoomBy(factor),
  download,
  help: () => $("help").showModal(),
  choose,
  chooseNumber: (number) => choose(run.values[classes.byNumber(number)]),
  toggleNumber: (number) => classes.byNumber(number) !== undefined && toggleTag(classes.byNumber(number)),
  hide: (hidden) => {
    stage.hidden = hidden;
    stage.draw();
  },
};

function wire() {
  const clicks = {
    accept: actions.accept, reject: actions.reject, next: actions.next, previous: actions.previous,
    undo: actions.undo, redo: actions.redo, "take-prediction": usePrediction, download, "help-button": actions.help,
    "zoom-in": () => stage.zoomBy(1.4), "zoom-out": () => stage.zoomBy(1 / 1.4), "zoom-fit": () => stage.zoomBy(0),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const button of $("layers").children) button.addEventListener("click", () => setLayer(button.dataset.layer));
  for (const button of $("tools").children) button.addEventListener("click", () => setTool(button.dataset.tool));
  for (const name of ["review", "try"]) $(`tab-${name}`).addEventListener("click", () => open(name));
  for (const group of [$("layers"), $("tools"), document.querySelector("[role=tablist]")]) roving(group);
  $("opacity").addEventListener("input", () => {
    $("overlay").style.opacity = $("opacity").value / 100;
    $("opacity-value").textContent = `${$("opacity").value} %`;
  });
  $("size").addEventListener("input", () => {
    $("size-value").textContent = `${$("size").value} px`;
    stage.refreshCursor();
  });
  $("who").value = localStorage.getItem("tag2mask who") ?? "";
  $("who").addEventListener("change", () => localStorage.setItem("tag2mask who", $("who").value));
  slide("opacity", 0);
}

async function start() {
  try {
    run = await getJson("/api/run");
  } catch (error) {
    return trouble(error.message, 0);
  }
  $("run-name").textContent = run.run;
  document.title = `${run.run} · tag2mask`;
  stage = new Stage(run.colors, run.values, refresh);
  stage.picked = choose;
  classes = new Classes(run, toggleTag, choose);
  follower = new TagFollower(run, { redraw, say });
  const page = { run, show, redraw, say, trouble, conflict, counted, empty };
  review = new Review(page);
  trying = new Trying(page, () => open("try"));
  fillHelp();
  listenToKeys(actions, stage);
  wire();
  counted(run.counts);
  open("review");
}

start();
