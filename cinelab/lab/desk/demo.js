// The demo's page: what a desk asks of a notebook's model, over a websocket that is opened again when it was lost.

import desk from "/desk.js";

const RETRY = [500, 1000, 2000, 4000, 8000]; // milliseconds between tries to come back
const WORDS = { // of the desk, where a notebook's would not fit
  ended: "The server says nothing any more; reload this page to go on with your film.",
  waits: "Waiting for the server: the other films have their turns, or a chunk takes long.",
  closed: "Nobody looked at this film for a while; reload this page to go on with it.",
};
const LOST = "The connection is lost; trying again. What was made is safe.";
const KINDS = { "film.mp4": "film", "film.gif": "GIF", "storyboard.png": "storyboard", "film.shots.json": "shot list", "screenplay.yaml": "screenplay" };

const SHOWN = ["film.mp4", "storyboard.png", "screenplay.yaml"]; // what the desk itself shows and offers

const here = new URLSearchParams(location.search);
const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/wire?${here}`;
const heard = { "msg:custom": new Set(), "change:view": new Set() };
const state = {};
const asked = new Set(); // numbers of what was asked and not yet answered
let wire = null;
let waiting = null; // a text whose binary messages are on their way
let tries = 0;
let refused = false;

const part = (id) => document.getElementById(id);

const model = {
  get: (name) => (name === "about" ? { ...state.about, ...WORDS } : state[name]),
  on: (event, call) => heard[event]?.add(call),
  off: (event, call) => heard[event]?.delete(call),
  send: (content) => {
    if (wire.readyState !== WebSocket.OPEN) return lost(content.id);
    if (content.id) asked.add(content.id);
    wire.send(JSON.stringify(content));
  },
};

function say(text) {
  part("gone").textContent = text;
  part("gone").style.display = text ? "block" : "none";
}

// Said once: by the desk where there is one.
function gone(text) {
  if (state.about) tell({ kind: "lost", said: text });
  else say(text);
}

function tell(content, buffers = []) {
  heard["msg:custom"].forEach((call) => call(content, buffers));
}

function lost(id) {
  if (id === undefined) return;
  tell({ kind: "answer", id, said: "", error: "The connection was lost; look whether this was done.", playing: Boolean(state.view?.playing), next: 0 });
}

// ---- what the server says

function take(text, buffers) {
  if (text.full) {
    refused = true;
    gone(text.full);
  } else if (text.about) {
    welcome(text);
  } else if (text.news) {
    state.view = applied(state.view, text.news);
    heard["change:view"].forEach((call) => call());
  } else if (text.custom) {
    custom(text.custom, buffers);
  }
}

function welcome(text) {
  const before = state.about;
  if (before && JSON.stringify(before) !== JSON.stringify(text.about)) return location.reload(); // another server answers now
  Object.assign(state, { about: text.about, view: text.view });
  tries = 0;
  say("");
  delete document.body.dataset.lost;
  if (before) {
    heard["change:view"].forEach((call) => call());
    model.send({ kind: "hello", id: 0 });
    return;
  }
  desk.render({ model, el: part("desk") });
  links(text.about);
  document.body.dataset.ready = "yes";
}

function applied(view, news) {
  const rows = Object.entries(news.rows ?? {}).map(([name, [length, ...changed]]) => {
    const list = view[name].slice(0, length);
    for (const [place, row] of changed) list[place] = row;
    return [name, list];
  });
  return { ...view, ...news.set, ...Object.fromEntries(rows) };
}

function custom(content, buffers) {
  if (content.kind === "answer") asked.delete(content.id);
  if (content.kind === "film") film(content);
  else tell(content, buffers);
}

// ---- films to download, and a link to watch

const file = (number, name) => `/export/${state.about.film}/${number}/${name}?token=${encodeURIComponent(here.get("token"))}`;

async function film(content) {
  const row = document.createElement("p");
  row.className = "export";
  row.append(`Export ${content.number}: `);
  for (const name of content.files) {
    const link = document.createElement("a");
    link.href = file(content.number, name);
    link.download = "";
    link.textContent = KINDS[name] ?? name;
    row.append(link, " ");
  }
  part("exports").prepend(row);
  const names = SHOWN.filter((name) => content.files.includes(name));
  const answers = await Promise.all(names.map((name) => fetch(file(content.number, name))));
  if (answers.every((one) => one.ok)) tell({ ...content, names }, await Promise.all(answers.map((one) => one.arrayBuffer())));
}

function links(about) {
  if (about.role !== "direct") {
    part("intro").textContent = "You are watching a film while it is made; somebody else directs it.";
    document.body.dataset.role = "watch";
    return;
  }
  const link = `${location.origin}/?film=${about.film}&token=${encodeURIComponent(about.watch)}`;
  const place = document.createElement("a");
  Object.assign(place, { href: link, textContent: "watch link", target: "_blank", rel: "noopener" });
  const copy = document.createElement("button");
  copy.textContent = "Copy";
  copy.onclick = async () => {
    await navigator.clipboard.writeText(link);
    copy.textContent = "Copied";
  };
  part("role").append("For those who only watch: ", place, " ");
  if (navigator.clipboard) part("role").append(copy); // a browser has none for a page without TLS from another machine
}

// ---- the connection

function join() {
  wire = new WebSocket(address);
  wire.binaryType = "arraybuffer";
  waiting = null;
  wire.onmessage = (event) => {
    if (typeof event.data === "string") {
      const text = JSON.parse(event.data);
      if (text.buffers) waiting = { text, buffers: [] };
      else take(text, []);
      return;
    }
    waiting.buffers.push(new DataView(event.data));
    if (waiting.buffers.length < waiting.text.buffers) return;
    const whole = waiting;
    waiting = null;
    take(whole.text, whole.buffers);
  };
  wire.onclose = again;
}

function again() {
  if (refused) return;
  [...asked].forEach(lost);
  asked.clear();
  document.body.dataset.lost = "yes";
  const pause = RETRY[Math.min(tries, RETRY.length - 1)];
  tries += 1;
  gone(LOST);
  setTimeout(join, pause);
}

join();
