// How the desk looks and what it says to the kernel. Messages out: hello, do, drawn, export, watch; in: pictures, stills, answer,
// film, take, alive, and lost where a page knows that its connection has ended.

const LATE = 40; // milliseconds
const SILENT = 7000; // milliseconds without a word, after which a kernel counts as ended: it gives a sign of life every 2000
const SLOW = 3000; // milliseconds that an answer may take before the desk says that it waits
const LONG = 4; // chunks to be remembered that are worth a bar
const SEEDS = 10000; // the dice draws below
const KEYS = { " ": "play", c: "cut", r: "retake", u: "undo", e: "export", f: "full", "?": "help" };
const CORNERS = '<svg viewBox="0 0 16 16"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" fill="none" stroke="currentColor" stroke-width="2"/></svg>';
const LEGEND = ["Enter: say it", "Ctrl+Enter: cut with it", "Tab: complete", "↑ ↓: earlier prompts"];
const ENDED = "The kernel has ended; run the cell again to go on.";
const WAITS = "Waiting for the kernel: another cell runs there, or a chunk takes long.";
const EMPTY = { direct: "Press Play, or say what the first shot shows.", watch: "Nothing has been made yet. The film is shown here while it is made." };
const HELP = [
  ["In the box", [
    ["Enter", "say the prompt, and play"],
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

function make(parent, tag, name = "", more = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  Object.assign(element, more);
  parent.append(element);
  return element;
}

const seconds = (value) => `${value.toFixed(1)} s`;

function address(bytes, name) {
  const types = { mp4: "video/mp4", png: "image/png", yaml: "text/yaml", jpg: "image/jpeg" };
  return URL.createObjectURL(new Blob([bytes], { type: types[name.split(".").at(-1)] }));
}

// ---- the big picture: shows what comes at its own pace, says when it has been drawn

class Screen {
  constructor(parent, about, drawn) {
    const [height, width] = about.size;
    const scale = Math.max(1, Math.round(640 / width));
    this.fps = about.fps;
    this.stage = make(parent, "div", "cd-stage");
    this.stage.style.setProperty("--aspect", width / height);
    this.canvas = make(this.stage, "canvas", "cd-canvas", { width: width * scale, height: height * scale });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The film");
    this.note = make(this.stage, "div", "cd-note", { textContent: EMPTY[about.role] ?? EMPTY.direct });
    const title = "Full screen (f)";
    this.large = make(this.stage, "button", "cd-large", { title, ariaLabel: title, onclick: () => this.full() });
    this.large.innerHTML = CORNERS;
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

  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.stage.requestFullscreen?.();
  }

  // A film over the live one: a bar that says what it is and what can be done with it, and a player. `closed` is called once.
  play(title, bytes, closed = () => {}) {
    this.close();
    this.closed = closed;
    this.film = make(this.stage, "div", "cd-film");
    const bar = make(this.film, "div", "cd-bar");
    make(bar, "span", "cd-title", { textContent: title });
    this.tools = make(bar, "span", "cd-tools");
    make(bar, "button", "cd-back", { textContent: "back to live", title: "Esc", onclick: () => this.close() });
    const src = address(bytes, "film.mp4");
    this.video = make(this.film, "video", "", { src, controls: true, loop: true, muted: true, autoplay: true });
    this.video.playsInline = true;
  }

  tool(textContent, title, name, onclick) {
    return make(this.tools, "button", name, { textContent, title, onclick });
  }

  download(name, bytes) {
    make(this.tools, "a", "cd-download", { textContent: name.split(".")[0], href: address(bytes, name), download: name, title: `Download ${name}` });
  }

  // The number of the frame that the player shows.
  get shown() {
    return Math.floor(this.video.currentTime * this.fps + 1e-3);
  }

  step(by) {
    this.video.pause();
    const last = Math.max(0, Math.round(this.video.duration * this.fps) - 1);
    this.video.currentTime = (Math.min(last, Math.max(0, this.shown + by)) + 0.5) / this.fps;
  }

  close() {
    if (!this.film) return;
    for (const used of this.film.querySelectorAll("video, a")) URL.revokeObjectURL(used.src ?? used.href);
    this.film.remove();
    this.film = this.video = null;
    this.closed();
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
    const placeholder = "What is seen: shot size, who, what they do, where, when";
    this.box = make(parent, "textarea", "cd-prompt", { rows: 2, spellcheck: false, placeholder, ariaLabel: "Prompt" });
    this.hints = make(parent, "div", "cd-hints");
    this.examples(parent);
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("input", () => this.suggest());
    this.suggest();
  }

  examples(parent) {
    if (!this.about.examples.length) return;
    const row = make(parent, "div", "cd-examples");
    make(row, "span", "", { textContent: "e.g." });
    for (const { name, text } of this.about.examples) {
      make(row, "button", "cd-chip", { textContent: name, title: text, onclick: () => this.offer(text) });
    }
  }

  offer(text) {
    this.put(text);
    this.box.focus();
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
    if (strange.length) make(this.hints, "span", "cd-strange", { textContent: `not known, left out: ${strange.join(", ")}` });
    else for (const textContent of LEGEND) make(this.hints, "span", "", { textContent });
  }

  chip(text, fragment) {
    const chip = make(this.hints, "button", "cd-chip cd-word", { textContent: text, title: "Tab takes the first" });
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
  constructor(parent, about, watch) {
    this.about = about;
    this.watch = watch;
    this.row = make(parent, "div", "cd-timeline");
    this.stills = new Map(); // line -> address
    this.cards = [];
  }

  still(line, bytes) {
    if (this.stills.has(line)) return;
    this.stills.set(line, address(bytes, "still.jpg"));
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
    card.said.textContent = shot.prompt || "comes with the next chunk";
    const changes = shot.changes.map((change) => this.change(change));
    card.changed.textContent = changes.at(-1) ?? "";
    card.element.title = [shot.prompt, ...changes].join("\n");
    const number = shot.takes.findIndex((take) => take.on);
    card.face.ariaLabel = `Watch ${this.named(shot.shot, number)}: ${shot.prompt}`;
  }

  change({ at, what }) {
    return `${seconds(at * this.about.chunk_seconds)}: ${what}`;
  }

  named(shot, number) {
    return `shot ${shot + 1}, take ${number + 1}`;
  }

  build(shot, key) {
    if (shot.shot === null) return this.others(shot, key);
    const element = make(this.row, "div", shot.line === null ? "cd-shot cd-next" : "cd-shot");
    const card = { key, element, shot };
    const face = (card.face = make(element, "button", "cd-face", { disabled: shot.line === null }));
    face.onclick = () => this.watch(card.shot.last, this.named(shot.shot, card.shot.takes.findIndex((take) => take.on)));
    if (shot.line !== null) this.image(face, shot.line);
    const head = make(element, "div", "cd-head");
    make(head, "b", "", { textContent: shot.shot + 1 });
    card.length = make(head, "span");
    card.said = make(element, "div", "cd-said");
    card.changed = make(element, "div", "cd-said cd-changed");
    const row = make(element, "div", "cd-takes");
    const several = shot.takes.length > 1 || shot.line === null;
    card.takes = (several ? shot.takes : []).map((take, number) => this.take(row, card, take, number));
    return card;
  }

  others(shot, key) {
    const element = make(this.row, "div", "cd-others");
    const card = { key, element, shot };
    const title = "Shots that follow something in this film, but are not in it; watch one to go on from it";
    make(element, "div", "cd-label", { textContent: "other ways on", title });
    const row = make(element, "div", "cd-takes");
    card.takes = shot.takes.map((take, number) => this.take(row, card, take, number));
    return card;
  }

  take(row, card, take, number) {
    const name = this.named(take.shot, number);
    const title = [`${name}: ${take.prompt}`, ...take.changes.map((change) => this.change(change))].join("\n");
    const button = make(row, "button", "cd-take", { title, ariaLabel: `Watch ${name}` });
    button.onclick = () => this.watch(card.shot.takes[number].last, name);
    this.image(button, take.line);
    return button;
  }

  image(parent, line) {
    const image = make(parent, "img", "", { alt: "", draggable: false });
    image.dataset.line = line;
    if (this.stills.has(line)) image.src = this.stills.get(line);
  }
}

// ---- what the newest chunk attends to

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
    const what = shots ? "the shots that each layer's heads attend to" : "what the newest chunk attends to, once the film plays";
    this.title.textContent = `Memory: ${what}`;
    this.grid.replaceChildren();
    this.grid.style.gridTemplateColumns = `max-content repeat(${shots}, minmax(3px, 64px))`;
    [...rows].reverse().forEach((row, place) => this.layer(row, rows.length - place, rows.length));
    if (shots) make(this.grid, "span", "cd-tick cd-axis", { textContent: "shot" });
    for (let shot = 1; shot <= shots; shot++) {
      make(this.grid, "span", "cd-tick", { textContent: shots <= 24 || shot % 5 === 0 ? shot : "" });
    }
  }

  // The uppermost tick names its axis.
  layer(row, number, layers) {
    make(this.grid, "span", "cd-tick cd-axis", { textContent: number === layers ? `layer ${number}` : number });
    row.forEach((share, shot) => {
      const title = `layer ${number}, shot ${shot + 1}: ${Math.round(100 * share)} % of heads`;
      const cell = make(this.grid, "i", "", { title });
      if (share) cell.style.setProperty("--share", `${Math.round(12 + 88 * share)}%`);
    });
  }
}

// ---- the desk

class Desk {
  constructor(model, root) {
    this.model = model;
    this.about = model.get("about");
    this.root = make(root, "div", "cinelab-desk", { tabIndex: 0, ariaLabel: "Directing desk" });
    this.root.setAttribute("role", "group");
    const top = make(this.root, "div", "cd-top");
    this.screen = new Screen(top, this.about, (one) => this.drawn(one));
    const side = make(top, "div", "cd-side");
    this.prompt = new Prompt(side, this.about, (cut) => this.say(cut));
    this.buttons(side);
    this.settings(side);
    this.strip = new Strip(side);
    this.lines();
    this.timeline = new Timeline(this.root, this.about, (chunk, name) => this.watch(chunk, name));
    this.help();
    this.watches = this.about.role === "watch"; // somebody else directs
    this.root.classList.toggle("cd-watches", this.watches);
    this.usable(true);
    this.number = 0;
    this.asked = new Map(); // number of a command -> when it was given, and what it was
    this.told = 0; // the readout that the last answer was made of
    this.said = this.error = this.gone = this.exported = this.caption = "";
    this.listen();
  }

  listen() {
    this.heard = this.checked = performance.now();
    this.onMessage = (message, buffers) => {
      this.alive();
      this[message.kind]?.(message, buffers);
    };
    this.onView = () => {
      this.alive();
      this.refresh(this.model.get("view"));
    };
    this.guard = (event) => this.shield(event);
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change:view", this.onView);
    this.root.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("keydown", this.guard, true); // before JupyterLab looks at it
    this.onView();
    if (!this.view.chunks && !this.view.settings.prompt) this.prompt.put(this.about.examples[0]?.text ?? "");
    this.timer = setInterval(() => this.check(), 1000);
    this.model.send({ kind: "hello" });
  }

  leave() {
    clearInterval(this.timer);
    window.removeEventListener("keydown", this.guard, true);
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:view", this.onView);
  }

  buttons(parent) {
    const row = make(parent, "div", "cd-buttons");
    const add = (name, textContent, title) =>
      make(row, "button", `cd-button cd-${name}`, { textContent, title, onclick: () => this.press(name) });
    this.playButton = add("play", "Play", "Play or pause (Space)");
    add("cut", "Cut", "Begin a new shot (c); with the text in the box if it is new (Ctrl+Enter there)");
    this.retakeButton = add("retake", "Retake", "");
    add("undo", "Undo", "Back to before the last command; nothing made is lost (u)");
    add("export", "Export", "Write film, storyboard and screenplay, play the film here, and download it (e)");
    add("help", "?", "All keys (?)").ariaLabel = "All keys";
  }

  settings(parent) {
    const row = make(parent, "div", "cd-settings");
    const named = (name, tag, more) => {
      const label = make(row, "label", "", { textContent: name === "switch" ? "on change" : name });
      return make(label, tag, `cd-${name}`, { ariaLabel: label.textContent, ...more });
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
      policy: choice("policy", this.about.policies, "Which finished chunks a new one may attend to"),
      budget: whole("budget", 3, "How many finished chunks a new one attends to (full: all)"),
      steps: whole("levels", 1, "Denoising levels of a chunk; empty = the model's own", { placeholder: this.about.steps }),
    };
    const title = "Draw a seed";
    const dice = make(this.inputs.seed.parentElement, "button", "cd-dice", { textContent: "⚄", title, ariaLabel: title });
    dice.onclick = () => this.command("seed", { value: Math.floor(Math.random() * SEEDS) });
  }

  lines() {
    const box = make(this.root, "div", "cd-lines");
    make(box, "span", "cd-dot");
    this.state = make(box, "span", "cd-state");
    this.state.setAttribute("role", "status");
    this.progress = make(box, "progress", "cd-progress", { hidden: true, ariaLabel: "Chunks remembered" });
    const told = make(this.root, "div", "cd-figures");
    const engine = "How fast the engine works while it works, and where its time goes";
    this.readout = make(told, "span", "cd-readout", { title: engine });
    const title = "From your last command to the first frame that knows of it, measured here";
    this.latency = make(told, "span", "cd-latency", { title });
  }

  help() {
    this.keys = make(this.root, "dialog", "cd-keys", { ariaLabel: "All keys" });
    for (const [title, rows] of HELP) {
      make(this.keys, "b", "", { textContent: title });
      for (const [key, what] of rows) {
        make(this.keys, "kbd", "", { textContent: key });
        make(this.keys, "span", "", { textContent: what });
      }
    }
    make(this.keys, "button", "cd-button", { textContent: "Close", onclick: () => this.keys.close() });
    this.keys.onclick = (event) => event.target === this.keys && this.keys.close(); // beside its content
  }

  // -- what the user does

  // Keys pressed here stay here, but for JupyterLab's combinations, such as Ctrl+S. It looks at this mark when a key comes.
  shield(event) {
    if (!this.root.contains(event.target)) return;
    const combined = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
    this.root.toggleAttribute("data-lm-suppress-shortcuts", !combined || event.key === "Enter");
  }

  key(event) {
    if (this.keys.open) return event.key === "?" && this.keys.close();
    if (event.key === "Escape") {
      if (!event.target.closest("textarea, input, select")) this.screen.close();
      this.root.focus({ preventScroll: true });
    }
    const free = !event.target.closest("textarea, input, select, video") && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!free || (event.target.closest("a") && event.key === " ")) return;
    if (this.screen.film && this.viewing(event.key)) return event.preventDefault();
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    if (!event.repeat) this.press(KEYS[event.key]);
  }

  // A key at a film that is watched; true if it was one.
  viewing(key) {
    const { video } = this.screen;
    if (key === " ") video.paused ? video.play() : video.pause();
    else if (key === "ArrowLeft" || key === "ArrowRight") this.screen.step(key === "ArrowLeft" ? -1 : 1);
    else return false;
    return true;
  }

  press(name) {
    this.root.focus({ preventScroll: true });
    if (name === "help") return this.keys.showModal();
    if (name === "full") return this.screen.full();
    if (this.gone || this.watches) return;
    if (name === "export") return this.send({ kind: "export" });
    this.leaveFilm();
    if (name === "play" && !this.playing && !this.view.settings.prompt && this.prompt.text) this.say(false);
    else if (name === "play") this.command(this.playing ? "pause" : "resume");
    else if (name === "cut") this.command("cut", this.news() ? { text: this.prompt.text } : {});
    else this.command(name);
  }

  news() {
    return this.prompt.text && this.prompt.text !== this.view.settings.prompt;
  }

  say(cut) {
    const value = cut ? { text: this.prompt.text } : { text: this.prompt.text, switch: this.inputs.switch.value };
    this.leaveFilm();
    this.command(cut ? "cut" : "prompt", value, !this.playing);
    if (this.prompt.text) this.prompt.said();
  }

  command(command, value = {}, play = false) {
    this.send({ kind: "do", command, value, play });
  }

  send(message, name = "") {
    if (this.gone) return;
    this.number += 1;
    this.asked.set(this.number, { at: performance.now(), command: message.command ?? message.kind, name });
    this.root.classList.add("cd-busy");
    this.model.send({ ...message, id: this.number });
  }

  // An earlier take is watched in place of the live film, which stands still meanwhile.
  watch(chunk, name) {
    this.halt();
    this.send({ kind: "watch", chunk }, name);
  }

  halt() {
    if (!this.playing || this.watches) return;
    this.command("pause");
    this.resumes = true;
  }

  // A film over the live one; the caption stands in the state line as long as it is there.
  over(title, bytes, caption) {
    const resumes = this.leaveFilm();
    this.caption = caption;
    this.screen.play(title, bytes, () => this.resume());
    this.resumes = resumes;
  }

  // The live film goes on if it played before a take was watched.
  resume() {
    if (this.resumes) this.command("resume");
    this.resumes = false;
    this.status();
  }

  // Whatever is watched makes room for a command; the command says whether the film plays.
  leaveFilm() {
    const resumes = this.resumes;
    this.resumes = false;
    this.screen.close();
    return resumes;
  }

  // -- what the kernel says

  alive() {
    this.heard = performance.now();
    if (this.gone && !this.final) this.lose("");
  }

  lost({ said }) {
    this.lose(said);
  }

  // Every second: does the kernel live, does it answer?
  check() {
    const now = performance.now();
    if (now - this.checked > 3000) this.heard = now; // we slept
    this.checked = now;
    if (!this.gone && now - this.heard > SILENT) this.lose(this.about.ended ?? ENDED);
    this.status();
  }

  // The kernel has ended, or ("") is there again: nothing at the desk does anything, and it looks like that.
  lose(gone) {
    this.gone = gone;
    this.told = 0; // of whoever speaks next
    this.root.classList.toggle("cd-dead", Boolean(gone));
    this.usable(!gone);
    if (gone) {
      this.play(false);
      this.asked.clear();
      this.root.classList.remove("cd-busy");
    } else {
      this.play(this.view.playing);
    }
    this.status();
  }

  // Who watches can look at takes and at the keys, and at what is set.
  usable(all) {
    for (const part of this.root.querySelectorAll(":is(.cd-side, .cd-timeline) :is(button:not(.cd-help), input, select, textarea)")) {
      const directs = part.closest(".cd-side") && this.watches;
      part.disabled = !all || Boolean(directs) || part.parentElement.matches(".cd-next");
    }
  }

  pictures(message, buffers) {
    this.screen.take(message, buffers);
  }

  stills(message, buffers) {
    message.lines.forEach((line, place) => this.timeline.still(line, buffers[place]));
  }

  film(message, buffers) {
    this.halt();
    this.over(message.names ? "Download" : "The exported film", buffers[0], this.exported);
    (message.names ?? []).forEach((name, place) => this.screen.download(name, buffers[place]));
  }

  take(message, buffers) {
    const name = this.asked.get(message.of)?.name;
    if (!name) return; // another view asked
    this.over(`Watching ${name}`, buffers[0], "");
    this.screen.tool("‹", "One frame back (←)", "cd-step", () => this.screen.step(-1)).ariaLabel = "One frame back";
    this.screen.tool("›", "One frame on (→)", "cd-step", () => this.screen.step(1)).ariaLabel = "One frame on";
    if (this.watches) return;
    const title = "Make this the film: what follows is made anew, what was made stays";
    const button = this.screen.tool("", title, "cd-goon", () => this.goOn(this.chosen(message)));
    const { video } = this.screen;
    const label = () => {
      const here = video === this.screen.video && video.paused; // an event may come after its end
      button.textContent = `go on from ${here ? seconds(this.screen.shown / this.about.fps) : "its end"}`;
    };
    for (const event of ["play", "pause", "seeked"]) video.addEventListener(event, label);
    label();
  }

  // The chunk that the player stands at; while it plays, the take's last.
  chosen({ chunks, ends }) {
    const place = ends.findIndex((end) => this.screen.shown < end);
    return chunks.at(this.screen.video.paused ? place : -1);
  }

  goOn(chunk) {
    this.command("branch", { chunk }, this.leaveFilm());
  }

  answer(message) {
    const asked = this.asked.get(message.id);
    this.asked.delete(message.id);
    this.root.classList.toggle("cd-busy", this.asked.size > 0);
    const changes = ["prompt", "cut", "retake", "branch"].includes(asked?.command);
    if (changes && !message.error) this.since = { at: asked.at, node: message.next };
    if (asked?.command === "export") this.exported = this.caption = message.said; // the film may have come before it or come yet
    this.tell(message.said, message.error);
    this.told = message.told ?? 0;
    this.play(message.playing);
    if (asked?.name && message.error) this.resume();
  }

  drawn(one) {
    if (this.since && one.node >= this.since.node) {
      this.latency.textContent = `seen after ${((performance.now() - this.since.at) / 1000).toFixed(2)} s`;
      this.since = null;
    }
    if (one.last) this.model.send({ kind: "drawn", number: one.number });
  }

  tell(said, error) {
    [this.said, this.error] = [said, error];
    this.status();
  }

  // The one line that says how things stand: the gravest thing first.
  status() {
    const [done, all] = this.view.remembering ?? [0, 0];
    const remembers = !this.gone && all >= LONG;
    const oldest = Math.min(...[...this.asked.values()].map((asked) => asked.at));
    const waits = performance.now() - oldest > SLOW ? (this.about.waits ?? WAITS) : "";
    const wrong = this.gone || this.error;
    const calm = waits || (this.screen.film && this.caption) || this.said;
    const text = wrong || (remembers ? `Remembering ${done} of ${all} chunks.` : calm);
    this.state.setAttribute("aria-live", remembers ? "off" : "polite"); // a number a moment is no news
    if (this.state.textContent !== text) this.state.textContent = this.state.title = text;
    Object.assign(this.progress, { hidden: !remembers, value: done, max: Math.max(all, 1) });
    this.root.classList.toggle("cd-wrong", Boolean(wrong));
  }

  play(playing) {
    this.playing = playing;
    this.playButton.textContent = playing ? "Pause" : "Play";
    this.root.classList.toggle("cd-playing", playing);
  }

  refresh(view) {
    const before = this.view;
    this.view = view;
    if ((view.told ?? Infinity) >= this.told) this.play(view.playing); // else an answer has overtaken it
    if (before?.said !== view.said || before?.error !== view.error) this.tell(view.said || this.greeting(view), view.error);
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
    this.retakes(view.retake);
    this.hint(view);
    this.final = view.closed; // no word of anybody brings it back
    if (view.closed) this.lose(this.about.closed ?? "Closed; run the cell again to go on.");
    else if (this.gone) this.lose("");
    else this.status();
  }

  retakes(retake) {
    const which = retake ? `Shot ${retake.shot} again from its beginning, with seed ${retake.seed}; the old take stays` : "The shot again";
    this.retakeButton.textContent = retake ? `Retake ${retake.shot}` : "Retake";
    this.retakeButton.title = `${which} (r)`;
  }

  // Said once: what no training has shown the model may go wrong.
  hint(view) {
    const shot = view.shots.findLast((one) => one.line !== null);
    const most = this.about.trained_seconds;
    if (this.hinted || !view.playing || !shot || shot.chunks * this.about.chunk_seconds <= most) return;
    this.hinted = true;
    this.tell(`Clips in training lasted up to ${seconds(most)}: a longer shot may lose detail. A cut begins another.`, "");
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
