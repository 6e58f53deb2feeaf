// The chat: one WebSocket, its state always visible, reconnected with a growing pause.

import { appendAndFollow, byId, element } from "./page.js";

const FIRST_PAUSE = 1; // seconds
const LONGEST_PAUSE = 30; // seconds
const SHOWN = 200; // messages kept on the page
const STATES = { connecting: "Connecting…", open: "Connected", closed: "Not connected" };
const NAME_KEY = "greendaphne-demo-name";
const ANIMALS = ["Otter", "Heron", "Badger", "Wren", "Lynx", "Newt", "Finch", "Hare"];

export function startChat() {
  const form = byId("chat-form");
  const log = byId("chat-log");
  const button = form.querySelector("button");
  let socket = null;
  let own = null; // the number the server gave this connection
  let attempts = 0; // failed ones since the last success
  let wasOpen = false;
  let timer = null;

  form.elements.name.value = recall() ?? `${ANIMALS[Math.floor(Math.random() * ANIMALS.length)]} ${10 + Math.floor(Math.random() * 90)}`;
  form.elements.name.addEventListener("change", () => remember(form.elements.name.value.trim()));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = form.elements.text.value.trim();
    if (!text || socket?.readyState !== WebSocket.OPEN) return;
    socket.send(JSON.stringify({ name: form.elements.name.value.trim(), text }));
    form.elements.text.value = "";
    form.elements.text.focus();
  });

  byId("chat-retry").addEventListener("click", connect);
  globalThis.addEventListener("online", () => timer && connect());
  // A socket left open would keep the page out of the browser's back/forward cache.
  globalThis.addEventListener("pagehide", () => socket?.close(1000));
  globalThis.addEventListener("pageshow", (event) => event.persisted && connect());
  connect();

  function connect() {
    clearInterval(timer);
    timer = null;
    if (socket && socket.readyState <= WebSocket.OPEN) return;
    byId("chat-notice").hidden = true;
    show("connecting");
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/chat`);
    socket.addEventListener("open", () => {
      attempts = 0;
      wasOpen = true;
      show("open");
    });
    socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
    socket.addEventListener("close", lost);
  }

  function lost() {
    show("closed");
    const reason = wasOpen ? "The connection was lost." : "The live chat could not connect; everything else on this page works without it.";
    const pause = Math.min(FIRST_PAUSE * 2 ** attempts, LONGEST_PAUSE);
    attempts += 1;
    // Up to a quarter at random, so that many windows do not return in the same instant.
    let left = Math.ceil(pause * (1 + Math.random() / 4));
    const tell = () => {
      byId("chat-notice-text").textContent = `${reason} Trying again in ${left} s.`;
    };
    tell();
    byId("chat-notice").hidden = false;
    timer = setInterval(() => {
      left -= 1;
      if (left <= 0) connect();
      else tell();
    }, 1000);
  }

  function show(state) {
    const badge = byId("chat-state");
    badge.dataset.state = state;
    badge.textContent = STATES[state];
    button.disabled = state !== "open";
  }

  function receive(message) {
    switch (message.kind) {
      case "welcome":
        own = message.you;
        log.replaceChildren(...message.history.map(said));
        log.scrollTop = log.scrollHeight;
        people(message.people);
        break;
      case "message":
        add(said(message));
        break;
      case "people":
        people(message.people);
        break;
      case "refused":
        add(element("li", { className: "event", text: message.reason }));
        break;
    }
  }

  function people(count) {
    byId("chat-state").textContent = count === 1 ? "Connected, only you" : `Connected, ${count} windows`;
  }

  function add(item) {
    appendAndFollow(log, item);
    while (log.children.length > SHOWN) log.firstElementChild.remove();
  }

  function said({ from, name, text, time }) {
    const when = new Date(time * 1000);
    const clock = element("time", { text: when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) });
    clock.dateTime = when.toISOString();
    const head = element("header", {}, element("b", { text: name }), clock);
    return element("li", { className: from === own ? "said mine" : "said" }, head, element("p", { text }));
  }
}

// A browser may forbid storage; the name is then remembered for this page only.
function recall() {
  try {
    return localStorage.getItem(NAME_KEY);
  } catch {
    return null;
  }
}

function remember(name) {
  try {
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // Nothing to do: see above.
  }
}
