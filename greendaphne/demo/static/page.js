// What the parts of the page share: finding an element, saying something in a status line, building list items.

export const byId = (id) => document.getElementById(id);

/** Shows `text` in the status line `id`; `problem` gives it the colour of a warning. */
export function say(id, text, problem = false) {
  const line = byId(id);
  line.textContent = text;
  line.dataset.kind = problem ? "problem" : "";
}

/** An element with text and further children; text is never taken for markup. */
export function element(name, { text = "", className = "" } = {}, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

/** Adds `item` to a scrolling list; follows the end only where the reader already is there. */
export function appendAndFollow(list, item) {
  const following = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  if (following) list.scrollTop = list.scrollHeight;
}

const UNITS = ["bytes", "KiB", "MiB", "GiB"];

/** 1536 → "1.5 KiB". */
export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? count : Number(count.toFixed(1))} ${UNITS[unit]}`;
}
