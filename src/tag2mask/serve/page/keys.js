// What each key does, and the list of them that `?` shows.

import { text } from "./classes.js";

const $ = (id) => document.getElementById(id);

const SHOWN = [
  ["A", "Accept the mask as it is shown, next photo"],
  ["X", "Reject, next photo"],
  ["→ or J", "Next photo, no decision"],
  ["← or K", "Back"],
  ["U", "Take back the last decision"],
  ["Shift 1 … 9", "Tag on or off"],
  ["T", "Add or remove a tag by name"],
  ["B / E / V", "Brush, eraser, view"],
  ["0 … 9, D", "Paint with background, a class, undecided"],
  ["C", "Paint with the class where the stroke begins"],
  ["Alt or Ctrl click", "Paint with the class under the cursor"],
  ["[ and ]", "Smaller, larger brush"],
  ["Arrows, space", "On the photo: move the brush, paint"],
  ["Z, Shift Z", "Undo, redo"],
  ["P", "Use the prediction as the mask"],
  ["M", "Mask, maps, prediction"],
  ["H", "Hold: photo alone"],
  [", and .", "Opacity"],
  ["+ − F", "Zoom, fit"],
  ["S", "Download the mask"],
  ["?", "This list"],
];

export function fillHelp() {
  for (const [key, what] of SHOWN) $("keys").append(text("dt", key), text("dd", what));
}

// actions: name to function; see main.js
export function listenToKeys(actions, stage) {
  const plain = {
    a: actions.accept, x: actions.reject, j: actions.next, k: actions.previous, u: actions.takeBack,
    t: actions.typeTag, b: () => actions.tool("brush"), e: () => actions.tool("eraser"), v: () => actions.tool("view"),
    "[": () => actions.size(-1), "]": () => actions.size(1), z: actions.undo, y: actions.redo, p: actions.usePrediction,
    m: actions.nextLayer, ",": () => actions.opacity(-10), ".": () => actions.opacity(10), "+": () => actions.zoom(1.4),
    "=": () => actions.zoom(1.4), "-": () => actions.zoom(1 / 1.4), f: () => actions.zoom(0), s: actions.download,
    "?": actions.help, c: () => actions.choose(null), d: () => actions.choose(255), 0: () => actions.choose(0),
    ArrowRight: actions.next, ArrowLeft: actions.previous, h: () => actions.hide(true),
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let space = false;

  function painting(event) {
    if (event.target !== $("stage") || stage.tool === "view") return false;
    if (event.key in arrows) {
      const step = event.shiftKey ? 1 : Math.max(1, Math.round(stage.radius / 2));
      stage.moveCursor(arrows[event.key][0] * step, arrows[event.key][1] * step, space);
    } else if (event.key === " ") {
      if (!space) stage.begin();
      space = true;
    } else return false;
    return true;
  }

  function digit(event) {
    const number = /^Digit([1-9])$/.exec(event.code)?.[1];
    if (!number) return false;
    event.shiftKey ? actions.toggleNumber(Number(number)) : actions.chooseNumber(Number(number));
    return true;
  }

  function control(event) {
    const action = { z: event.shiftKey ? actions.redo : actions.undo, y: actions.redo }[event.key.toLowerCase()];
    if (action) action(event);
    return Boolean(action);
  }

  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || isTyping(event)) return;
    if (event.ctrlKey || event.metaKey) {
      if (control(event)) event.preventDefault();
      return;
    }
    if (event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (painting(event) || digit(event)) event.preventDefault();
    else if (key === "z" && event.shiftKey) actions.redo(event);
    else if (Object.hasOwn(plain, key) && !(event.target.matches("[role=radio], [role=tab]") && key.startsWith("Arrow"))) {
      event.preventDefault();
      plain[key](event);
    }
  });

  addEventListener("keyup", (event) => {
    if (event.key === " " && space) {
      space = false;
      stage.end();
    } else if (event.key.toLowerCase() === "h") actions.hide(false);
  });
}

// Keys that belong to the field that has the focus.
function isTyping(event) {
  const target = event.target;
  if (target.matches("input:not([type=checkbox]):not([type=range]), textarea, select")) {
    if (event.key === "Escape") $("stage").focus();
    return true;
  }
  return target.matches("input[type=range]") && event.key.startsWith("Arrow");
}
