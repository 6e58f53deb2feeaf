// A room: one WebSocket, opened again with growing pauses when it is lost.
"use strict";

(() => {
  const ALIVE_MS = 30000;
  const FIRST_PAUSE_MS = 500;
  const LONGEST_PAUSE_MS = 15000;

  const room = document.getElementById("room");
  const me = document.getElementById("me").textContent;
  const list = document.getElementById("messages");
  const present = document.getElementById("present");
  const state = document.getElementById("state");
  const form = document.getElementById("say");
  const input = document.getElementById("text");
  const button = document.getElementById("send");

  let socket = null;
  let last = Number(room.dataset.last);
  let pause = FIRST_PAUSE_MS;
  let away = false;

  function show(kind, text) {
    state.className = `state ${kind}`;
    state.textContent = text;
    button.disabled = kind !== "connected";
  }

  function element(name, className, text) {
    const node = document.createElement(name);
    node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function append(node) {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.append(node);
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  function clock(date) {
    return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  }

  function addMessage(message) {
    if (message.id <= last && list.querySelector(`[data-id="${Number(message.id)}"]`)) return;
    last = Math.max(last, message.id);
    const item = element("li", message.user === me ? "message mine" : "message");
    item.dataset.id = message.id;
    const time = element("time", "", clock(new Date(message.sent)));
    time.dateTime = message.sent;
    item.append(element("span", "who", message.user), time, element("p", "", message.text));
    append(item);
  }

  function showPresent(names) {
    present.replaceChildren(...names.map((name) => {
      const item = element("li", "");
      item.append(element("span", "dot on"), name);
      return item;
    }));
  }

  const handlers = {
    history(content) {
      content.messages.forEach(addMessage);
      showPresent(content.present);
    },
    message(content) {
      addMessage(content.message);
    },
    joined(content) {
      showPresent(content.present);
      append(element("li", "event", `${content.user} joined`));
    },
    left(content) {
      showPresent(content.present);
      append(element("li", "event", `${content.user} left`));
    },
    error(content) {
      append(element("li", "event wrong", content.text));
    },
  };

  function connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    let opened = false;
    show("connecting", "Connecting…");
    socket = new WebSocket(`${scheme}//${location.host}/rooms/${room.dataset.slug}/socket/?since=${last}`);
    socket.onopen = () => {
      opened = true;
      pause = FIRST_PAUSE_MS;
      show("connected", "Connected");
    };
    socket.onmessage = (event) => {
      const content = JSON.parse(event.data);
      if (handlers[content.type]) handlers[content.type](content);
    };
    socket.onclose = () => {
      if (away) return;
      const seconds = Math.max(1, Math.round(pause / 1000));
      show(opened ? "connecting" : "refused", `${opened ? "Connection lost" : "Cannot connect"}; again in ${seconds} s`);
      setTimeout(connect, pause);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    };
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text || socket.readyState !== WebSocket.OPEN) return;
    socket.send(JSON.stringify({ text }));
    input.value = "";
  });

  setInterval(() => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ alive: true }));
  }, ALIVE_MS);

  // A page that was left may live on in the browser's history: it leaves the room now and comes back when it is shown again.
  addEventListener("pagehide", () => {
    away = true;
    socket.close();
  });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    away = false;
    connect();
  });

  // The server's clock is UTC; the reader's may not be.
  list.querySelectorAll("time").forEach((time) => { time.textContent = clock(new Date(time.dateTime)); });
  list.scrollTop = list.scrollHeight;
  connect();
})();
