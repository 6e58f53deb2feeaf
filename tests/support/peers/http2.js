// Node.js' own HTTP/2 client, on the chat site.  Its plan: {url, user, password, upload, room}.
//
// All on one session: it logs in, asks for many pages at once, uploads random bytes and downloads them, reads a streamed response while
// another is answered, and talks in a room over a WebSocket that it makes by hand of an extended CONNECT (RFC 8441).  Its report says
// what came of each.
"use strict";
const crypto = require("crypto");
const http2 = require("http2");

const plan = JSON.parse(process.argv[2]);
const session = http2.connect(plan.url);
const cookies = new Map();
const TEXT = 1;
const CLOSE = 8;

session.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});

function fields(path, more = {}) {
  const sent = { ":path": path, "referer": `${plan.url}/`, ...more };
  // One crumb for each cookie (RFC 9113 section 8.2.3).
  if (cookies.size) sent.cookie = [...cookies].map(([name, value]) => `${name}=${value}`);
  return sent;
}

function request(path, { body, ...more } = {}) {
  return new Promise((resolve, reject) => {
    // Django reads no form of several parts without its length.
    if (body !== undefined) more["content-length"] = Buffer.byteLength(body);
    const stream = session.request(fields(path, more));
    const parts = [];
    let head;
    stream.on("error", reject);
    stream.on("response", (received) => {
      head = received;
      for (const cookie of head["set-cookie"] ?? []) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
        cookies.set(name, value);
      }
    });
    stream.on("data", (part) => parts.push(part));
    stream.on("end", () => resolve({ status: head[":status"], head, body: Buffer.concat(parts) }));
    if (body !== undefined) stream.end(body);
    else stream.end();
  });
}

const token = (page) => /name="csrfmiddlewaretoken" value="(\w+)"/.exec(page.body.toString())[1];

async function login() {
  const form = new URLSearchParams({
    username: plan.user, password: plan.password, csrfmiddlewaretoken: token(await request("/accounts/login/")),
  });
  const headers = { ":method": "POST", "content-type": "application/x-www-form-urlencoded" };
  return (await request("/accounts/login/", { ...headers, body: form.toString() })).status;
}

async function parallel() {
  const paths = Array.from({ length: 40 }, (_, index) => ["/", "/uploads/", "/static/rooms/site.css", "/rooms/lobby/"][index % 4]);
  const answers = await Promise.all(paths.map((path) => request(path)));
  return answers.map((answer) => answer.status);
}

async function upload() {
  const content = crypto.randomBytes(plan.upload);
  const boundary = "node-boundary";
  const part = (name, more) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n`;
  const body = Buffer.concat([
    Buffer.from(`${part("csrfmiddlewaretoken", "")}${token(await request("/uploads/"))}\r\n`),
    Buffer.from(part("file", '; filename="node.bin"\r\nContent-Type: application/octet-stream')),
    content,
    Buffer.from(`\r\n--${boundary}--\r\n`),
  ]);
  const answer = await request("/uploads/", {
    ":method": "POST", "accept": "application/json", "content-type": `multipart/form-data; boundary=${boundary}`, body,
  });
  if (answer.status !== 201) throw new Error(`the upload was answered with ${answer.status}: ${answer.body}`);
  const stored = JSON.parse(answer.body);
  const back = await request(`/uploads/${stored.id}/`);
  return {
    status: answer.status,
    size: stored.size,
    intact: stored.sha256 === crypto.createHash("sha256").update(content).digest("hex") && back.body.equals(content),
  };
}

// Resolves with whether a page asked for after the first piece came before the last.
function streaming() {
  return new Promise((resolve, reject) => {
    const stream = session.request(fields("/stream/lines/?count=50&interval=200"));
    let asked = false;
    stream.on("error", reject);
    stream.on("data", () => {
      if (asked) return;
      asked = true;
      request("/").then((page) => {
        resolve({ status: page.status, ended: stream.readableEnded });
        stream.close(http2.constants.NGHTTP2_CANCEL);
      }, reject);
    });
  });
}

function frame(opcode, payload) {
  const mask = crypto.randomBytes(4);
  const head = Buffer.from([0x80 | opcode, 0x80 | payload.length]);
  return Buffer.concat([head, mask, payload.map((byte, index) => byte ^ mask[index % 4])]);
}

function chat() {
  return new Promise((resolve, reject) => {
    const stream = session.request(fields(`/rooms/${plan.room}/socket/`, {
      ":method": "CONNECT", ":protocol": "websocket", "sec-websocket-version": "13", "origin": plan.url,
    }), { endStream: false });
    const report = { types: [] };
    let received = Buffer.alloc(0);
    stream.on("error", reject);
    stream.on("response", (head) => {
      report.status = head[":status"];
      stream.write(frame(TEXT, Buffer.from(JSON.stringify({ text: "from Node.js" }))));
    });
    stream.on("end", () => {
      resolve(report);
      stream.end();
    });
    stream.on("data", (data) => {
      received = Buffer.concat([received, data]);
      while (received.length >= 2) {
        // What the room says is shorter than 64 KiB.
        const long = received[1] === 126;
        if (long && received.length < 4) return;
        const start = long ? 4 : 2;
        const end = start + (long ? received.readUInt16BE(2) : received[1]);
        if (received.length < end) return;
        const opcode = received[0] & 15;
        const payload = received.subarray(start, end);
        received = received.subarray(end);
        if (opcode === CLOSE) {
          report.code = payload.readUInt16BE(0);
        } else if (opcode === TEXT) {
          const content = JSON.parse(payload);
          report.types.push(content.type);
          if (content.type === "message") {
            report.text = content.message.text;
            stream.write(frame(CLOSE, Buffer.from([0x0f, 0xa1])));
          }
        }
      }
    });
  });
}

session.on("remoteSettings", async (settings) => {
  const report = { protocol: session.alpnProtocol, connect: settings.enableConnectProtocol };
  report.login = await login();
  report.parallel = await parallel();
  report.upload = await upload();
  report.streaming = await streaming();
  report.chat = await chat();
  session.close(() => {
    console.log(JSON.stringify(report));
    process.exit(0);
  });
});
process.on("unhandledRejection", (error) => {
  console.error(String(error && error.stack || error));
  process.exit(1);
});
