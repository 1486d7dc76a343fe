// The file browser: directories a page at a time, a file as a table of blocks and servers.

import { ask, count, el, moment, renew, say, set, size } from "/static/text.js";
import { MARKS, WORDS } from "/static/ring.js";

const FILE_MS = 1500; // how often an open file is looked at again
const DIRECTORY_MS = 5000;
const SIGNS = { directory: "▸", file: "", link: "→", pipe: "|", socket: "=", device: "#", other: "?" };
const $ = (id) => document.getElementById(id);

/** Where the page is: `#/photos/a.tif?first=30&down=1,2`. */
export function place() {
  const [key, query = ""] = location.hash.slice(1).split("?", 2);
  const more = new URLSearchParams(query);
  const down = (more.get("down") ?? "").split(",").filter((one) => /^\d+$/.test(one)).map(Number);
  return { key: key.startsWith("/") ? key : "/", first: Number(more.get("first")) || 0,
    down: new Set(down) };
}

export function address({ key, first = 0, down }) {
  const more = [];
  if (first) more.push(`first=${first}`);
  if (down && down.size) more.push(`down=${[...down].sort((a, b) => a - b).join(",")}`);
  return `#${key}${more.length ? `?${more.join("&")}` : ""}`;
}

/** What somebody typed, as the server wants it. */
export function typed(text) {
  const names = text.split("/").filter(Boolean);
  return `/${names.map(encodeURIComponent).join("/")}`;
}

export class Files {
  /** `shown(facts)`: a file or a directory is open; `pick(block)`: a block is looked at. */
  constructor(shown, pick) {
    this.shown = shown;
    this.pick = pick;
    this.facts = null;
    this.servers = [];
    this.asked = null;
    this.timer = 0;
    this.pages = 1;
  }

  /** Ask for what the address names, and again after a while. */
  async open() {
    clearTimeout(this.timer);
    this.asked?.abort();
    const mine = new AbortController();
    this.asked = mine;
    const here = place();
    const down = [...here.down].join(",");
    try {
      const facts = await ask(`/api/look?path=${here.key}&first=${here.first}&down=${down}`,
        { signal: mine.signal });
      if (this.asked !== mine) return;
      this.take(facts);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.fail(error, here);
    }
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    if (document.hidden || this.pages > 1) return;
    const wait = this.facts?.kind === "file" ? FILE_MS : DIRECTORY_MS;
    this.timer = setTimeout(() => this.open(), wait);
  }

  take(facts) {
    const moved = this.facts?.key !== facts.key;
    this.facts = facts;
    $("files-error").hidden = true;
    $("files").classList.remove("old");
    this.crumbs(facts);
    if (moved) {
      this.pages = 1;
      $("path").value = decode(facts.key);
    }
    if (facts.kind === "directory") this.directory(facts);
    else if (facts.kind === "file") this.file(facts);
    else renew($("files"), facts, () => [el("p", { class: "quiet" }, `A ${facts.kind}: it has no blocks.`)]);
    this.shown(facts);
  }

  fail(error, here) {
    const wanted = this.facts?.key === here.key ? "" : `${decode(here.key)}: `;
    say($("files-error"), wanted + error.message);
    $("files-error").hidden = false;
    if (wanted && this.facts) {
      this.facts = null;
      renew($("files"), null, () => []);
      renew($("crumbs"), here.key, () => [el("a", { href: address({ key: "/", down: here.down }) }, "/")]);
      this.shown(null);
    }
    $("files").classList.add("old");
  }

  crumbs(facts) {
    const { down } = place();
    renew($("crumbs"), [facts.crumbs, [...down]], () => facts.crumbs.map((one, number, all) => {
      const last = number === all.length - 1;
      return el("a", { href: address({ key: one.key, down }), "aria-current": last ? "page" : null }, one.shown);
    }));
  }

  // --- a directory ---------------------------------------------------------------------------

  directory(facts) {
    const { down } = place();
    renew($("files"), [facts.key, facts.entries, facts.more, [...down]], () => {
      if (!facts.entries.length) return [el("p", { class: "quiet" }, "Nothing is in it.")];
      const body = el("tbody", {}, facts.entries.map((one) => this.entry(facts, one, down)));
      const table = el("table", { class: "listing" }, el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, "Name"), el("th", { scope: "col", class: "number" }, "Size"),
        el("th", { scope: "col", class: "number" }, "Changed"))), body);
      return facts.more ? [table, this.moreButton(facts, body, facts.more)] : [table];
    });
  }

  entry(facts, one, down) {
    const key = `${facts.key === "/" ? "" : facts.key}/${one.key}`;
    const sign = el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[one.kind] ?? "?");
    const name = el("a", { href: address({ key, down }) }, one.name);
    if (one.kind !== "file") name.append(el("span", { class: "sr" }, `, ${one.kind}`));
    return el("tr", {}, el("td", {}, sign, name),
      el("td", { class: "number" }, one.kind === "file" ? size(one.size) : ""),
      el("td", { class: "number quiet" }, moment(one.mtime_ns)));
  }

  moreButton(facts, body, after) {
    const button = el("button", { type: "button", class: "more" }, "Show more");
    button.addEventListener("click", async () => {
      this.pages += 1;
      clearTimeout(this.timer);
      button.disabled = true;
      try {
        const next = await ask(`/api/look?path=${facts.key}&after=${after}`);
        const { down } = place();
        const rows = next.entries.map((one) => this.entry(facts, one, down));
        body.append(...rows);
        rows[0]?.querySelector("a").focus();
        if (next.more) button.replaceWith(this.moreButton(facts, body, next.more));
        else button.remove();
      } catch (error) {
        button.disabled = false;
        say($("files-error"), error.message);
        $("files-error").hidden = false;
      }
    });
    return button;
  }

  // --- a file --------------------------------------------------------------------------------

  file(facts) {
    const scrolled = $("files").querySelector(".scroll")?.scrollTop ?? 0;
    const same = this.drawn === `${facts.key} ${facts.first}`;
    this.drawn = `${facts.key} ${facts.first}`;
    const fresh = renew($("files"), [facts, this.servers.map((one) => [one.address, one.state])], () => [
      el("p", { class: "about" }, ...about(facts)),
      el("p", { class: "verdict", "data-state": verdict(facts, this.servers)[0] }, verdict(facts, this.servers)[1]),
      this.table(facts),
      this.pager(facts),
    ]);
    if (fresh && same && scrolled) $("files").querySelector(".scroll")?.scrollTo(0, scrolled);
  }

  table(facts) {
    if (!facts.blocks.length) {
      return el("p", { class: "quiet" }, facts.size ? "Only holes here: they read as zeros." : "It is empty.");
    }
    const down = new Set(facts.down);
    const few = this.servers.length <= 6;
    const label = (one) => {
      if (one.address.length <= 5 && this.servers.length <= 10) return [one.address];
      if (!few) return [String(one.slot)];
      return [el("span", { class: "wide" }, one.address), el("span", { class: "narrow" }, String(one.slot))];
    };
    const head = el("tr", {}, el("th", { scope: "col" }, "Block"), this.servers.map((one) =>
      el("th", { scope: "col", "data-state": one.state, "data-supposed": down.has(one.slot), title: one.address },
        ...label(one))));
    const rows = facts.blocks.map((block) => {
      const at = new Map(block.replicas.map((one) => [one.slot, one]));
      const row = el("tr", { "data-block": block.block, "data-fate": block.fate },
        el("th", { scope: "row" }, String(block.block)),
        this.servers.map((server) => tableCell(block, at.get(server.slot), down)));
      row.addEventListener("pointerenter", () => this.pick(block.block));
      row.addEventListener("pointerleave", () => this.pick(null));
      return row;
    });
    const table = el("table", { class: "blocks" }, el("thead", {}, head), el("tbody", {}, rows));
    table.style.minWidth = `${60 + this.servers.length * 30}px`;
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Blocks and servers" }, table);
  }

  pager(facts) {
    const { key, first, page, blocks_total: total } = facts;
    if (total <= page) return null;
    const { down } = place();
    const link = (text, to, there) => el("a", { href: there ? address({ key, first: to, down }) : null,
      "aria-disabled": there ? null : "true" }, text);
    return el("nav", { class: "pager", "aria-label": "Pages of blocks" },
      link("◂ earlier", Math.max(0, first - page), first > 0),
      el("span", { class: "quiet" },
        `blocks ${first} to ${Math.min(first + page, total) - 1} of ${total.toLocaleString("en")}`),
      link("later ▸", first + page, first + page < total));
  }

  /** Show which row a block is. */
  mark(block) {
    for (const row of $("files").querySelectorAll("tr[data-block]")) {
      row.classList.toggle("same", block !== null && row.dataset.block === String(block));
    }
  }
}

function decode(key) {
  try {
    return decodeURIComponent(key);
  } catch {
    return key; // not UTF-8: shown as it was sent
  }
}

function about(facts) {
  const holes = facts.holes ? `, ${count(facts.holes, "hole")} here` : "";
  return [el("strong", {}, size(facts.size)), ` in ${count(facts.blocks_total, "block")} of `
    + `${size(facts.block_size)}${holes} · policy ${facts.policy} · inode ${facts.inode}`];
}

/** How the page of blocks is, in a sentence, and how bad. */
function verdict(facts, servers) {
  const { lost, unread } = facts.counts;
  const supposing = facts.down.length > 0;
  const would = supposing ? "would be" : "is";
  const waits = facts.writes_wait ? `; writes to it ${supposing ? "would wait" : "wait"}` : "";
  if (lost) return ["critical", `! ${count(lost, "block")} here ${lost > 1 && !supposing ? "are" : would} lost${waits}.`];
  if (unread) return ["critical", `! ${count(unread, "block")} here can’t be read${supposing ? " then" : ""} (EIO)${waits}.`];
  const bad = facts.blocks.flatMap((block) => block.replicas
    .filter((one) => one.state !== "ok").map((one) => ({ block: block.block, ...one })));
  const name = (slot) => servers[slot]?.address ?? `slot ${slot}`;
  const kinds = ["damaged", "missing", "owed", "down"].map((state) => [state, bad.filter((one) => one.state === state)])
    .filter(([, some]) => some.length);
  if (!kinds.length) {
    const copies = count(3 * facts.blocks.length, "copy", "copies");
    return [waits ? "warning" : "ok", `${waits ? "" : "✓ "}All ${copies} here are good${waits}.`];
  }
  const text = kinds.map(([state, some]) => (some.length === 1
    ? `block ${some[0].block}, replica ${some[0].replica} on ${name(some[0].slot)}: ${WORDS[state]}`
    : `${some.length} copies: ${state === "down" ? "their server is silent" : WORDS[state]}`)).join("; ");
  const heals = kinds.some(([state]) => state === "damaged") ? " A read or a scrub heals damage." : "";
  return [kinds[0][0] === "damaged" ? "critical" : "warning", `${MARKS[kinds[0][0]]} ${text}${waits}.${heals}`];
}

function tableCell(block, replica, down) {
  if (!replica) return el("td", {});
  const bad = MARKS[replica.state];
  const cell = el("td", { class: `copy ${replica.state} ${replica.replica}`, "data-supposed": down.has(replica.slot) },
    `${replica.replica}${bad ? ` ${bad}` : ""}`);
  set(cell, { title: `block ${block.block}, replica ${replica.replica}: ${WORDS[replica.state]}; version ${block.version}` });
  cell.append(el("span", { class: "sr" }, ` ${WORDS[replica.state]}`));
  return cell;
}
