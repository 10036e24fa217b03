// The keys of the desk, and the list of them.

import { make } from "./dom.js";

export const KEYS = {
  " ": "play",
  c: "cut",
  r: "retake",
  u: "undo",
  e: "export",
  f: "full",
  "?": "help",
};
const HELP = [
  ["In the box", [
    ["Enter", "use the prompt, and play"],
    ["Ctrl+Enter", "cut: the prompt opens a new shot"],
    ["Tab", "complete a word that the model knows"],
    ["↑ ↓", "earlier prompts"],
    ["Esc", "leave the box, so that the keys below work"],
  ]],
  ["At the desk", [
    ["Space", "play, pause"],
    ["c", "cut; with the text in the box if it is new"],
    ["r", "retake: the shot again, with the next seed"],
    ["u", "undo the last command; nothing made is lost"],
    ["e", "export film, storyboard and screenplay"],
    ["f", "full screen"],
    ["?", "these keys"],
  ]],
  ["Watching a take (a click on its frame)", [
    ["Space", "play, pause"],
    ["← →", "one frame back, one on"],
    ["Esc", "back to live"],
  ]],
];

// Keys pressed at the desk stay there, but for JupyterLab's combinations, such as Ctrl+S.
// JupyterLab reads this attribute when a key comes.
export function shieldKey(root, event) {
  if (!root.contains(event.target)) return;
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  const combined = modified && !event.getModifierState("AltGraph");
  root.toggleAttribute("data-lm-suppress-shortcuts", !combined || event.key === "Enter");
}

// A key at a film that is watched; true if it was one.
export function playerKey(screen, key) {
  const { video } = screen;
  if (key === " ") video.paused ? video.play() : video.pause();
  else if (key === "ArrowLeft") screen.step(-1);
  else if (key === "ArrowRight") screen.step(1);
  else return false;
  return true;
}

// A dialog that lists every key.
export function keysDialog(parent) {
  const dialog = make(parent, "dialog", "cd-keys", { ariaLabel: "All keys" });
  for (const [title, rows] of HELP) {
    make(dialog, "b", "", { textContent: title });
    for (const [key, what] of rows) {
      make(dialog, "kbd", "", { textContent: key });
      make(dialog, "span", "", { textContent: what });
    }
  }
  const onclick = () => dialog.close();
  make(dialog, "button", "cd-button", { textContent: "Close", onclick });
  dialog.onclick = (event) => event.target === dialog && dialog.close(); // beside its content
  return dialog;
}
