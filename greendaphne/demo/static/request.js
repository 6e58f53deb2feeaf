// Sends a request of the visitor's making and shows the message that the application received.

import { byId, say } from "./page.js";

export function startRequest() {
  const form = byId("request-form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const method = form.elements.method.value;
    const target = form.elements.target.value.trim();
    const separator = target === "" || /^[/?]/.test(target) ? "" : "/";
    say("request-status", "Sending…");
    try {
      const response = await fetch(`/request${separator}${target}`, { method });
      const text = await response.text();
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      // The server escaped every value, and the page's policy lets no script in here run.
      byId("request-message").innerHTML = text;
      say("request-status", "The table shows the request that you just sent.");
    } catch (error) {
      say("request-status", `That did not work: ${error.message}.`, true);
    }
  });
}
