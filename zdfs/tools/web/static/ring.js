// The ring: a node for each server; inside of it, the open file's blocks, replica by replica.
//
// Each server has a sector.  Blocks come in groups of as many as there are servers; a group is a
// track, and in each sector of it stand one replica a, one b and one c.  So the three cells of a
// block go up a stair, clockwise.

import { duration, rate, set, size, svg } from "/static/text.js";

const MIDDLE = 320;
const NODES_R = 266;
const OUTER_R = 212;
const INNER_R = 72;
const MARKS = { damaged: "✕", missing: "–", owed: "…", down: "?" };
const WORDS = {
  ok: "good", damaged: "damaged", missing: "missing", owed: "owed", down: "its server is silent",
};

function at(radius, angle) {
  return [MIDDLE + radius * Math.sin(angle), MIDDLE - radius * Math.cos(angle)];
}

function point(radius, angle) {
  return at(radius, angle).map((one) => one.toFixed(2)).join(" ");
}

/** A piece of a ring between two radii and two angles. */
function piece(low, high, from, to) {
  return `M${point(high, from)}A${high} ${high} 0 0 1 ${point(high, to)}`
    + `L${point(low, to)}A${low} ${low} 0 0 0 ${point(low, from)}Z`;
}

function arc(x, y, radius, part) {
  const turn = Math.min(0.9999, Math.max(0, part)) * 2 * Math.PI;
  const end = `${(x + radius * Math.sin(turn)).toFixed(2)} ${(y - radius * Math.cos(turn)).toFixed(2)}`;
  return `M${x.toFixed(2)} ${(y - radius).toFixed(2)}A${radius} ${radius} 0 ${turn > Math.PI ? 1 : 0} 1 ${end}`;
}

/** How much of a rebuild is done, in percent; null: there is none. */
function rebuilt({ rebuild }) {
  return rebuild && rebuild.total_bytes ? Math.floor((100 * rebuild.done_bytes) / rebuild.total_bytes) : null;
}

/** A server's state in words. */
export function stateText(server) {
  if (rebuilt(server) !== null) return `rebuild ${rebuilt(server)} %`;
  return { recovering: "recovering", joining: "joining" }[server.state] ?? server.state;
}

export class Ring {
  /** `toggle(slot)`: a server was chosen; `pick(block)`: a block is looked at, or null. */
  constructor(root, toggle, pick) {
    this.root = root;
    this.toggle = toggle;
    this.pick = pick;
    this.servers = [];
    this.down = new Set();
    this.file = null;
    this.current = 0;
    this.nodes = [];
    this.cells = svg("g", { class: "cells", "aria-hidden": "true" });
    this.centre = svg("g", { class: "centre" });
    this.circle = svg("circle", { class: "line", cx: MIDDLE, cy: MIDDLE, r: NODES_R });
    this.group = svg("g", {});
    const hatch = svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)" }, svg("rect", { class: "hatch-back", width: 6, height: 6 }),
    svg("rect", { class: "hatch-line", width: 2.2, height: 6 }));
    root.append(svg("defs", {}, hatch), this.circle, this.cells, this.centre, this.group);
    root.addEventListener("keydown", (event) => this.key(event));
  }

  /** The servers as they are, and which are supposed down. */
  show(servers, down) {
    this.down = down;
    if (servers.length !== this.servers.length) this.build(servers.length);
    this.servers = servers;
    servers.forEach((server, slot) => this.update(this.nodes[slot], server));
    this.tell();
  }

  build(count) {
    const room = (Math.PI * 2 * NODES_R) / Math.max(count, 3);
    this.radius = Math.max(5, Math.min(46, room / 2 - 5));
    this.nodes = [];
    this.current = 0;
    for (let slot = 0; slot < count; slot += 1) {
      const [x, y] = at(NODES_R, (slot * 2 * Math.PI) / count);
      const r = this.radius;
      const parts = {
        plate: svg("circle", { class: "plate", cx: x, cy: y, r }),
        rail: svg("circle", { class: "rail", cx: x, cy: y, r: r - 4 }),
        used: svg("path", { class: "used" }),
        cross: svg("path", { class: "cross",
          d: `M${x - r * 0.7} ${y - r * 0.7}L${x + r * 0.7} ${y + r * 0.7}` }),
        name: svg("text", { class: "name", x, y: y - 5 }),
        state: svg("text", { class: "state", x, y: y + 9 }),
        load: svg("text", { class: "load", x, y: y + 22 }),
        tip: svg("title"),
      };
      const node = svg("g", { class: "node", role: "button", tabindex: slot ? -1 : 0,
        "data-slot": slot }, ...Object.values(parts));
      node.addEventListener("click", () => { this.focus(slot); this.toggle(slot); });
      node.addEventListener("focus", () => { this.current = slot; });
      this.nodes.push(Object.assign(parts, { node, x, y }));
    }
    this.group.replaceChildren(...this.nodes.map((one) => one.node));
  }

  update(parts, server) {
    const supposed = this.down.has(server.slot);
    const used = server.total_bytes ? 1 - server.free_bytes / server.total_bytes : 0;
    const state = stateText(server);
    const load = server.load ? rate(server.load.read_bytes_per_s + server.load.written_bytes_per_s) : "";
    set(parts.node, {
      "data-state": server.state, "data-supposed": supposed, "aria-pressed": supposed,
      "aria-label": `dataserver ${server.address}, slot ${server.slot}, ${state}, `
        + `${size(server.free_bytes)} of ${size(server.total_bytes)} free`
        + `${load && `, ${load}`}${supposed ? ", supposed down" : ""}`,
    });
    const wide = this.radius >= 30;
    set(parts.used, { d: this.radius > 10 ? arc(parts.x, parts.y, this.radius - 4, used) : "",
      "data-full": used > 0.9 });
    const label = server.address.length <= 6 ? server.address : `slot ${server.slot}`;
    parts.name.textContent = this.radius >= 20 ? label : "";
    parts.state.textContent = wide ? (supposed ? "if down" : rebuilt(server) === null ? state : `↻ ${rebuilt(server)} %`) : "";
    parts.load.textContent = wide ? load : "";
    const seen = server.last_seen_s > 3 ? `, last heard ${duration(server.last_seen_s)} ago` : "";
    parts.tip.textContent = `dataserver ${server.address} (slot ${server.slot}): ${state}${seen}`;
  }

  // --- the open file -------------------------------------------------------------------------

  /** A page of a file's blocks; null: none is open. */
  open(file) {
    this.file = file && file.kind === "file" ? file : null;
    this.draw();
    this.tell();
  }

  draw() {
    const file = this.file;
    const count = this.servers.length;
    if (!file || !count) {
      this.cells.replaceChildren();
      return;
    }
    const shown = Math.min(file.page, file.blocks_total - file.first);
    const tracks = Math.max(1, Math.ceil(shown / count));
    const sector = (2 * Math.PI) / count;
    const column = (sector * 0.92) / 3;
    const deep = Math.min(36, (OUTER_R - INNER_R) / tracks);
    const made = [];
    for (const block of file.blocks) {
      const track = Math.floor((block.block - file.first) / count);
      block.replicas.forEach((replica, place) => {
        const from = replica.slot * sector - sector * 0.46 + place * column;
        const high = OUTER_R - track * deep;
        made.push(this.cell(block, replica, from, from + column, high - deep, high));
      });
    }
    this.cells.replaceChildren(...made);
  }

  cell(block, replica, from, to, low, high) {
    const middle = (low + high) / 2;
    const gap = 1.2 / middle;
    const [x, y] = at(middle, (from + to) / 2);
    const wide = middle * (to - from);
    const bad = MARKS[replica.state];
    const gone = block.fate !== "fine";
    const mark = bad ?? (gone ? "!" : `${block.block}${Math.min(wide, high - low) > 26 ? replica.replica : ""}`);
    const shown = wide > 17 && high - low > 10;
    const cell = svg("g", { class: `cell ${replica.state} ${replica.replica}`, "data-block": block.block,
      "data-replica": replica.replica, "data-slot": replica.slot, "data-fate": block.fate,
      "data-supposed": this.down.has(replica.slot) },
    svg("path", { d: piece(low + 1.2, high - 1.2, from + gap, to - gap) }),
    shown ? svg("text", { x: x.toFixed(1), y: (y + 3.6).toFixed(1) }, mark) : null,
    svg("title", {}, `block ${block.block}, replica ${replica.replica} on slot ${replica.slot}: `
      + WORDS[replica.state]));
    cell.addEventListener("pointerenter", () => this.pick(block.block));
    cell.addEventListener("pointerleave", () => this.pick(null));
    return cell;
  }

  /** Show where a block's three replicas are. */
  mark(block) {
    this.root.classList.toggle("picked", block !== null);
    for (const cell of this.cells.children) {
      cell.classList.toggle("same", block !== null && cell.dataset.block === String(block));
    }
  }

  /** What stands in the middle. */
  tell() {
    const up = this.servers.filter((one) => one.state !== "down").length;
    let lines = [`${up} of ${this.servers.length}`, "servers are up", "Open a file to see its blocks here"];
    if (this.file) {
      const name = this.file.crumbs[this.file.crumbs.length - 1].shown;
      lines = [name.length > 16 ? `${name.slice(0, 9)}…${name.slice(-6)}` : name,
        `${this.file.blocks_total} blocks`];
    }
    if (!this.servers.length) lines = ["", "", ""];
    const seen = lines.join("\n");
    if (this.told === seen) return;
    this.told = seen;
    this.centre.replaceChildren(
      svg("text", { class: this.file ? "file" : "big", x: MIDDLE, y: MIDDLE - 1 }, lines[0]),
      svg("text", { class: "small", x: MIDDLE, y: MIDDLE + 19 }, lines[1]),
      svg("text", { class: "small", x: MIDDLE, y: MIDDLE + 60 }, lines[2] ?? ""));
  }

  // --- the keyboard --------------------------------------------------------------------------

  focus(slot) {
    const old = this.nodes[this.current];
    this.current = slot;
    if (old) set(old.node, { tabindex: -1 });
    set(this.nodes[slot].node, { tabindex: 0 });
    this.nodes[slot].node.focus();
  }

  key(event) {
    const count = this.nodes.length;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!count || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in steps) this.focus((this.current + steps[event.key] + count) % count);
    else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(count - 1);
    else if (event.key === "Enter" || event.key === " ") this.toggle(this.current);
    else return;
    event.preventDefault();
  }
}

export { MARKS, WORDS };
