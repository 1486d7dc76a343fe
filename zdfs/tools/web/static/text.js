// What people read, and how it gets into the page: always as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings become text. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same, of SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  set(made, attributes);
  made.append(...children.flat().filter((one) => one !== null && one !== undefined));
  return made;
}

/** Attributes that differ are set; null takes one away. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

/** Text, if it differs: a screen reader says it again otherwise. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** New content for a list, if it is new: `facts` are what it is made from. */
export function renew(element, facts, make) {
  const seen = JSON.stringify(facts);
  if (element.dataset.facts === seen) return false;
  element.dataset.facts = seen;
  element.replaceChildren(...make().filter((one) => one !== null));
  return true;
}

export function size(bytes) {
  let amount = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (amount < 1000 || unit === "TiB") {
      const whole = unit === "B" || amount >= 100 || Number.isInteger(amount);
      return `${whole ? Math.round(amount) : amount.toFixed(1)} ${unit}`;
    }
    amount /= 1024;
  }
  return "";
}

export function rate(bytes) {
  return `${size(bytes)}/s`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 ? Math.round(ms) : ms.toFixed(ms >= 1 ? 1 : 2)} ms`;
}

export function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function moment(ns) {
  const at = new Date(ns / 1e6);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return new Date().toDateString() === at.toDateString() ? time : `${day} ${time}`;
}

/** Facts from the server; an Error with its words when it has none. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("zdfs web does not answer");
  }
  const facts = await answer.json().catch(() => ({ error: `answer ${answer.status}` }));
  if (!answer.ok) throw new Error(facts.error);
  return facts;
}
