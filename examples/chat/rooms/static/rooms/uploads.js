// Sends the file in the background to show how far it is; without JavaScript the form does the same work.
"use strict";

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.id !== "upload") return;
  event.preventDefault();
  const progress = form.querySelector("progress");
  const button = form.querySelector("button");
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.upload.onprogress = (step) => { progress.value = step.lengthComputable ? step.loaded / step.total : 0; };
  request.onload = () => {
    // The page with the file in its list, or the one with the form's errors.
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    document.querySelector("main").replaceChildren(...page.querySelector("main").childNodes);
  };
  request.onerror = () => {
    progress.hidden = true;
    button.disabled = false;
    alert("The file did not get through. Please try again.");
  };
  const body = new FormData(form);
  progress.hidden = false;
  button.disabled = true;
  request.send(body);
});
