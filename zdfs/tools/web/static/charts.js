// The last hour, as lines: throughput and latency.

import { ask, el, milliseconds, rate, svg } from "/static/text.js";

const HOUR_MS = 10_000;
const WIDE = 600;
const HIGH = 170;
const LEAST = 60; // steps that are shown even if nobody looked: ten minutes
const LEFT = 64;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 22;
const CHARTS = {
  throughput: { title: "Throughput", text: rate, base: 1024, series: [
    ["read_bytes_per_s", "read", "one"], ["written_bytes_per_s", "written", "two"]] },
  latency: { title: "Latency", text: milliseconds, base: 10, series: [
    ["half_within_ms", "half within", "one"], ["most_within_ms", "99 % within", "two"]] },
};

/** A round number not below, as an axis wants it. */
function round(top, base) {
  if (!(top > 0)) return base === 1024 ? 1024 : 1;
  const unit = base ** Math.floor(Math.log(top) / Math.log(base));
  const steps = base === 1024 ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] : [1, 2, 4, 6, 8, 10];
  return unit * steps.find((one) => one * unit >= top * 0.9999);
}

class Chart {
  constructor(root, { title, text, base, series }) {
    Object.assign(this, { root, text, base, series });
    this.values = series.map(() => el("span", { class: "value" }, "–"));
    this.when = el("span", { class: "quiet" }, "now");
    this.picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title });
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: HIGH - BOTTOM });
    root.append(el("figcaption", {}, el("strong", {}, title), this.when,
      ...series.map(([, name, style], number) => el("span", { class: `line ${style}` },
        svg("svg", { class: "stroke", viewBox: "0 0 20 4", "aria-hidden": "true" },
          svg("line", { class: style, x1: 0, y1: 2, x2: 20, y2: 2 })), `${name} `, this.values[number]))),
    this.picture);
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.read(null));
  }

  show(facts) {
    const known = facts.steps.findIndex(Boolean);
    const least = facts.steps.length - LEAST;
    const steps = facts.steps.slice(known < 0 ? least : Math.min(known, least));
    this.facts = { ...facts, steps };
    const all = this.series.flatMap(([key]) => steps.map((one) => one?.[key] ?? 0));
    this.top = round(Math.max(0, ...all), this.base);
    const x = (number) => LEFT + ((WIDE - LEFT - RIGHT) * number) / (steps.length - 1);
    const y = (value) => HIGH - BOTTOM - ((HIGH - TOP - BOTTOM) * value) / this.top;
    const parts = [0, 0.5, 1].flatMap((part) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(part * this.top), y2: y(part * this.top) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(part * this.top) + 4, "text-anchor": "end" },
        part ? this.text(part * this.top) : "0")]);
    const minutes = (steps.length * facts.step_s) / 60;
    const half = minutes / 2;
    [[`${Math.round(minutes)} min ago`, 0, "start"], [`${half.toFixed(half < 10 ? 1 : 0)} min`, 0.5, "middle"],
      ["now", 1, "end"]].forEach(([text, part, anchor]) =>
      parts.push(svg("text", { class: "tick", x: x(part * (steps.length - 1)), y: HIGH - 5, "text-anchor": anchor }, text)));
    const lines = this.series.map(([key, , style]) => svg("path", { class: `graph ${style}`, d: line(steps, key, x, y) }));
    this.picture.replaceChildren(...parts, ...lines, this.cursor);
    this.read(null);
  }

  point(event) {
    if (!this.facts) return;
    const box = this.picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDE;
    const last = this.facts.steps.length - 1;
    const number = Math.round(((at - LEFT) / (WIDE - LEFT - RIGHT)) * last);
    this.read(Math.max(0, Math.min(last, number)));
  }

  /** The values at a step; null: of the newest. */
  read(number) {
    const { steps, step_s: step } = this.facts;
    const place = number ?? steps.length - 1;
    const back = ((steps.length - 1 - place) * step) / 60;
    this.when.textContent = number === null ? "now" : `${back.toFixed(back < 10 ? 1 : 0)} min ago`;
    this.series.forEach(([key], one) => {
      const value = steps[place]?.[key];
      this.values[one].textContent = value === null || value === undefined ? "–" : this.text(value);
    });
    const x = LEFT + ((WIDE - LEFT - RIGHT) * place) / (steps.length - 1);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("class", number === null ? "cursor away" : "cursor");
  }
}

function line(steps, key, x, y) {
  let drawn = "";
  let gap = true;
  steps.forEach((one, number) => {
    const value = one?.[key];
    if (value === null || value === undefined) {
      gap = true;
      return;
    }
    const alone = gap && (steps[number + 1]?.[key] ?? null) === null;
    drawn += `${gap ? "M" : "L"}${x(number).toFixed(1)} ${y(value).toFixed(1)}${alone ? "h0.1" : ""}`;
    gap = false;
  });
  return drawn;
}

export class Charts {
  constructor(root, note) {
    this.note = note;
    this.charts = Object.entries(CHARTS).map(([id, kind]) => new Chart(root(id), kind));
    this.timer = 0;
  }

  /** Ask now, and again and again while somebody looks. */
  async look() {
    clearTimeout(this.timer);
    try {
      const facts = await ask("/api/hour");
      this.charts.forEach((one) => one.show(facts));
      const seen = facts.steps.filter(Boolean).length;
      this.note.textContent = seen ? "all dataservers together: a write counts on each of its three" : "nothing was counted yet";
    } catch (error) {
      this.note.textContent = error.message;
    }
    if (!document.hidden) this.timer = setTimeout(() => this.look(), HOUR_MS);
  }

  rest() {
    clearTimeout(this.timer);
  }
}
