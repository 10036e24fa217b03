// How the desk looks and what it says to the kernel. Messages out: hello, do, drawn, export; in: pictures, stills, answer, film.

const LATE = 40; // milliseconds
const KEYS = { " ": "play", c: "cut", r: "retake", u: "undo", e: "export" };
const LEGEND = "Enter: say it    Ctrl+Enter: cut with it    Tab: complete    ↑ ↓: earlier prompts";

function make(parent, tag, name = "", more = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  Object.assign(element, more);
  parent.append(element);
  return element;
}

const seconds = (value) => `${value.toFixed(1)} s`;

// ---- the big picture: shows what comes at its own pace, says when it has been drawn

class Screen {
  constructor(parent, about, drawn) {
    const [height, width] = about.size;
    const scale = Math.max(1, Math.round(512 / width));
    this.stage = make(parent, "div", "cd-stage");
    this.canvas = make(this.stage, "canvas", "cd-canvas", { width: width * scale, height: height * scale });
    this.note = make(this.stage, "div", "cd-note", { textContent: "Say what the first shot shows, then press Enter." });
    this.pen = this.canvas.getContext("2d");
    this.pen.imageSmoothingQuality = "high";
    this.drawn = drawn;
    this.waiting = [];
    this.next = 0;
    this.count = 0;
  }

  async take(message, buffers) {
    const decoded = buffers.map((buffer) => createImageBitmap(new Blob([buffer], { type: "image/jpeg" })));
    const slots = decoded.map((_, place) => ({ ...message, last: place === decoded.length - 1, of: decoded.length }));
    this.waiting.push(...slots); // in the order of the messages, whichever is decoded first
    try {
      const pictures = await Promise.all(decoded);
      slots.forEach((slot, place) => (slot.picture = pictures[place]));
    } catch (error) {
      this.waiting = this.waiting.filter((one) => !slots.includes(one));
      this.drawn(slots.at(-1)); // there is room for the next all the same
      throw error; // to the console
    } finally {
      this.tick();
    }
  }

  tick() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame((now) => this.draw(now));
  }

  draw(now) {
    // Half a screen refresh early is nearer to the time than a whole one late.
    if (this.waiting[0]?.picture && now >= this.next - 8) {
      const one = this.waiting.shift();
      // What comes late moves the clock, what piles up is shown faster: no more is held back than the engine's hiccups ask for.
      const hurry = this.waiting.length > one.of ? 0.75 : 1;
      this.next = (now - this.next > LATE ? now : this.next) + one.gap * 1000 * hurry;
      this.put(one);
    }
    if (this.waiting[0]?.picture) this.tick();
  }

  put(one) {
    this.note.hidden = true;
    this.pen.drawImage(one.picture, 0, 0, this.canvas.width, this.canvas.height);
    one.picture.close();
    this.count += 1;
    this.drawn(one);
  }

  play(path, bytes) {
    this.close();
    this.film = make(this.stage, "div", "cd-film");
    const src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    const video = make(this.film, "video", "", { src, controls: true, loop: true, muted: true, autoplay: true, title: path });
    video.playsInline = true;
    make(this.film, "button", "cd-back", { textContent: "× back to the desk", onclick: () => this.close() });
  }

  close() {
    if (!this.film) return;
    URL.revokeObjectURL(this.film.querySelector("video").src);
    this.film.remove();
    this.film = null;
  }
}

// ---- the prompt: earlier ones by arrows, known words by Tab

class Prompt {
  constructor(parent, about, say) {
    this.about = about;
    this.known = new Set([...about.words, ...about.little]);
    this.earlier = [];
    this.place = 0;
    this.say = say;
    const placeholder = "wide shot of a red cat that waves in the meadow by day";
    this.box = make(parent, "textarea", "cd-prompt", { rows: 2, spellcheck: false, placeholder });
    this.hints = make(parent, "div", "cd-hints");
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("input", () => this.suggest());
    this.suggest();
  }

  get text() {
    return this.box.value.trim();
  }

  key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) this.say(event.ctrlKey || event.metaKey);
    else if (event.key === "ArrowUp") this.recall(-1);
    else if (event.key === "ArrowDown") this.recall(1);
    else if (event.key === "Tab" && !event.shiftKey && this.found.length) this.accept(this.found[0]);
    else return;
    event.preventDefault();
  }

  remember(prompts) {
    const all = [...new Set([...prompts, ...this.earlier])];
    if (all.length === this.earlier.length) return;
    this.earlier = all;
    this.place = all.length;
  }

  said() {
    this.earlier = [...this.earlier.filter((one) => one !== this.text), this.text];
    this.place = this.earlier.length;
  }

  // Another prompt holds; what stood here and was never said is one arrow away.
  put(text) {
    if (this.text && !this.earlier.includes(this.text)) this.said();
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
    for (const [text, fragment] of this.found) this.chip(text, fragment);
    if (this.found.length) return;
    const words = new Set(this.box.value.toLowerCase().match(/[\p{L}\p{N}]+/gu));
    const strange = this.about.words.length ? [...words].filter((word) => !this.known.has(word)) : []; // none are listed: all are read
    const what = strange.length ? `not known, left out: ${strange.join(", ")}` : LEGEND;
    make(this.hints, "span", strange.length ? "cd-strange" : "", { textContent: what });
  }

  chip(text, fragment) {
    const chip = make(this.hints, "button", "cd-chip", { textContent: text, title: "Tab takes the first" });
    chip.onmousedown = (event) => event.preventDefault(); // the box keeps the focus
    chip.onclick = () => this.accept([text, fragment]);
  }

  completions(before) {
    const found = new Map();
    for (const words of [3, 2, 1]) {
      const fragment = before.match(new RegExp(`(?:^|\\s)((?:\\S+\\s+){${words - 1}}\\S+)$`))?.[1];
      if (!fragment) continue;
      const offered = words === 1 ? [...this.about.phrases, ...this.about.words] : this.about.phrases;
      const fits = (text) => text.startsWith(fragment) && text !== fragment && !found.has(text);
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

// ---- the timeline: cards that stay the same elements, so that no click is lost

class Timeline {
  constructor(parent, about, branch) {
    this.about = about;
    this.branch = branch;
    this.row = make(parent, "div", "cd-timeline");
    this.stills = new Map(); // line -> address
    this.cards = [];
  }

  still(line, bytes) {
    if (this.stills.has(line)) return;
    this.stills.set(line, URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })));
    for (const image of this.row.querySelectorAll(`img[data-line="${line}"]`)) image.src = this.stills.get(line);
  }

  show(shots) {
    const grown = shots.length > this.cards.length;
    while (this.cards.length > shots.length) this.cards.pop().element.remove();
    const newest = shots.findLastIndex((shot) => shot.shot !== null);
    shots.forEach((shot, place) => this.card(shot, place, place === newest));
    if (grown) this.row.scrollLeft = this.row.scrollWidth;
  }

  card(shot, place, newest) {
    const key = [shot.shot, shot.line, shot.takes.map((take) => take.line)].join();
    if (this.cards[place]?.key !== key) {
      const made = this.build(shot, key);
      if (this.cards[place]) this.cards[place].element.replaceWith(made.element);
      else this.row.append(made.element);
      this.cards[place] = made;
    }
    const card = this.cards[place];
    card.shot = shot;
    card.element.classList.toggle("cd-now", newest);
    if (shot.shot !== null) this.label(card, shot);
    card.takes.forEach((take, number) => take.classList.toggle("cd-on", shot.takes[number].on));
  }

  label(card, shot) {
    card.length.textContent = shot.chunks ? seconds(shot.chunks * this.about.chunk_seconds) : "next";
    card.said.textContent = shot.prompt || "comes with the next picture";
    card.element.title = shot.prompt;
  }

  build(shot, key) {
    if (shot.shot === null) return this.others(shot, key);
    const element = make(this.row, "div", shot.line === null ? "cd-shot cd-next" : "cd-shot");
    const card = { key, element, shot };
    const face = make(element, "button", "cd-face", { onclick: () => card.shot.last !== null && this.branch(card.shot.last) });
    if (shot.line !== null) this.image(face, shot.line);
    const head = make(element, "div", "cd-head");
    make(head, "b", "", { textContent: shot.shot + 1 });
    card.length = make(head, "span");
    card.said = make(element, "div", "cd-said");
    const row = make(element, "div", "cd-takes");
    const several = shot.takes.length > 1 || shot.line === null;
    card.takes = (several ? shot.takes : []).map((take, number) => this.take(row, card, take, number));
    return card;
  }

  others(shot, key) {
    const element = make(this.row, "div", "cd-others");
    const card = { key, element, shot };
    const title = "Shots that follow something in this film, but are not in it; a click makes one the film";
    make(element, "div", "cd-label", { textContent: "other ways on", title });
    const row = make(element, "div", "cd-takes");
    card.takes = shot.takes.map((take, number) => this.take(row, card, take, number));
    return card;
  }

  take(row, card, take, number) {
    const button = make(row, "button", "cd-take", { title: `take ${number + 1}, go on from its end: ${take.prompt}` });
    button.onclick = () => this.branch(card.shot.takes[number].last);
    this.image(button, take.line);
    return button;
  }

  image(parent, line) {
    const image = make(parent, "img", "", { alt: "", draggable: false });
    image.dataset.line = line;
    if (this.stills.has(line)) image.src = this.stills.get(line);
  }
}

// ---- where the newest chunk looked

class Strip {
  constructor(parent) {
    const box = make(parent, "div", "cd-strip");
    this.title = make(box, "div", "cd-label", { textContent: "Memory" });
    this.grid = make(box, "div", "cd-grid");
  }

  show(found) {
    const told = JSON.stringify(found);
    if (told === this.told) return;
    this.told = told;
    const rows = found.rows, shots = rows[0]?.length ?? 0;
    const what = shots ? "the shots that each layer's heads looked at" : "what the newest chunk looked at, once the film plays";
    this.title.textContent = `Memory: ${what}`;
    this.grid.replaceChildren();
    this.grid.style.gridTemplateColumns = `16px repeat(${shots}, minmax(3px, 36px))`;
    [...rows].reverse().forEach((row, place) => this.layer(row, rows.length - place));
    if (shots) make(this.grid, "span");
    for (let shot = 1; shot <= shots; shot++) {
      make(this.grid, "span", "cd-tick", { textContent: shots <= 24 || shot % 5 === 0 ? shot : "" });
    }
  }

  layer(row, number) {
    make(this.grid, "span", "cd-tick", { textContent: number });
    row.forEach((share, shot) => {
      const title = `layer ${number}, shot ${shot + 1}: ${Math.round(100 * share)} % of heads`;
      const cell = make(this.grid, "i", "", { title });
      cell.style.background = share ? `rgba(0, 114, 178, ${0.12 + 0.88 * share})` : "";
    });
  }
}

// ---- the desk

class Desk {
  constructor(model, root) {
    this.model = model;
    this.about = model.get("about");
    this.root = make(root, "div", "cinelab-desk", { tabIndex: 0 });
    this.root.dataset.lmSuppressShortcuts = "true"; // our keys are not JupyterLab's
    const top = make(this.root, "div", "cd-top");
    this.screen = new Screen(top, this.about, (one) => this.drawn(one));
    const side = make(top, "div", "cd-side");
    this.prompt = new Prompt(side, this.about, (cut) => this.say(cut));
    this.buttons(side);
    this.settings(side);
    this.strip = new Strip(side);
    this.lines();
    this.timeline = new Timeline(this.root, this.about, (chunk) => this.command("branch", { chunk }));
    this.number = 0;
    this.asked = new Map(); // number of a command -> when it was given
    this.listen();
  }

  listen() {
    this.onMessage = (message, buffers) => this[message.kind]?.(message, buffers);
    this.onView = () => this.refresh(this.model.get("view"));
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change:view", this.onView);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.onView();
    this.model.send({ kind: "hello" });
  }

  leave() {
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:view", this.onView);
  }

  buttons(parent) {
    const row = make(parent, "div", "cd-buttons");
    const add = (name, textContent, title) =>
      make(row, "button", `cd-button cd-${name}`, { textContent, title, onclick: () => this.press(name) });
    this.playButton = add("play", "Play", "Play or pause (Space)");
    add("cut", "Cut", "Begin a new shot (c); with the text in the box if it is new (Ctrl+Enter there)");
    add("retake", "Retake", "This shot again from its beginning, with the next seed; the old take stays (r)");
    add("undo", "Undo", "Back to before the last command; nothing made is lost (u)");
    add("export", "Export", "Write film, storyboard and screenplay, and play the film here (e)");
  }

  settings(parent) {
    const row = make(parent, "div", "cd-settings");
    const named = (name, tag, more) => {
      const label = make(row, "label", "", { textContent: name === "switch" ? "on change" : name });
      return make(label, tag, `cd-${name}`, more);
    };
    const whole = (name, min, title, more) => {
      const input = named(name, "input", { type: "number", min, step: 1, title, ...more });
      input.onchange = () => this.command(name, { value: input.value === "" ? null : Number(input.value) });
      return input;
    };
    const choice = (name, options, title) => {
      const select = named(name, "select", { title });
      for (const value of options) {
        make(select, "option", "", { value, textContent: value, title: this.about.switches[value] ?? "" });
      }
      select.onchange = () => this.command(name, { value: select.value });
      return select;
    };
    this.inputs = {
      switch: choice("switch", Object.keys(this.about.switches), ""),
      seed: whole("seed", 0, "Another seed makes another film from the same words"),
      policy: choice("policy", this.about.policies, "Which finished chunks a new one may look at"),
      budget: whole("budget", 3, "How many finished chunks a new one sees (full sees all)"),
      steps: whole("levels", 1, "Denoising levels of a chunk; empty = the model's own", { placeholder: this.about.steps }),
    };
  }

  lines() {
    const box = make(this.root, "div", "cd-lines");
    make(box, "span", "cd-dot");
    this.state = make(box, "span", "cd-state");
    const told = make(this.root, "div", "cd-figures");
    const engine = "How fast the engine works while it works, and where its time goes";
    this.readout = make(told, "span", "cd-readout", { title: engine });
    const title = "From your last command to the first picture that knows of it, measured here";
    this.latency = make(told, "span", "cd-latency", { title });
  }

  // -- what the user does

  key(event) {
    if (event.key === "Escape") this.root.focus({ preventScroll: true });
    const free = !event.target.closest("textarea, input, select, video") && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!free || !(event.key in KEYS)) return;
    event.preventDefault();
    if (!event.repeat) this.press(KEYS[event.key]);
  }

  press(name) {
    this.root.focus({ preventScroll: true });
    if (name === "play") this.command(this.playing ? "pause" : "resume");
    else if (name === "cut") this.command("cut", this.news() ? { text: this.prompt.text } : {});
    else if (name === "export") this.send({ kind: "export" });
    else this.command(name);
  }

  news() {
    return this.prompt.text && this.prompt.text !== this.view.settings.prompt;
  }

  say(cut) {
    const value = cut ? { text: this.prompt.text } : { text: this.prompt.text, switch: this.inputs.switch.value };
    this.screen.close();
    this.command(cut ? "cut" : "prompt", value, !this.playing);
    if (this.prompt.text) this.prompt.said();
  }

  command(command, value = {}, play = false) {
    this.send({ kind: "do", command, value, play });
  }

  send(message) {
    this.number += 1;
    this.asked.set(this.number, { at: performance.now(), command: message.command });
    this.root.classList.add("cd-busy");
    this.model.send({ ...message, id: this.number });
  }

  // -- what the kernel says

  pictures(message, buffers) {
    this.screen.take(message, buffers);
  }

  stills(message, buffers) {
    message.lines.forEach((line, place) => this.timeline.still(line, buffers[place]));
  }

  film(message, buffers) {
    this.screen.play(message.path, buffers[0]);
  }

  answer(message) {
    const asked = this.asked.get(message.id);
    this.asked.delete(message.id);
    this.root.classList.toggle("cd-busy", this.asked.size > 0);
    const changes = ["prompt", "cut", "retake", "branch"].includes(asked?.command);
    if (changes && !message.error) this.since = { at: asked.at, node: message.next };
    this.tell(message.said, message.error);
    this.play(message.playing);
  }

  drawn(one) {
    if (this.since && one.node >= this.since.node) {
      this.latency.textContent = `seen after ${((performance.now() - this.since.at) / 1000).toFixed(2)} s`;
      this.since = null;
    }
    if (one.last) this.model.send({ kind: "drawn", number: one.number });
  }

  tell(said, error) {
    this.state.textContent = error || said;
    this.state.title = this.state.textContent;
    this.root.classList.toggle("cd-wrong", Boolean(error));
  }

  play(playing) {
    this.playing = playing;
    this.playButton.textContent = playing ? "Pause" : "Play";
    this.root.classList.toggle("cd-playing", playing);
  }

  refresh(view) {
    const before = this.view;
    this.view = view;
    this.play(view.playing);
    if (view.closed) this.tell("Closed; run the cell again to go on.", "");
    else if (before?.said !== view.said || before?.error !== view.error) this.tell(view.said || this.greeting(view), view.error);
    this.readout.textContent = view.line;
    const other = before?.settings.prompt !== view.settings.prompt && document.activeElement !== this.prompt.box;
    if (other) this.prompt.put(view.settings.prompt);
    for (const [name, input] of Object.entries(this.inputs)) {
      if (document.activeElement !== input) input.value = view.settings[name] ?? "";
    }
    this.inputs.switch.title = this.about.switches[view.settings.switch];
    this.prompt.remember(view.earlier);
    this.strip.show(view.looked);
    this.timeline.show(view.shots);
  }

  greeting(view) {
    const goes = view.chunks ? `goes on from ${view.chunks} chunks, with its own settings` : "a new session";
    return `${this.about.model}: ${goes}.`;
  }
}

export default {
  render({ model, el }) {
    const desk = new Desk(model, el);
    return () => desk.leave();
  },
};
