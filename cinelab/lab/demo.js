import desk from "/desk.js";

const here = new URLSearchParams(location.search);
const wire = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/wire?${here}`);
wire.binaryType = "arraybuffer";
const heard = { "msg:custom": new Set(), "change:view": new Set() }, state = {};
let waiting = null;

// What a desk asks of a notebook's model, over a websocket.
const model = {
  get: name => state[name],
  on: (event, call) => heard[event]?.add(call),
  off: (event, call) => heard[event]?.delete(call),
  send: content => wire.readyState === 1 && wire.send(JSON.stringify(content)),
};
const say = text => { const gone = document.getElementById("gone"); gone.textContent = text; gone.style.display = "block"; };

function take(text, buffers) {
  if (text.full) return say(text.full);
  if (text.about) {
    Object.assign(state, { about: text.about, view: text.view });
    desk.render({ model, el: document.getElementById("desk") });
    document.body.dataset.ready = "yes";
  } else if (text.view) {
    state.view = text.view;
    heard["change:view"].forEach(call => call());
  } else if (text.custom) {
    heard["msg:custom"].forEach(call => call(text.custom, buffers));
  }
}
wire.onmessage = event => {
  if (typeof event.data === "string") {
    const text = JSON.parse(event.data);
    if (text.buffers) waiting = { text, buffers: [] };
    else take(text, []);
  } else {
    waiting.buffers.push(new DataView(event.data));
    if (waiting.buffers.length === waiting.text.buffers) { const { text, buffers } = waiting; waiting = null; take(text, buffers); }
  }
};
wire.onclose = () => state.about && say("The connection has ended; reload this page to go on with your film.");
