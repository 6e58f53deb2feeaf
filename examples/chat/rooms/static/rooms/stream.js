// Shows the lines of a streamed response as they arrive.
"use strict";

document.getElementById("start").addEventListener("click", async (event) => {
  const button = event.target;
  const lines = document.getElementById("lines");
  const progress = document.getElementById("progress");
  let parts = 0;
  // A page that was left may live on in the browser's history; its stream shall not.
  const leaving = new AbortController();
  addEventListener("pagehide", () => leaving.abort(), { once: true });
  button.disabled = true;
  lines.textContent = "";
  try {
    const response = await fetch(button.dataset.url, { signal: leaving.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts += 1;
      lines.textContent += part.value;
      progress.textContent = `${parts} parts so far.`;
    }
    progress.textContent = `Complete: ${parts} parts.`;
  } catch (error) {
    progress.textContent = `Interrupted: ${error.message}`;
  }
  button.disabled = false;
});
