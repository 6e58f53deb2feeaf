// A WebSocket client of the package ws.  Its plan: {url, compression, task, ...}; its report depends on the task:
//   echo       {sizes}: sends text and bytes of each size and compares what comes back; reports what was negotiated and what differed.
//   fragments  {parts}: sends one text message and one binary message in these parts; reports how long what came back is, in order.
//   close      {code, reason}: closes, with no code where it is null; reports the code and the reason that the server answered with.
//   closed     {ask}: sends this text, which makes the server close; reports its code and reason.
//   vanish     ends the TCP connection without a word.
"use strict";
const crypto = require("crypto");
const WebSocket = require("ws");

const plan = JSON.parse(process.argv[2]);
const socket = new WebSocket(plan.url, { perMessageDeflate: plan.compression, maxPayload: 0 });
const arrived = [];
const waiting = [];
let closed = null;

socket.on("message", (data, binary) => {
  const waiter = waiting.shift();
  if (waiter) waiter({ data, binary });
  else arrived.push({ data, binary });
});
const end = new Promise((resolve) => socket.on("close", (code, reason) => {
  closed = { code, reason: reason.toString() };
  resolve(closed);
}));
socket.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});

const receive = () => arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve));
const send = (data, options = {}) => new Promise((resolve, reject) => {
  socket.send(data, options, (error) => error ? reject(error) : resolve());
});

const tasks = {
  async echo() {
    const different = [];
    for (const size of plan.sizes) {
      // Random for a stretch, so that no two pieces are alike within it, and then the same again.
      const bytes = Buffer.alloc(size, crypto.randomBytes(Math.min(size, 4099)));
      const text = bytes.toString("hex").slice(0, size);
      await send(text);
      const back = await receive();
      if (back.binary || back.data.toString() !== text) different.push(`text of ${size}`);
      await send(bytes);
      const again = await receive();
      if (!again.binary || !again.data.equals(bytes)) different.push(`bytes of ${size}`);
    }
    const extensions = socket.extensions;
    socket.close(1000);
    return { extensions, different, ...(await end) };
  },
  async fragments() {
    const lengths = [];
    for (const binary of [false, true]) {
      for (const [index, size] of plan.parts.entries()) {
        await send(Buffer.alloc(size, 65 + index), { binary, fin: index === plan.parts.length - 1 });
      }
      const { data, binary: kind } = await receive();
      lengths.push([kind ? "bytes" : "text", data.length]);
    }
    socket.close(1000);
    await end;
    return lengths;
  },
  async close() {
    if (plan.code === null) socket.close();
    else socket.close(plan.code, plan.reason);
    return end;
  },
  async closed() {
    await send(plan.ask);
    return end;
  },
  async vanish() {
    socket.terminate();
    return end;
  },
};

socket.on("open", async () => {
  console.log(JSON.stringify(await tasks[plan.task]()));
  process.exit(0);
});
