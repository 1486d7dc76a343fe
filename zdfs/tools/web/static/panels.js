// The cluster in words: headline, reasons, servers, checks, events, the cost of an outage.

import { ask, count, duration, el, moment, rate, renew, say, set, size } from "/static/text.js";
import { stateText } from "/static/ring.js";

const $ = (id) => document.getElementById(id);
const SIGNS = { ok: "✓", warning: "!", critical: "✕" };
const SHOWN = 200; // events
const REASONS = 3; // that are shown without being asked for
const BAD = new Set(["down", "lost", "damage", "lost disk", "blocked", "full", "metadata damage", "old"]);
const GOOD = new Set(["up", "repaired", "rebuilt", "unblocked", "room", "mended"]);

export function headline(facts) {
  const { health, metaserver } = facts;
  const worst = health.checks.filter((one) => one.state === health.state && one.state !== "ok");
  const up = facts.servers.filter((one) => one.state !== "down").length;
  let text = "All is well";
  if (metaserver.refusal) text = "The metaserver does not tell us";
  else if (!metaserver.answers) text = "The metaserver does not answer";
  else if (facts.note) text = "The cluster can’t serve yet";
  else if (facts.blocked.length) text = "Writes wait";
  else if (up < facts.servers.length) text = `${count(facts.servers.length - up, "server is", "servers are")} down`;
  else if (facts.servers.some((one) => one.rebuild)) text = "A server is being rebuilt";
  else if (worst.length) text = `It works, and somebody should look at: ${worst.map((one) => one.name).join(", ")}`;
  say($("headline"), text);
  document.title = `${text} · zdfs`;
  document.querySelector(".headline").dataset.state = metaserver.answers ? health.state : "critical";
  say($("subline"), subline(facts, up));
  const reasons = facts.reasons.length ? facts.reasons : worst.map((one) => (
    { kind: one.name, what: one.text, since_s: null, unblock: one.advice }));
  const rounded = reasons.map((one) => ({ ...one, since_s: Math.round(one.since_s ?? -1) }));
  const open = $("reasons").querySelector("details")?.open ?? false;
  renew($("reasons"), rounded, () => {
    const made = reasons.map(reason);
    const rest = made.splice(REASONS);
    if (!rest.length) return made;
    const more = el("summary", {}, `and ${rest.length} more`);
    return [...made, el("li", {}, el("details", { open: open ? "" : null }, more, el("ul", { class: "reasons" }, rest)))];
  });
}

function reason(one) {
  return el("li", {}, el("p", {}, one.what, one.since_s === null ? "" : `, for ${duration(one.since_s)}`),
    el("p", { class: "quiet advice" }, el("strong", {}, "What to do: "), one.unblock));
}

function subline(facts, up) {
  if (!facts.known) return `Asking ${facts.metaserver.address}; nothing is known yet.`;
  if (!facts.metaserver.answers) {
    return `What is shown is what it said ${duration(facts.metaserver.age_s)} ago.`;
  }
  if (facts.note) return facts.note;
  const free = Math.min(...facts.servers.map((one) => (one.total_bytes ? one.free_bytes : Infinity)));
  const room = Number.isFinite(free) ? ` · ${size(free)} free on the fullest` : "";
  const waits = new Set(facts.blocked.map((one) => one.mount));
  const writes = waits.size ? `writes wait on ${[...waits].join(", ")}` : "no writer is known to wait";
  return `${up} of ${count(facts.servers.length, "dataserver")} up · ${writes} · `
    + `${count(facts.mounts.length, "mount")}${room}`;
}

// --- servers -----------------------------------------------------------------------------------

export function servers(facts) {
  renew($("servers"), facts.servers.map((one) => ({ ...one, last_seen_s: seen(one) })), () => facts.servers.map(row));
}

function seen(one) {
  return one.last_seen_s === null ? "never heard" : one.last_seen_s > 3 ? `silent for ${duration(one.last_seen_s)}` : "";
}

function row(one) {
  const used = one.total_bytes ? 1 - one.free_bytes / one.total_bytes : 0;
  const cell = (label, ...content) => el("td", { "data-label": label }, ...content);
  const load = one.load ? [el("span", {}, `${rate(one.load.read_bytes_per_s)} read`), el("br"),
    el("span", {}, `${rate(one.load.written_bytes_per_s)} written`)] : [el("span", { class: "quiet" }, "–")];
  return el("tr", { "data-state": one.state, "data-slot": one.slot },
    cell("Slot", String(one.slot)),
    el("th", { scope: "row", "data-label": "Address" }, one.address,
      one.keeps_names ? el("span", { class: "tag", title: "It has a copy of the metadata" }, "names") : null),
    cell("State", el("span", { class: "badge", "data-state": one.state }, stateText(one)),
      seen(one) ? el("span", { class: "quiet" }, ` ${seen(one)}`) : null),
    cell("Space", bar(used, `${size(one.free_bytes)} free of ${size(one.total_bytes)}`, used > 0.9)),
    cell("Blocks", one.blocks.toLocaleString("en"), damage(one)),
    cell("Load", ...load),
    cell("Rebuild and scrub", ...work(one)));
}

function bar(part, text, bad = false) {
  const made = el("progress", { max: 1, value: part.toFixed(4), "data-bad": bad, "aria-label": text });
  return el("span", { class: "bar" }, made, el("span", {}, text));
}

function damage(one) {
  const left = one.damaged - one.repaired;
  if (left > 0) return el("span", { class: "tag bad" }, `✕ ${left} damaged`);
  return one.repaired ? el("span", { class: "tag" }, `${one.repaired} repaired`) : null;
}

function work(one) {
  const made = [];
  if (one.rebuild) {
    const { done, total, done_bytes: bytes, total_bytes: all, bytes_per_s: speed, eta_s: eta } = one.rebuild;
    const left = eta === null ? "" : `, ${duration(eta)} left`;
    const text = `rebuilt ${done.toLocaleString("en")} of ${count(total, "block")}, ${rate(speed)}${left}`;
    made.push(bar(all ? bytes / all : 1, text));
  }
  if (one.owed.replicas) made.push(el("p", {}, `owed ${count(one.owed.replicas, "copy", "copies")}, ${size(one.owed.bytes)}`));
  const scrub = one.scrub;
  if (scrub?.underway) {
    made.push(bar(scrub.total_bytes ? scrub.done_bytes / scrub.total_bytes : 0,
      `scrub: ${size(scrub.done_bytes)} of ${size(scrub.total_bytes)} read`));
  } else if (scrub?.ended_ns) {
    const found = scrub.found ? `; found ${scrub.found}, healed ${scrub.healed}` : "";
    made.push(el("span", { class: "quiet" }, `scrubbed ${moment(scrub.ended_ns)}${found}`));
  }
  return made.length ? made : [el("span", { class: "quiet" }, "–")];
}

// --- checks and events -------------------------------------------------------------------------

export function checks(facts) {
  const { health } = facts;
  say($("checks-sum"), health.bad ? `${health.bad} of ${health.checks.length} ask for something` : "all is well");
  renew($("checks"), health.checks, () => health.checks.map((one) => el("li", { "data-state": one.state },
    el("span", { class: "sign", "aria-label": one.state, role: "img" }, SIGNS[one.state]),
    el("div", {}, el("strong", {}, one.name), ` ${one.text}`,
      one.advice ? el("p", { class: "quiet" }, one.advice) : null))));
}

let newest = 0;

export async function events(facts) {
  if (facts.last_event === newest) return;
  try {
    const told = await ask(`/api/events?after=${newest}`);
    const fresh = told.events.filter((one) => one.number > newest);
    if (!fresh.length) return;
    newest = fresh[fresh.length - 1].number;
    $("events").prepend(...fresh.reverse().map((one) => el("li", {
      "data-kind": BAD.has(one.kind) ? "bad" : GOOD.has(one.kind) ? "good" : "plain" },
    el("time", { datetime: new Date(one.at_ns / 1e6).toISOString() }, moment(one.at_ns)),
    el("span", { class: "kind" }, one.kind), el("span", {}, one.text))));
    while ($("events").children.length > SHOWN) $("events").lastChild.remove();
  } catch {
    // the next snapshot asks again
  }
}

// --- what if? ----------------------------------------------------------------------------------

export class Cost {
  constructor() {
    this.asked = "";
    this.number = 0;
  }

  /** What it would cost if these servers were down; asks once for each set. */
  async show(down, servers) {
    const slots = [...down].sort((a, b) => a - b);
    $("cost").hidden = !slots.length;
    $("ring-hint").hidden = slots.length > 0;
    const wanted = slots.join(",");
    if (wanted === this.asked) return;
    this.asked = wanted;
    if (!slots.length) return;
    const names = slots.map((slot) => servers[slot]?.address ?? `slot ${slot}`);
    say($("cost-title"), `If ${names.join(", ")} went down`);
    $("cost-text").replaceChildren(el("p", { class: "quiet" }, "Counting blocks…"));
    this.number += 1;
    const mine = this.number;
    try {
      const facts = await ask(`/api/cost?down=${wanted}`);
      if (mine === this.number) $("cost-text").replaceChildren(...told(facts));
    } catch (error) {
      if (mine !== this.number) return;
      this.asked = "";
      $("cost-text").replaceChildren(el("p", { class: "error" }, error.message));
    }
  }
}

function told(facts) {
  const { writes, reads, data, files } = facts;
  const names = facts.names === "go on" ? "names go on" : "changes of names would wait, too";
  const waits = !writes.files ? "go on" : writes.files === files ? `would wait, to every file (${files})`
    : `would wait, to ${writes.files} of ${count(files, "file")}`;
  const line = (state, title, text) => el("li", { "data-state": state },
    el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[state]), el("div", {}, el("strong", {}, title), ` ${text}`));
  const lines = [line(writes.files ? "warning" : "ok", "Writes", `${waits}; ${names}.`),
    loss("Reads", reads, "would be EIO until one is back", `of all ${files} files go on.`),
    loss("Data", data, "would be gone if those disks never came back", "would be safe without those disks.")];
  const away = facts.already_down.map((one) => one.address);
  if (away.length) lines.push(line("warning", "Counted with it", `${away.join(", ")}, down as it is.`));
  const partial = facts.not_whole.map((one) => one.address);
  if (partial.length) lines.push(line("warning", "Not known to be whole", `${partial.join(", ")}.`));
  if (facts.metaserver_restart !== "serves") {
    lines.push(line("warning", "Names", "a metaserver that starts anew meanwhile would serve reads only."));
  }
  const named = data.named.length ? data.named : reads.named;
  const links = named.filter((one) => one.key).slice(0, 5).map((one) =>
    el("li", {}, el("a", { href: `#${one.key}?down=${facts.down.map((each) => each.slot).join(",")}` }, one.shown),
      el("span", { class: "quiet" }, ` ${count(one.blocks, "block")}`)));
  return [el("ul", { class: "checks" }, lines), links.length ? el("ul", { class: "hit" }, links) : null].filter(Boolean);

  function loss(title, of, bad, good) {
    if (of.blocks) {
      return line("critical", title, `${count(of.blocks, "block")} (${size(of.bytes)}) of ${count(of.files, "file")} ${bad}.`);
    }
    if (of.unsure_blocks) {
      return line("warning", title, `perhaps ${count(of.unsure_blocks, "block")} of ${count(of.unsure_files, "file")} ${bad}.`);
    }
    return line("ok", title, good);
  }
}

export function about(facts) {
  say($("cluster"), facts.cluster ? `cluster ${facts.cluster.slice(0, 8)} · metaserver ${facts.metaserver.address} · policy ${facts.policy}` : "");
  set($("page"), { "data-silent": !facts.metaserver.answers });
}
