// The demo's page: stands in for a notebook's model, over a websocket that is opened again when it
// was lost.

import desk from "/desk.js";

const RETRY = [500, 1000, 2000, 4000, 8000]; // milliseconds between tries to come back
const WORDS = { // of the desk, where a notebook's would not fit
  ended: "The server does not answer any more; reload this page to go on with your film.",
  waits: "Waiting for the server: the other films have their turns, or a chunk takes long.",
  closed: "Nobody watched this film for a while; reload this page to go on with it.",
};
const LOST = "The connection is lost; trying again. What was made is safe.";
const UNSURE = "The connection was lost; check whether this was done.";
const WATCHING = "You are watching a film while it is made; somebody else directs it.";
const KINDS = {
  "film.mp4": "film",
  "film.gif": "GIF",
  "storyboard.png": "storyboard",
  "film.shots.json": "shot list",
  "screenplay.yaml": "screenplay",
};
const SHOWN = ["film.mp4", "storyboard.png", "screenplay.yaml"]; // what the desk itself offers

const here = new URLSearchParams(location.search);
const scheme = location.protocol === "https:" ? "wss" : "ws";
const address = `${scheme}://${location.host}/wire?${here}`;
const listeners = { "msg:custom": new Set(), "change:view": new Set() };
const state = {};
const pending = new Set(); // numbers of the messages that are not yet answered
let wire = null;
let waiting = null; // a text whose binary messages are on their way
let tries = 0;
let refused = false;

function part(id) {
  return document.getElementById(id);
}

const model = {
  get: (name) => (name === "about" ? { ...state.about, ...WORDS } : state[name]),
  on: (event, call) => listeners[event]?.add(call),
  off: (event, call) => listeners[event]?.delete(call),
  send: (content) => {
    if (wire.readyState !== WebSocket.OPEN) return answerUnsure(content.id);
    if (content.id) pending.add(content.id);
    wire.send(JSON.stringify(content));
  },
};

function showGone(text) {
  part("gone").textContent = text;
  part("gone").style.display = text ? "block" : "none";
}

// Shown once: by the desk where there is one.
function reportGone(text) {
  if (state.about) dispatch({ kind: "lost", message: text });
  else showGone(text);
}

function dispatch(content, buffers = []) {
  listeners["msg:custom"].forEach((call) => call(content, buffers));
}

function viewChanged() {
  listeners["change:view"].forEach((call) => call());
}

// The answer to a message whose own may never come.
function answerUnsure(id) {
  if (id === undefined) return;
  const playing = Boolean(state.view?.playing);
  dispatch({ kind: "answer", id, message: "", error: UNSURE, playing, next: 0 });
}

// ---- what the server sends

function receive(text, buffers) {
  if (text.full) {
    refused = true;
    reportGone(text.full);
  } else if (text.about) {
    welcome(text);
  } else if (text.changes) {
    state.view = applied(state.view, text.changes);
    viewChanged();
  } else if (text.custom) {
    receiveCustom(text.custom, buffers);
  }
}

function welcome(text) {
  const before = state.about;
  const changed = before && JSON.stringify(before) !== JSON.stringify(text.about);
  if (changed) return location.reload(); // another server answers now
  Object.assign(state, { about: text.about, view: text.view });
  tries = 0;
  showGone("");
  delete document.body.dataset.lost;
  if (before) {
    viewChanged();
    model.send({ kind: "hello", id: 0 });
    return;
  }
  desk.render({ model, el: part("desk") });
  showLinks(text.about);
  document.body.dataset.ready = "yes";
}

function applied(view, changes) {
  const lists = {};
  for (const [name, [length, ...rows]] of Object.entries(changes.rows ?? {})) {
    lists[name] = view[name].slice(0, length);
    for (const [place, row] of rows) lists[name][place] = row;
  }
  return { ...view, ...changes.set, ...lists };
}

function receiveCustom(content, buffers) {
  if (content.kind === "answer") pending.delete(content.id);
  if (content.kind === "film") offerFilm(content);
  else dispatch(content, buffers);
}

// ---- films to download, and a link to watch

function fileAddress(number, name) {
  const token = encodeURIComponent(here.get("token"));
  return `/export/${state.about.film}/${number}/${name}?token=${token}`;
}

async function offerFilm(content) {
  const row = document.createElement("p");
  row.className = "export";
  row.append(`Export ${content.number}: `);
  for (const name of content.files) {
    const link = document.createElement("a");
    link.href = fileAddress(content.number, name);
    link.download = "";
    link.textContent = KINDS[name] ?? name;
    row.append(link, " ");
  }
  part("exports").prepend(row);
  const names = SHOWN.filter((name) => content.files.includes(name));
  const fetched = names.map((name) => fetch(fileAddress(content.number, name)));
  const answers = await Promise.all(fetched);
  if (!answers.every((answer) => answer.ok)) return;
  const files = await Promise.all(answers.map((answer) => answer.arrayBuffer()));
  dispatch({ ...content, names }, files);
}

function showLinks(about) {
  if (about.role !== "direct") {
    part("intro").textContent = WATCHING;
    document.body.dataset.role = "watch";
    return;
  }
  const link = `${location.origin}/?film=${about.film}&token=${encodeURIComponent(about.watch)}`;
  const place = document.createElement("a");
  const more = { href: link, textContent: "watch link", target: "_blank", rel: "noopener" };
  Object.assign(place, more);
  part("role").append("For those who only watch: ", place, " ");
  // a browser has no clipboard for a page without TLS from another machine
  if (navigator.clipboard) part("role").append(copyButton(link));
}

function copyButton(link) {
  const copy = document.createElement("button");
  copy.textContent = "Copy";
  copy.onclick = async () => {
    await navigator.clipboard.writeText(link);
    copy.textContent = "Copied";
  };
  return copy;
}

// ---- the connection

function connect() {
  wire = new WebSocket(address);
  wire.binaryType = "arraybuffer";
  waiting = null;
  wire.onmessage = (event) => {
    if (typeof event.data === "string") receiveText(JSON.parse(event.data));
    else receiveBuffer(event.data);
  };
  wire.onclose = reconnect;
}

function receiveText(text) {
  if (text.buffers) waiting = { text, buffers: [] };
  else receive(text, []);
}

function receiveBuffer(data) {
  waiting.buffers.push(new DataView(data));
  if (waiting.buffers.length < waiting.text.buffers) return;
  const { text, buffers } = waiting;
  waiting = null;
  receive(text, buffers);
}

function reconnect() {
  if (refused) return;
  [...pending].forEach(answerUnsure);
  pending.clear();
  document.body.dataset.lost = "yes";
  const pause = RETRY[Math.min(tries, RETRY.length - 1)];
  tries += 1;
  reportGone(LOST);
  setTimeout(connect, pause);
}

connect();
