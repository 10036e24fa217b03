// The screen: shows the frames that come at their own pace, and reports what it has drawn.

import { blobAddress, make } from "./dom.js";

const LATE = 40; // milliseconds
const CORNERS =
  '<svg viewBox="0 0 16 16"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" fill="none" ' +
  'stroke="currentColor" stroke-width="2"/></svg>';
const EMPTY = {
  direct: "Press Play, or say what the first shot shows.",
  watch: "Nothing has been made yet. The film is shown here while it is made.",
};

export class Screen {
  constructor(parent, about, onDrawn) {
    const [height, width] = about.size;
    const scale = Math.max(1, Math.round(640 / width));
    const size = { width: width * scale, height: height * scale };
    this.fps = about.fps;
    this.stage = make(parent, "div", "cd-stage");
    this.stage.style.setProperty("--aspect", width / height);
    this.canvas = make(this.stage, "canvas", "cd-canvas", size);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "The film");
    const textContent = EMPTY[about.role] ?? EMPTY.direct;
    this.note = make(this.stage, "div", "cd-note", { textContent });
    const title = "Full screen (f)";
    const onclick = () => this.toggleFullScreen();
    this.large = make(this.stage, "button", "cd-large", { title, ariaLabel: title, onclick });
    this.large.innerHTML = CORNERS;
    this.pen = this.canvas.getContext("2d");
    this.pen.imageSmoothingQuality = "high";
    this.onDrawn = onDrawn;
    this.waiting = [];
    this.next = 0;
    this.count = 0;
  }

  async add(message, buffers) {
    const decoded = buffers.map((buffer) =>
      createImageBitmap(new Blob([buffer], { type: "image/jpeg" })),
    );
    const slots = decoded.map((_, place) => ({
      ...message,
      last: place === decoded.length - 1,
      of: decoded.length,
    }));
    this.waiting.push(...slots); // in the order of the messages, whichever is decoded first
    try {
      const images = await Promise.all(decoded);
      slots.forEach((slot, place) => (slot.image = images[place]));
    } catch (error) {
      this.waiting = this.waiting.filter((slot) => !slots.includes(slot));
      this.onDrawn(slots.at(-1)); // there is room for the next all the same
      throw error; // to the console
    } finally {
      this.scheduleDraw();
    }
  }

  scheduleDraw() {
    cancelAnimationFrame(this.request);
    this.request = requestAnimationFrame((now) => this.draw(now));
  }

  draw(now) {
    // Half a screen refresh early is nearer to the time than a whole one late.
    if (this.waiting[0]?.image && now >= this.next - 8) {
      const slot = this.waiting.shift();
      // What comes late moves the clock, what piles up is shown faster: no more is held back than
      // the engine's hiccups need.
      const hurry = this.waiting.length > slot.of ? 0.75 : 1;
      const due = now - this.next > LATE ? now : this.next;
      this.next = due + slot.gap * 1000 * hurry;
      this.show(slot);
    }
    if (this.waiting[0]?.image) this.scheduleDraw();
  }

  show(slot) {
    this.note.hidden = true;
    this.pen.drawImage(slot.image, 0, 0, this.canvas.width, this.canvas.height);
    slot.image.close();
    this.count += 1;
    this.onDrawn(slot);
  }

  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.stage.requestFullscreen?.();
  }

  // Play a film over the live one, under a bar with its title and tools. `onClosed` is called once.
  play(title, bytes, onClosed = () => {}) {
    this.close();
    this.onClosed = onClosed;
    this.film = make(this.stage, "div", "cd-film");
    const bar = make(this.film, "div", "cd-bar");
    make(bar, "span", "cd-title", { textContent: title });
    this.tools = make(bar, "span", "cd-tools");
    const back = { textContent: "back to live", title: "Esc", onclick: () => this.close() };
    make(bar, "button", "cd-back", back);
    this.video = make(this.film, "video", "", {
      src: blobAddress(bytes, "film.mp4"),
      controls: true,
      loop: true,
      muted: true,
      autoplay: true,
    });
    this.video.playsInline = true;
  }

  addTool(textContent, title, name, onclick) {
    return make(this.tools, "button", name, { textContent, title, onclick });
  }

  addDownload(name, bytes) {
    make(this.tools, "a", "cd-download", {
      textContent: name.split(".")[0],
      href: blobAddress(bytes, name),
      download: name,
      title: `Download ${name}`,
    });
  }

  // The number of the frame that the player shows.
  get shownFrame() {
    return Math.floor(this.video.currentTime * this.fps + 1e-3);
  }

  step(by) {
    this.video.pause();
    const last = Math.max(0, Math.round(this.video.duration * this.fps) - 1);
    const frame = Math.min(last, Math.max(0, this.shownFrame + by));
    this.video.currentTime = (frame + 0.5) / this.fps;
  }

  close() {
    if (!this.film) return;
    for (const used of this.film.querySelectorAll("video, a")) {
      URL.revokeObjectURL(used.src ?? used.href);
    }
    this.film.remove();
    this.film = null;
    this.video = null;
    this.onClosed();
  }
}
