// Reads /stream while it arrives and shows each line with the time since the request left.

import { appendAndFollow, byId, element, say } from "./page.js";

export function startStream() {
  const start = byId("stream-start");
  const stop = byId("stream-stop");
  const list = byId("stream-lines");
  let controller = null;

  start.addEventListener("click", async () => {
    controller = new AbortController();
    start.disabled = true;
    stop.disabled = false;
    list.replaceChildren();
    say("stream-status", "Waiting for the first line…");
    const begun = performance.now();
    let count = 0;
    const show = (line) => {
      count += 1;
      const seconds = ((performance.now() - begun) / 1000).toFixed(2);
      appendAndFollow(list, element("li", {}, element("time", { text: `${seconds} s` }), element("span", { text: line })));
      say("stream-status", "Arriving…");
    };
    try {
      const response = await fetch("/stream", { signal: controller.signal, cache: "no-store" });
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      await eachLine(response.body, show);
      say("stream-status", `Complete: ${count} lines in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
    } catch (error) {
      if (error.name === "AbortError") say("stream-status", `Stopped after ${count} lines. The consumer was told and stopped too.`);
      else say("stream-status", `The stream ended early: ${error.message}.`, true);
    } finally {
      start.disabled = false;
      stop.disabled = true;
    }
  });

  stop.addEventListener("click", () => {
    controller?.abort();
    start.disabled = false;
    start.focus();
  });
}

/** Calls `show` with each line of `body` as soon as it is complete. */
async function eachLine(body, show) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(show);
  }
  if (rest) show(rest);
}
