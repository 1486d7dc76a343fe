// The page: listens to the snapshots, knows where one is, and says how old it all is.

import { Charts } from "/static/charts.js";
import { Files, address, place, typed } from "/static/files.js";
import * as panels from "/static/panels.js";
import { Ring } from "/static/ring.js";
import { duration, say, set } from "/static/text.js";

const OLD_MS = 2500; // a snapshot comes each second
const DEAD_MS = 8000; // a connection that says nothing for so long is made anew
const $ = (id) => document.getElementById(id);

let facts = null; // the newest snapshot
let heard = 0; // when it came
let source = null;
let since = 0; // when we last tried to connect
let token = "";

const cost = new panels.Cost();
const charts = new Charts($, $("charts-note"));
const ring = new Ring($("ring"), toggle, pick);
const files = new Files((file) => {
  ring.open(file);
  $("legend").hidden = file?.kind !== "file";
}, pick);

function pick(block) {
  ring.mark(block);
  files.mark(block);
}

// --- where one is ------------------------------------------------------------------------------

function toggle(slot) {
  const here = place();
  if (!here.down.delete(slot)) here.down.add(slot);
  history.replaceState(null, "", address(here));
  moved();
}

function clear() {
  const here = place();
  if (!here.down.size) return;
  here.down.clear();
  history.replaceState(null, "", address(here));
  moved();
}

function moved() {
  const { down } = place();
  if (facts) {
    ring.show(facts.servers, down);
    cost.show(down, facts.servers);
  }
  files.open();
}

// --- snapshots ---------------------------------------------------------------------------------

function connect() {
  source?.close();
  since = performance.now();
  source = new EventSource("/api/live");
  source.addEventListener("snapshot", (event) => {
    heard = performance.now();
    show(JSON.parse(event.data));
  });
  source.addEventListener("hello", (event) => {
    const { actions } = JSON.parse(event.data);
    $("scrub").hidden = !actions;
    say($("foot"), actions ? "Read-only, but for scrubs." : "Read-only.");
  });
}

function show(snapshot) {
  const first = facts === null || facts.servers.length !== snapshot.servers.length;
  const states = (one) => one.servers.map((each) => each.state).join();
  const changed = facts !== null && states(facts) !== states(snapshot);
  const back = facts !== null && snapshot.metaserver.answers && !facts.metaserver.answers;
  facts = snapshot;
  files.servers = facts.servers;
  panels.about(facts);
  panels.headline(facts);
  panels.servers(facts);
  panels.checks(facts);
  panels.events(facts);
  const { down } = place();
  ring.show(facts.servers, down);
  if (changed) cost.asked = "";
  cost.show(down, facts.servers);
  if (first || changed || back) files.open();
  age();
}

/** How old what is shown is. */
function age() {
  const silent = performance.now() - heard;
  const cut = !heard || silent > OLD_MS;
  const old = (facts?.metaserver.age_s ?? 0) + (heard ? silent / 1000 : 0);
  set($("live"), { "data-state": cut ? "cut" : facts.metaserver.answers ? "live" : "old" });
  set($("page"), { "data-stale": cut });
  if (!heard) say($("live-text"), "connecting");
  else if (cut) say($("live-text"), `cut off, trying again · ${duration(old)} old`);
  else if (!facts.metaserver.answers) say($("live-text"), `metaserver silent · ${duration(old)} old`);
  else say($("live-text"), "live");
  const waits = performance.now() - Math.max(heard, since);
  if (!document.hidden && (source?.readyState === EventSource.CLOSED || waits > DEAD_MS)) connect();
}

// --- the keyboard and the rest -----------------------------------------------------------------

function key(event) {
  const typing = event.target.matches("input, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("path").focus();
    $("path").select();
  } else if (event.key === "Escape" && !$("ask").open) {
    if (typing) event.target.blur();
    else clear();
  }
}

async function scrub() {
  try {
    const answer = await fetch("/api/scrub", { method: "POST", headers: { "x-zdfs-token": token } });
    if (answer.ok) return true;
    say($("ask-error"), (await answer.json()).error);
  } catch {
    say($("ask-error"), "zdfs web does not answer");
  }
  $("ask-error").hidden = false;
  return false;
}

addEventListener("hashchange", moved);
addEventListener("keydown", key);
$("clear").addEventListener("click", clear);
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const target = address({ key: typed($("path").value), down: place().down });
  if (target === location.hash) files.open();
  else location.hash = target;
  $("files-card").focus({ preventScroll: true });
});
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault();
  $("files-card").focus();
});
$("scrub").addEventListener("click", () => {
  $("ask-error").hidden = true;
  $("ask").showModal();
});
$("ask-yes").addEventListener("click", async (event) => {
  event.preventDefault();
  token = $("token").value;
  if (await scrub()) $("ask").close();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close(); // a browser has few connections for a server, and other tabs want theirs
    charts.rest();
  } else {
    connect();
    charts.look();
    files.open();
  }
});

setInterval(age, 500);
connect();
charts.look();
files.open();
