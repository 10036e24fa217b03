// The desk's buttons and settings.

import { make } from "./dom.js";

const SEEDS = 10000; // the dice draws below
const BUTTONS = [
  ["play", "Play", "Play or pause (Space)"],
  ["cut", "Cut", "Begin a new shot (c); with the text in the box if it is new (Ctrl+Enter there)"],
  ["retake", "Retake", ""],
  ["undo", "Undo", "Back to before the last command; nothing made is lost (u)"],
  [
    "export",
    "Export",
    "Write film, storyboard and screenplay, play the film here, and download it (e)",
  ],
  ["help", "?", "All keys (?)"],
];

// A row of buttons by name; `onPress(name)` is called with the one that is pressed.
export function addButtons(parent, onPress) {
  const row = make(parent, "div", "cd-buttons");
  const buttons = {};
  for (const [name, textContent, title] of BUTTONS) {
    const onclick = () => onPress(name);
    buttons[name] = make(row, "button", `cd-button cd-${name}`, { textContent, title, onclick });
  }
  buttons.help.ariaLabel = "All keys";
  return buttons;
}

// The inputs of the settings by name; `onChange(name, value)` is called when one is changed.
export function addSettings(parent, about, onChange) {
  const row = make(parent, "div", "cd-settings");
  const add = (name, tag, more) => {
    const label = make(row, "label", "", { textContent: name === "switch" ? "on change" : name });
    return make(label, tag, `cd-${name}`, { ariaLabel: label.textContent, ...more });
  };
  const addNumber = (name, min, title, more) => {
    const input = add(name, "input", { type: "number", min, step: 1, title, ...more });
    input.onchange = () => onChange(name, input.value === "" ? null : Number(input.value));
    return input;
  };
  const addChoice = (name, options, title) => {
    const select = add(name, "select", { title });
    for (const value of options) {
      const more = { value, textContent: value, title: about.switches[value] ?? "" };
      make(select, "option", "", more);
    }
    select.onchange = () => onChange(name, select.value);
    return select;
  };
  const inputs = {
    switch: addChoice("switch", Object.keys(about.switches), ""),
    seed: addNumber("seed", 0, "Another seed makes another film from the same words"),
    policy: addChoice("policy", about.policies, "Which finished chunks a new one may attend to"),
    budget: addNumber("budget", 3, "How many finished chunks a new one attends to (full: all)"),
    steps: addNumber("levels", 1, "Denoising levels of a chunk; empty = the model's own", {
      placeholder: about.steps,
    }),
  };
  const title = "Draw a seed";
  const dice = make(inputs.seed.parentElement, "button", "cd-dice", {
    textContent: "⚄",
    title,
    ariaLabel: title,
  });
  dice.onclick = () => onChange("seed", Math.floor(Math.random() * SEEDS));
  return inputs;
}
