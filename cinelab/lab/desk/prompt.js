// The prompt box: earlier prompts by arrows, known words by Tab.

import { make } from "./dom.js";

const LEGEND = [
  "Enter: use it",
  "Ctrl+Enter: cut with it",
  "Tab: complete",
  "↑ ↓: earlier prompts",
];

export class Prompt {
  // `onEnter(cut)` is called when the prompt is entered.
  constructor(parent, about, onEnter) {
    this.about = about;
    this.known = new Set([...about.words, ...about.little]);
    this.earlier = [];
    this.place = 0;
    this.onEnter = onEnter;
    this.box = make(parent, "textarea", "cd-prompt", {
      rows: 2,
      spellcheck: false,
      placeholder: "What is seen: shot size, who, what they do, where, when",
      ariaLabel: "Prompt",
    });
    this.hints = make(parent, "div", "cd-hints");
    this.addExamples(parent);
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.box.addEventListener("input", () => this.suggest());
    this.suggest();
  }

  addExamples(parent) {
    if (!this.about.examples.length) return;
    const row = make(parent, "div", "cd-examples");
    make(row, "span", "", { textContent: "e.g." });
    for (const { name, text } of this.about.examples) {
      const onclick = () => this.offer(text);
      make(row, "button", "cd-chip", { textContent: name, title: text, onclick });
    }
  }

  offer(text) {
    this.put(text);
    this.box.focus();
  }

  get text() {
    return this.box.value.trim();
  }

  onKey(event) {
    if (event.isComposing) return;
    const completes = !event.shiftKey && this.found.length;
    if (event.key === "Enter" && !event.shiftKey) this.onEnter(event.ctrlKey || event.metaKey);
    else if (event.key === "ArrowUp") this.recall(-1);
    else if (event.key === "ArrowDown") this.recall(1);
    else if (event.key === "Tab" && completes) this.accept(this.found[0]);
    else return;
    event.preventDefault();
  }

  addEarlier(prompts) {
    const all = [...new Set([...prompts, ...this.earlier])];
    if (all.length === this.earlier.length) return;
    this.earlier = all;
    this.place = all.length;
  }

  // Add the text of the box to the earlier prompts, as the last of them.
  store() {
    this.earlier = [...this.earlier.filter((prompt) => prompt !== this.text), this.text];
    this.place = this.earlier.length;
  }

  // Another prompt holds; a text that was never entered stays one arrow away.
  put(text) {
    if (this.text && !this.earlier.includes(this.text)) this.store();
    this.box.value = text;
    this.suggest();
  }

  recall(step) {
    const place = this.place + step;
    if (place < 0 || place > this.earlier.length) return;
    this.place = place;
    this.box.value = this.earlier[place] ?? "";
    this.suggest();
  }

  suggest() {
    const before = this.box.value.slice(0, this.box.selectionStart).toLowerCase();
    this.found = this.completions(before);
    this.hints.replaceChildren();
    for (const [text, fragment] of this.found) this.addChip(text, fragment);
    if (this.found.length) return;
    const unknown = this.unknownWords();
    if (unknown.length) {
      const textContent = `not known, left out: ${unknown.join(", ")}`;
      make(this.hints, "span", "cd-strange", { textContent });
    } else {
      for (const textContent of LEGEND) make(this.hints, "span", "", { textContent });
    }
  }

  unknownWords() {
    if (!this.about.words.length) return []; // none are listed: the model reads any word
    const words = new Set(this.box.value.toLowerCase().match(/[\p{L}\p{N}]+/gu));
    return [...words].filter((word) => !this.known.has(word));
  }

  addChip(text, fragment) {
    const title = "Tab takes the first";
    const chip = make(this.hints, "button", "cd-chip cd-word", { textContent: text, title });
    chip.onmousedown = (event) => event.preventDefault(); // the box keeps the focus
    chip.onclick = () => this.accept([text, fragment]);
  }

  // Up to five [text, fragment]: what the words before the cursor may become.
  completions(before) {
    const found = new Map();
    const { phrases, words } = this.about;
    for (const count of [3, 2, 1]) {
      const pattern = new RegExp(`(?:^|\\s)((?:\\S+\\s+){${count - 1}}\\S+)$`);
      const fragment = before.match(pattern)?.[1];
      if (!fragment) continue;
      const fits = (text) => text.startsWith(fragment) && text !== fragment && !found.has(text);
      const offered = count === 1 ? [...phrases, ...words] : phrases;
      for (const text of offered.filter(fits)) found.set(text, fragment);
    }
    return [...found].slice(0, 5);
  }

  accept([text, fragment]) {
    const at = this.box.selectionStart;
    const start = this.box.value.slice(0, at - fragment.length) + text + " ";
    this.box.value = start + this.box.value.slice(at).trimStart();
    this.box.setSelectionRange(start.length, start.length);
    this.suggest();
  }
}
