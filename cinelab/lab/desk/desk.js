// The directing desk: how it looks, and what it sends to the kernel.
//
// Messages out: hello, do, drawn, export, watch. Messages in: frames, stills, answer, film, take,
// alive, and lost where a page knows that its connection has ended. See widget.py and messages.py.

import { addButtons, addSettings } from "./controls.js";
import { make, seconds } from "./dom.js";
import { KEYS, keysDialog, playerKey, shieldKey } from "./keys.js";
import { MemoryStrip } from "./memory_strip.js";
import { Prompt } from "./prompt.js";
import { Screen } from "./screen.js";
import { Timeline } from "./timeline.js";

// milliseconds without a message, after which a kernel counts as ended: it sends a sign of life
// every 2000
const SILENT = 7000;
const ASLEEP = 3000; // milliseconds between two checks, above which this computer was asleep
const SLOW = 3000; // milliseconds that an answer may take before the desk says that it waits
const LONG = 4; // chunks to be remembered that are worth a bar
const ENDED = "The kernel has ended; run the cell again to go on.";
const WAITS = "Waiting for the kernel: another cell runs there, or a chunk takes long.";
const CLOSED = "Closed; run the cell again to go on.";
const ENGINE = "How fast the engine works while it works, and where its time goes";
const LATENCY = "From your last command to the first frame that follows it, measured here";
const GO_ON = "Make this the film: what follows is made anew, what was made stays";
const DISABLED = "button:not(.cd-help), input, select, textarea";
const TYPING = "textarea, input, select";
const NEW_NODES = ["prompt", "cut", "retake", "branch"]; // commands after which other chunks come

class Desk {
  constructor(model, root) {
    this.model = model;
    this.about = model.get("about");
    this.root = make(root, "div", "cinelab-desk", { tabIndex: 0, ariaLabel: "Directing desk" });
    this.root.setAttribute("role", "group");
    this.build();
    this.watches = this.about.role === "watch"; // somebody else directs
    this.root.classList.toggle("cd-watches", this.watches);
    this.setUsable(true);
    this.number = 0;
    this.pending = new Map(); // number of a message -> when it was sent, and what it was
    this.revision = 0; // of the read-out that the last answer was made of
    this.message = "";
    this.error = "";
    this.gone = ""; // why the kernel cannot be reached
    this.exported = "";
    this.caption = "";
    this.listen();
  }

  build() {
    const top = make(this.root, "div", "cd-top");
    this.screen = new Screen(top, this.about, (slot) => this.onDrawn(slot));
    const side = make(top, "div", "cd-side");
    this.prompt = new Prompt(side, this.about, (cut) => this.enterPrompt(cut));
    this.buttons = addButtons(side, (name) => this.press(name));
    const onChange = (name, value) => this.command(name, { value });
    this.inputs = addSettings(side, this.about, onChange);
    this.strip = new MemoryStrip(side);
    this.buildLines();
    const onWatch = (chunk, name) => this.watch(chunk, name);
    this.timeline = new Timeline(this.root, this.about, onWatch);
    this.keys = keysDialog(this.root);
  }

  buildLines() {
    const box = make(this.root, "div", "cd-lines");
    make(box, "span", "cd-dot");
    this.state = make(box, "span", "cd-state");
    this.state.setAttribute("role", "status");
    const more = { hidden: true, ariaLabel: "Chunks remembered" };
    this.progress = make(box, "progress", "cd-progress", more);
    const figures = make(this.root, "div", "cd-figures");
    this.readout = make(figures, "span", "cd-readout", { title: ENGINE });
    this.latency = make(figures, "span", "cd-latency", { title: LATENCY });
  }

  listen() {
    this.lastMessage = performance.now();
    this.lastCheck = this.lastMessage;
    const handlers = {
      frames: (message, buffers) => this.screen.add(message, buffers),
      stills: (message, buffers) => this.onStills(message, buffers),
      answer: (message) => this.onAnswer(message),
      film: (message, buffers) => this.onFilm(message, buffers),
      take: (message, buffers) => this.onTake(message, buffers),
      lost: (message) => this.setGone(message.message),
    };
    this.onMessage = (message, buffers) => {
      this.onAlive();
      handlers[message.kind]?.(message, buffers);
    };
    this.onView = () => {
      this.onAlive();
      this.showView(this.model.get("view"));
    };
    this.onAnyKey = (event) => shieldKey(this.root, event);
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change:view", this.onView);
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("keydown", this.onAnyKey, true); // before JupyterLab reads it
    this.onView();
    const isNew = !this.view.chunks && !this.view.settings.prompt;
    if (isNew) this.prompt.put(this.about.examples[0]?.text ?? "");
    this.timer = setInterval(() => this.check(), 1000);
    this.model.send({ kind: "hello" });
  }

  leave() {
    clearInterval(this.timer);
    window.removeEventListener("keydown", this.onAnyKey, true);
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:view", this.onView);
  }

  // -- what the user does

  onKey(event) {
    if (this.keys.open) return event.key === "?" && this.keys.close();
    const typing = event.target.closest(TYPING);
    if (event.key === "Escape") {
      if (!typing) this.screen.close();
      this.root.focus({ preventScroll: true });
    }
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    if (typing || event.target.closest("video") || modified) return;
    if (event.target.closest("a") && event.key === " ") return;
    if (this.screen.film && playerKey(this.screen, event.key)) return event.preventDefault();
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    if (!event.repeat) this.press(KEYS[event.key]);
  }

  press(name) {
    this.root.focus({ preventScroll: true });
    if (name === "help") return this.keys.showModal();
    if (name === "full") return this.screen.toggleFullScreen();
    if (this.gone || this.watches) return;
    if (name === "export") return this.send({ kind: "export" });
    this.leaveFilm();
    const starts = !this.playing && !this.view.settings.prompt && this.prompt.text;
    if (name === "play" && starts) this.enterPrompt(false);
    else if (name === "play") this.command(this.playing ? "pause" : "resume");
    else if (name === "cut") this.command("cut", this.hasNewPrompt() ? this.promptValue() : {});
    else this.command(name);
  }

  hasNewPrompt() {
    return this.prompt.text && this.prompt.text !== this.view.settings.prompt;
  }

  promptValue() {
    return { text: this.prompt.text };
  }

  enterPrompt(cut) {
    const value = this.promptValue();
    if (!cut) value.switch = this.inputs.switch.value;
    this.leaveFilm();
    this.command(cut ? "cut" : "prompt", value, !this.playing);
    if (this.prompt.text) this.prompt.store();
  }

  command(command, value = {}, play = false) {
    this.send({ kind: "do", command, value, play });
  }

  send(message, name = "") {
    if (this.gone) return;
    this.number += 1;
    const command = message.command ?? message.kind;
    this.pending.set(this.number, { at: performance.now(), command, name });
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

  // Play a film over the live one; the caption stands in the state line as long as it is there.
  playOver(title, bytes, caption) {
    const resumes = this.leaveFilm();
    this.caption = caption;
    this.screen.play(title, bytes, () => this.resume());
    this.resumes = resumes;
  }

  // The live film continues if it played before a take was watched.
  resume() {
    if (this.resumes) this.command("resume");
    this.resumes = false;
    this.showState();
  }

  // A film that is watched makes room for a command, which decides whether the live film plays.
  leaveFilm() {
    const resumes = this.resumes;
    this.resumes = false;
    this.screen.close();
    return resumes;
  }

  // -- what the kernel sends

  onAlive() {
    this.lastMessage = performance.now();
    if (this.gone && !this.final) this.setGone("");
  }

  // Every second: does the kernel live, does it answer?
  check() {
    const now = performance.now();
    if (now - this.lastCheck > ASLEEP) this.lastMessage = now;
    this.lastCheck = now;
    if (!this.gone && now - this.lastMessage > SILENT) this.setGone(this.about.ended ?? ENDED);
    this.showState();
  }

  // The kernel has ended, or ("") is there again: nothing at the desk does anything, and it looks
  // like that.
  setGone(gone) {
    this.gone = gone;
    this.revision = 0; // another kernel counts anew
    this.root.classList.toggle("cd-dead", Boolean(gone));
    this.setUsable(!gone);
    if (gone) {
      this.setPlaying(false);
      this.pending.clear();
      this.root.classList.remove("cd-busy");
    } else {
      this.setPlaying(this.view.playing);
    }
    this.showState();
  }

  // A viewer that only watches can open takes, the keys, and see what is set.
  setUsable(usable) {
    const parts = `:is(.cd-side, .cd-timeline) :is(${DISABLED})`;
    for (const part of this.root.querySelectorAll(parts)) {
      const directs = part.closest(".cd-side") && this.watches;
      part.disabled = !usable || Boolean(directs) || part.parentElement.matches(".cd-next");
    }
  }

  onStills(message, buffers) {
    message.lines.forEach((line, place) => this.timeline.addStill(line, buffers[place]));
  }

  onFilm(message, buffers) {
    this.halt();
    const title = message.names ? "Download" : "The exported film";
    this.playOver(title, buffers[0], this.exported);
    const names = message.names ?? [];
    names.forEach((name, place) => this.screen.addDownload(name, buffers[place]));
  }

  onTake(message, buffers) {
    const name = this.pending.get(message.of)?.name;
    if (!name) return; // another view wants it
    this.playOver(`Watching ${name}`, buffers[0], "");
    const back = () => this.screen.step(-1);
    const on = () => this.screen.step(1);
    this.screen.addTool("‹", "One frame back (←)", "cd-step", back).ariaLabel = "One frame back";
    this.screen.addTool("›", "One frame on (→)", "cd-step", on).ariaLabel = "One frame on";
    if (!this.watches) this.addGoOn(message);
  }

  addGoOn(message) {
    const goOn = () => this.command("branch", { chunk: this.chunkAt(message) }, this.leaveFilm());
    const button = this.screen.addTool("", GO_ON, "cd-goon", goOn);
    const { video } = this.screen;
    const label = () => {
      const here = video === this.screen.video && video.paused; // an event may come after its end
      const where = here ? seconds(this.screen.shownFrame / this.about.fps) : "its end";
      button.textContent = `go on from ${where}`;
    };
    for (const event of ["play", "pause", "seeked"]) video.addEventListener(event, label);
    label();
  }

  // The chunk that the player stands at; while it plays, the take's last.
  chunkAt({ chunks, ends }) {
    const place = ends.findIndex((end) => this.screen.shownFrame < end);
    return chunks.at(this.screen.video.paused ? place : -1);
  }

  onAnswer(message) {
    const sent = this.pending.get(message.id);
    this.pending.delete(message.id);
    this.root.classList.toggle("cd-busy", this.pending.size > 0);
    const changes = NEW_NODES.includes(sent?.command) && !message.error;
    if (changes) this.since = { at: sent.at, node: message.next };
    // the film may have come before this answer, or come yet
    if (sent?.command === "export") this.exported = this.caption = message.message;
    this.setMessage(message.message, message.error);
    this.revision = message.revision ?? 0;
    this.setPlaying(message.playing);
    if (sent?.name && message.error) this.resume();
  }

  onDrawn(slot) {
    if (this.since && slot.node >= this.since.node) {
      const late = (performance.now() - this.since.at) / 1000;
      this.latency.textContent = `seen after ${late.toFixed(2)} s`;
      this.since = null;
    }
    if (slot.last) this.model.send({ kind: "drawn", number: slot.number });
  }

  setMessage(message, error) {
    this.message = message;
    this.error = error;
    this.showState();
  }

  // The one line that tells how things stand: the gravest thing first.
  showState() {
    const [done, all] = this.view.remembering ?? [0, 0];
    const remembers = !this.gone && all >= LONG;
    const wrong = this.gone || this.error;
    const film = this.screen.film && this.caption;
    const calm = this.waitsFor() || film || this.message;
    const text = wrong || (remembers ? `Remembering ${done} of ${all} chunks.` : calm);
    this.state.setAttribute("aria-live", remembers ? "off" : "polite"); // too many to read out
    if (this.state.textContent !== text) {
      this.state.textContent = text;
      this.state.title = text;
    }
    Object.assign(this.progress, { hidden: !remembers, value: done, max: Math.max(all, 1) });
    this.root.classList.toggle("cd-wrong", Boolean(wrong));
  }

  // The sentence while an answer takes long, "" otherwise.
  waitsFor() {
    const oldest = Math.min(...[...this.pending.values()].map((sent) => sent.at));
    return performance.now() - oldest > SLOW ? (this.about.waits ?? WAITS) : "";
  }

  setPlaying(playing) {
    this.playing = playing;
    this.buttons.play.textContent = playing ? "Pause" : "Play";
    this.root.classList.toggle("cd-playing", playing);
  }

  showView(view) {
    const before = this.view;
    this.view = view;
    // an older view than the last answer says nothing new
    if ((view.revision ?? Infinity) >= this.revision) this.setPlaying(view.playing);
    if (before?.message !== view.message || before?.error !== view.error) {
      this.setMessage(view.message || this.greeting(view), view.error);
    }
    this.readout.textContent = view.readout;
    this.showSettings(view, before);
    this.prompt.addEarlier(view.earlier);
    this.strip.show(view.attended);
    this.timeline.show(view.shots);
    this.showRetake(view.retake);
    this.hint(view);
    this.final = view.closed; // no message brings a closed desk back
    if (view.closed) this.setGone(this.about.closed ?? CLOSED);
    else if (this.gone) this.setGone("");
    else this.showState();
  }

  // What is typed in right now is left alone.
  showSettings(view, before) {
    const focused = document.activeElement;
    const changed = before?.settings.prompt !== view.settings.prompt;
    if (changed && focused !== this.prompt.box) this.prompt.put(view.settings.prompt);
    for (const [name, input] of Object.entries(this.inputs)) {
      if (focused !== input) input.value = view.settings[name] ?? "";
    }
    this.inputs.switch.title = this.about.switches[view.settings.switch];
  }

  showRetake(retake) {
    const which = retake
      ? `Shot ${retake.shot} again from its beginning, with seed ${retake.seed}; the old take stays`
      : "The shot again";
    this.buttons.retake.textContent = retake ? `Retake ${retake.shot}` : "Retake";
    this.buttons.retake.title = `${which} (r)`;
  }

  // Shown once: what no training has shown the model may go wrong.
  hint(view) {
    const shot = view.shots.findLast((row) => row.line !== null);
    const most = this.about.trained_seconds;
    if (this.hinted || !view.playing || !shot) return;
    if (shot.chunks * this.about.chunk_seconds <= most) return;
    this.hinted = true;
    const lasted = `Clips in training lasted up to ${seconds(most)}`;
    this.setMessage(`${lasted}: a longer shot may lose detail. A cut begins another.`, "");
  }

  greeting(view) {
    const goes = view.chunks
      ? `goes on from ${view.chunks} chunks, with its own settings`
      : "a new session";
    return `${this.about.model}: ${goes}.`;
  }
}

export default {
  render({ model, el }) {
    const desk = new Desk(model, el);
    return () => desk.leave();
  },
};
