// The timeline: a card a shot. Cards stay the same elements, so that no click is lost.

import { blobAddress, make, seconds } from "./dom.js";

export class Timeline {
  // `onWatch(chunk, name)` is called when a take is to be watched.
  constructor(parent, about, onWatch) {
    this.about = about;
    this.onWatch = onWatch;
    this.row = make(parent, "div", "cd-timeline");
    this.stills = new Map(); // line -> address
    this.cards = [];
  }

  addStill(line, bytes) {
    if (this.stills.has(line)) return;
    const src = blobAddress(bytes, "still.jpg");
    this.stills.set(line, src);
    for (const image of this.row.querySelectorAll(`img[data-line="${line}"]`)) image.src = src;
  }

  show(shots) {
    const grown = shots.length > this.cards.length;
    while (this.cards.length > shots.length) this.cards.pop().element.remove();
    const newest = shots.findLastIndex((shot) => shot.shot !== null);
    shots.forEach((shot, place) => this.showCard(shot, place, place === newest));
    if (grown) this.row.scrollLeft = this.row.scrollWidth;
  }

  showCard(shot, place, newest) {
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
    const length = shot.chunks * this.about.chunk_seconds;
    card.length.textContent = shot.chunks ? seconds(length) : "next";
    card.prompt.textContent = shot.prompt || "comes with the next chunk";
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
    if (shot.shot === null) return this.buildOthers(shot, key);
    const coming = shot.line === null;
    const element = make(this.row, "div", coming ? "cd-shot cd-next" : "cd-shot");
    const card = { key, element, shot };
    card.face = make(element, "button", "cd-face", { disabled: coming });
    card.face.onclick = () => this.watchShot(card.shot);
    if (!coming) this.addImage(card.face, shot.line);
    const head = make(element, "div", "cd-head");
    make(head, "b", "", { textContent: shot.shot + 1 });
    card.length = make(head, "span");
    card.prompt = make(element, "div", "cd-text");
    card.changed = make(element, "div", "cd-text cd-changed");
    this.addTakes(card, shot.takes.length > 1 || coming ? shot.takes : []);
    return card;
  }

  buildOthers(shot, key) {
    const element = make(this.row, "div", "cd-others");
    const card = { key, element, shot };
    const title =
      "Shots that follow something in this film, but are not in it; watch one to go on from it";
    make(element, "div", "cd-label", { textContent: "other ways on", title });
    this.addTakes(card, shot.takes);
    return card;
  }

  watchShot(shot) {
    const number = shot.takes.findIndex((take) => take.on);
    this.onWatch(shot.last, this.named(shot.shot, number));
  }

  addTakes(card, takes) {
    const row = make(card.element, "div", "cd-takes");
    card.takes = takes.map((take, number) => this.addTake(row, card, take, number));
  }

  addTake(row, card, take, number) {
    const name = this.named(take.shot, number);
    const changes = take.changes.map((change) => this.change(change));
    const title = [`${name}: ${take.prompt}`, ...changes].join("\n");
    const button = make(row, "button", "cd-take", { title, ariaLabel: `Watch ${name}` });
    button.onclick = () => this.onWatch(card.shot.takes[number].last, name);
    this.addImage(button, take.line);
    return button;
  }

  addImage(parent, line) {
    const image = make(parent, "img", "", { alt: "", draggable: false });
    image.dataset.line = line;
    if (this.stills.has(line)) image.src = this.stills.get(line);
  }
}
