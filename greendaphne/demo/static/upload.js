// Uploads a file as the request's body, shows the progress and compares the server's digest with the browser's own.

import { byId, bytes, say } from "./page.js";

const SAMPLE_SIZE = 16 * 1024 * 1024;
// crypto.getRandomValues gives at most this much at a time.
const RANDOM_STEP = 65536;
// The browser digests a body only in one piece, in memory.
const DIGEST_LIMIT = 64 * 1024 * 1024;

export function startUpload() {
  const form = byId("upload-form");
  const cancel = byId("upload-cancel");
  const progress = byId("upload-progress");
  const submit = form.querySelector('button[type="submit"]');
  const sample = byId("upload-sample");
  let current = null;

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = form.elements.file.files[0];
    if (file) send(file);
    else say("upload-status", "Choose a file first.", true);
  });
  sample.addEventListener("click", () => send(randomBlob(SAMPLE_SIZE)));
  cancel.addEventListener("click", () => current?.abort());

  function busy(is) {
    submit.disabled = sample.disabled = is;
    cancel.hidden = progress.hidden = !is;
  }

  function send(blob) {
    const request = new XMLHttpRequest();
    const begun = performance.now();
    current = request;
    progress.value = 0;
    byId("upload-result").hidden = true;
    busy(true);
    say("upload-status", `Sending ${bytes(blob.size)}…`);

    request.upload.addEventListener("progress", ({ loaded, total }) => {
      progress.value = total ? (100 * loaded) / total : 0;
      say("upload-status", loaded < total ? `Sent ${bytes(loaded)} of ${bytes(total)}.` : "All sent. The consumer is reading…");
    });
    request.addEventListener("load", async () => {
      busy(false);
      if (request.status === 200) await showResult(JSON.parse(request.responseText), blob, (performance.now() - begun) / 1000);
      else if (request.status === 413) say("upload-status", "The server refused it: the file is larger than its limit.", true);
      else say("upload-status", `The server answered ${request.status}.`, true);
    });
    request.addEventListener("error", () => {
      busy(false);
      say("upload-status", "The upload did not get through. The server may refuse bodies of this size.", true);
    });
    request.addEventListener("abort", () => {
      busy(false);
      say("upload-status", "Cancelled.");
    });
    request.open("POST", "/upload");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.send(blob);
  }
}

async function showResult(answer, blob, seconds) {
  byId("upload-size").textContent = `${bytes(answer.size)} (${answer.size.toLocaleString("en")} bytes) in ${seconds.toFixed(2)} s`;
  byId("upload-digest").textContent = answer.sha256;
  byId("upload-way").textContent =
    answer.pieces === 0 ? "inside the http.request message" : `in ${answer.pieces} messages on the request's body channel`;
  byId("upload-result").hidden = false;
  const own = await digest(blob);
  if (own === null) say("upload-status", "Arrived.");
  else if (own === answer.sha256) say("upload-status", "Arrived whole: your browser computed the same SHA-256.");
  else say("upload-status", "Your browser computed another SHA-256 than the server.", true);
}

/** The hexadecimal SHA-256 of `blob`; null where the browser cannot tell. */
async function digest(blob) {
  if (!globalThis.crypto?.subtle || blob.size > DIGEST_LIMIT) return null;
  const hash = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function randomBlob(size) {
  const pieces = [];
  for (let made = 0; made < size; made += RANDOM_STEP) {
    pieces.push(crypto.getRandomValues(new Uint8Array(Math.min(RANDOM_STEP, size - made))));
  }
  return new Blob(pieces);
}
