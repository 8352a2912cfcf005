"use strict";
// Displays the episodes that are embedded in this page. What agents and worlds wrote is inserted as
// text nodes only (`make`), never as markup.
(() => {
const ROW_PX = 66;
const SEPARATOR = " [SEP] ";
const $ = (id) => document.getElementById(id);

let data, episodes, byTask, lowered; // set once the data have been unpacked
const state = { shown: [], at: -1, other: -1, step: 0, raw: false, front: 0 };
let filters = {};

// ---------------------------------------------------------------- helpers

/** Makes an element. `options` are attributes and `on…` listeners; children are elements or strings. */
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const text = (position) => data.strings[position || 0];
const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const number = (value, digits = 3) => Number((value || 0).toFixed(digits)).toString();
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const isShop = (episode) => episode.world === "webshop";
const labelOf = (kind) => data.kinds.find((k) => k.name === kind).label;
const which = (e) => [e.seed ? `seed ${e.seed}` : "", e.sample ? `sample ${e.sample}` : ""].filter(Boolean);
const taskKey = (e) => JSON.stringify([e.env_id, e.split, e.task_id]);

function duration(seconds) {
  if (seconds >= 60) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  return seconds >= 0.001 ? `${(seconds * 1000).toFixed(0)} ms` : "< 1 ms";
}

function tokens(usage = {}) {
  const [read, written] = [usage.prompt_tokens || 0, usage.completion_tokens || 0];
  return read || written ? `${read.toLocaleString("en")} → ${written.toLocaleString("en")} tokens` : "";
}

function nTokens(episode) {
  let n = 0;
  for (const { usage = {} } of episode.steps) {
    n += (usage.prompt_tokens || 0) + (usage.completion_tokens || 0);
  }
  return n;
}

function mean(values) {
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : NaN;
}

/** The class that colours a score: bad, part or good. */
const grade = (episode) => (episode.success ? "good" : episode.score > 0 ? "part" : "bad");

function countBy(items, keyOf) {
  const counts = new Map();
  for (const item of items) counts.set(keyOf(item), (counts.get(keyOf(item)) || 0) + 1);
  return counts;
}

// ---------------------------------------------------------------- data

async function unpack() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old for this page (it has no DecompressionStream)");
  }
  const packed = $("data");
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
  packed.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function prepare(unpacked) {
  data = unpacked;
  const defaults = {
    run: 0, seed: 0, sample: 0, score: 0, success: false, split: "", kind: "", task_id: "",
    failures: [], steps: [], wall_s: 0, error: 0,
  };
  episodes = data.episodes.map((e, position) => ({ ...defaults, ...e, position }));
  byTask = new Map();
  for (const episode of episodes) {
    const key = taskKey(episode);
    if (!byTask.has(key)) byTask.set(key, []);
    byTask.get(key).push(episode);
  }
}

// ---------------------------------------------------------------- filters and list

function select(name, label, options) {
  if (options.length < 3) return null; // "all" and a single value: there is nothing to choose
  const items = options.map(([value, shown]) => make("option", { value }, shown));
  return make("label", {}, make("span", {}, label), make("select", { name }, items));
}

function choices(all, keyOf, show = (key) => key || "–") {
  const counts = [...countBy(episodes, keyOf)];
  counts.sort((a, b) => String(a[0]).localeCompare(String(b[0]), "en", { numeric: true }));
  return [["", all], ...counts.map(([key, n]) => [String(key), `${show(key)} (${n})`])];
}

function failureChoices() {
  const counts = countBy(episodes.flatMap((e) => e.failures), ([kind]) => kind);
  const present = data.kinds.filter(({ name }) => counts.has(name));
  const nSucceeded = episodes.filter((e) => !e.failures.length).length;
  const kinds = present.map(({ name, label }) => [name, `${label} (${counts.get(name)})`]);
  return [["", "any outcome"], ["none", `no failure (${nSucceeded})`], ...kinds];
}

const ORDERS = {
  log: ["as played", (a, b) => a.position - b.position],
  task: ["by task", (a, b) => a.env_id.localeCompare(b.env_id) || a.split.localeCompare(b.split)
    || a.task_id.localeCompare(b.task_id, "en", { numeric: true }) || a.position - b.position],
  low: ["lowest score", (a, b) => a.score - b.score || a.position - b.position],
  high: ["highest score", (a, b) => b.score - a.score || a.position - b.position],
  long: ["most steps", (a, b) => b.steps.length - a.steps.length || a.position - b.position],
};

function buildFilters() {
  const range = (name, placeholder, label) =>
    make("input", { name, type: "number", min: 0, max: 1, step: 0.05, placeholder, "aria-label": label });
  const check = (name, label, title) =>
    make("label", { class: "check", title }, make("input", { type: "checkbox", name }), label);
  const hasSeveral = [...byTask.values()].some((group) => group.length > 1);
  $("filters").append(
    make("input", { name: "query", type: "search", placeholder: "Search all text  ( / )", "aria-label": "Search" }),
    make("details", { open: window.innerWidth > 760 }, make("summary", {}, "Filters"),
      make("div", { class: "fields" }, ...[
        select("run", "Agent", choices("all agents", (e) => e.run, (r) => data.runs[r].label)),
        select("env", "World", choices("all worlds", (e) => e.env_id)),
        select("split", "Split", choices("all splits", (e) => e.split)),
        select("kind", "Task type", choices("all types", (e) => e.kind)),
        select("status", "Status", choices("any status", (e) => e.status)),
        select("failure", "Failure", failureChoices()),
        make("label", {}, make("span", {}, "Score"), make("span", { class: "range" },
          range("low", "0", "Lowest score"), "to", range("high", "1", "Highest score"))),
        select("order", "Order", Object.entries(ORDERS).map(([value, [label]]) => [value, label])),
      ].filter(Boolean)),
      make("div", { class: "checks" },
        check("main", "main failure only", "Count only each episode's main failure"),
        hasSeveral ? check("differs", "scores differ", "Only tasks on which the scores differ") : null,
        make("button", { type: "reset" }, "Clear"))),
  );
  let timer;
  $("filters").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(applyFilters, 80); });
  $("filters").addEventListener("reset", () => setTimeout(applyFilters));
  $("filters").addEventListener("submit", (event) => { event.preventDefault(); applyFilters(); });
}

/** Sets one filter and clears the others. */
function filterOnly(values) {
  $("filters").reset();
  for (const [name, value] of Object.entries(values)) {
    const field = $("filters").elements.namedItem(name);
    if (field && field.type === "checkbox") field.checked = value;
    else if (field) field.value = value;
  }
  applyFilters();
  showList();
}

function applyFilters() {
  filters = Object.fromEntries(new FormData($("filters")));
  const hasText = matcher(filters.query || "");
  const low = filters.low ? Number(filters.low) : -Infinity;
  const high = filters.high ? Number(filters.high) : Infinity;
  state.shown = episodes.filter((e) =>
    (!filters.run || String(e.run) === filters.run) &&
    (!filters.env || e.env_id === filters.env) &&
    (!filters.split || e.split === filters.split) &&
    (!filters.kind || e.kind === filters.kind) &&
    (!filters.status || e.status === filters.status) &&
    e.score >= low && e.score <= high && hasFailure(e) &&
    (!filters.differs || differs(e)) && hasText(e));
  state.shown.sort(ORDERS[filters.order || "log"][1]);
  const counted = state.shown.filter((e) => data.played.includes(e.status));
  const isOneAgent = new Set(counted.map((e) => e.run)).size === 1; // a mean over several agents is meaningless
  $("count").textContent = state.shown.length === 0 ? "No episode matches the filters"
    : `${state.shown.length.toLocaleString("en")} of ${plural(episodes.length, "episode")}`
      + (isOneAgent ? ` · mean score ${mean(counted.map((e) => e.score)).toFixed(3)}` : "");
  $("list").scrollTop = 0;
  drawList();
}

function hasFailure(episode) {
  if (!filters.failure) return true;
  if (filters.failure === "none") return !episode.failures.length;
  const kinds = filters.main ? episode.failures.slice(0, 1) : episode.failures;
  return kinds.some(([kind]) => kind === filters.failure);
}

const differs = (e) => new Set(byTask.get(taskKey(e)).map((other) => other.score)).size > 1;

/** Returns a predicate: whether an episode contains the query in its id, goal, error or any turn. */
function matcher(query) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return () => true;
  lowered = lowered || data.strings.map((s) => s.toLowerCase());
  const hits = Uint8Array.from(lowered, (s) => (s.includes(wanted) ? 1 : 0));
  const inStep = (s) => hits[s.action || 0] || hits[s.observation || 0] || hits[s.text || 0]
    || hits[s.thought || 0];
  return (e) => e.task_id.toLowerCase().includes(wanted) || hits[e.goal || 0] ||
    hits[e.observation || 0] || hits[e.error] || e.steps.some(inStep);
}

/** Draws only the rows that are visible. */
function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - 5);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_PX) + 5);
  $("rows").style.height = `${state.shown.length * ROW_PX}px`;
  $("rows").replaceChildren(...state.shown.slice(first, last).map((e, i) => row(e, first + i)));
}

function row(episode, place) {
  const facts = [data.runs.length > 1 ? data.runs[episode.run].label : "", outcome(episode),
    ...which(episode), plural(episode.steps.length, "step"), episode.kind].filter(Boolean);
  const element = make("a", {
    class: "row", href: link(episode), "aria-current": episode.position === state.at ? "true" : null,
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens a new tab, like any link
      event.preventDefault();
      open(episode.position);
    },
  }, scorePill(episode),
  make("span", { class: "what" },
    make("span", { class: "goal" }, text(episode.goal) || episode.task_id),
    make("span", { class: "facts" }, facts.join(" · "))));
  element.style.top = `${place * ROW_PX}px`;
  return element;
}

function outcome(episode) {
  if (episode.failures.length) return labelOf(episode.failures[0][0]);
  return episode.success ? "" : episode.status;
}

const scorePill = (episode) =>
  make("span", { class: `score ${grade(episode)}`, title: "score" }, episode.score.toFixed(2));

// ---------------------------------------------------------------- links and navigation

function link(episode, step = 0, other = -1) {
  const parts = new URLSearchParams({ task: episode.task_id, split: episode.split });
  if (data.runs.length > 1) parts.set("agent", episode.run);
  if (new Set(episodes.map((e) => e.env_id)).size > 1) parts.set("env", episode.env_id);
  if (episode.seed) parts.set("seed", episode.seed);
  if (episode.sample) parts.set("sample", episode.sample);
  if (step) parts.set("step", step);
  if (other >= 0) parts.set("with", [episodes[other].run, episodes[other].seed, episodes[other].sample].join("."));
  return `#${parts}`;
}

function followLink() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.has("task")) return showOverview();
  const matches = (name, value) => !parts.has(name) || parts.get(name) === String(value);
  const found = episodes.filter((e) => e.task_id === parts.get("task") && matches("split", e.split) &&
    matches("env", e.env_id) && matches("agent", e.run) && matches("seed", e.seed) && matches("sample", e.sample));
  if (!found.length) return showOverview(`This page has no episode of task “${parts.get("task")}”.`);
  const beside = (parts.get("with") || "").split(".").map(Number);
  const other = attempts(found[0]).find((e) => e.run === beside[0] && e.seed === beside[1] && e.sample === beside[2]);
  open(found[0].position, Number(parts.get("step")) || 0, other ? other.position : -1);
}

/** All episodes of the same task. */
const attempts = (episode) => byTask.get(taskKey(episode));

function partner(episode) {
  const others = attempts(episode).filter((e) => e !== episode);
  const same = (e) => e.seed === episode.seed && e.sample === episode.sample;
  return others.find((e) => e.run !== episode.run && same(e)) ||
    others.find((e) => e.run !== episode.run) || others[0];
}

function open(position, step = 0, other = -1) {
  Object.assign(state, { at: position, step: 0, other, front: 0 });
  document.body.classList.add("reading");
  drawEpisode();
  drawList();
  revealRow();
  $("main").scrollTop = 0;
  history.replaceState(null, "", link(episodes[position], 0, other));
  if (step) goToStep(step);
}

function revealRow() {
  const place = state.shown.findIndex((e) => e.position === state.at);
  const list = $("list");
  if (place < 0 || !list.clientHeight) return;
  const top = place * ROW_PX;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
}

function move(by) {
  const place = state.shown.findIndex((e) => e.position === state.at);
  const next = state.shown[place < 0 ? 0 : place + by];
  if (!next) return;
  const beside = state.other >= 0 ? partner(next) : null;
  open(next.position, 0, beside ? beside.position : -1);
}

function goToStep(step) {
  const episode = episodes[state.at];
  const longest = Math.max(episode.steps.length, state.other >= 0 ? episodes[state.other].steps.length : 0);
  state.step = Math.max(0, Math.min(step, longest));
  for (const element of document.querySelectorAll("[data-step]")) {
    const isCurrent = Number(element.dataset.step) === state.step;
    element.classList.toggle("current", isCurrent);
  }
  const turn = document.querySelector(`.turns > [data-step="${state.step}"]`);
  if (turn) turn.scrollIntoView({ block: "start" });
  history.replaceState(null, "", link(episode, state.step, state.other));
}

function toggleSideBySide() {
  if (state.at < 0) return;
  const beside = state.other >= 0 ? null : partner(episodes[state.at]);
  if (state.other < 0 && !beside) return notice("This page has only one episode of this task.");
  const step = state.step;
  open(state.at, step, beside ? beside.position : -1);
}

/** Opens another agent's episode of the same task; side by side, swaps the two. */
function switchAgent() {
  if (state.at < 0) return;
  const beside = state.other >= 0 ? episodes[state.other] : partner(episodes[state.at]);
  if (!beside) return notice("This page has only one episode of this task.");
  open(beside.position, state.step, state.other >= 0 ? state.at : -1);
}

function showList() {
  document.body.classList.remove("reading");
  drawList();
}

function notice(message) {
  const element = make("p", { class: "notice", role: "status" }, message);
  document.body.append(element);
  setTimeout(() => element.remove(), 2500);
}

// ---------------------------------------------------------------- overview

function showOverview(message = "") {
  Object.assign(state, { at: -1, other: -1, step: 0 });
  document.body.classList.add("reading");
  document.title = "Replay";
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  $("main").replaceChildren(make("article", { class: "overview" },
    make("p", { class: "crumbs" }, make("button", { type: "button", class: "back", onclick: showList }, "‹ Episodes")),
    message ? make("p", { class: "warning" }, message) : null,
    make("div", { class: "cards" }, data.runs.map(runCard)),
    failureTable(), kindTable(),
    make("p", { class: "muted" }, "Means are over episodes that the task or its step limit ended. For intervals and ",
      "comparisons see the runs' report. Press ? for keyboard shortcuts.")));
  $("main").scrollTop = 0;
  drawList();
}

function runCard(run, index) {
  const own = episodes.filter((e) => e.run === index);
  const counted = own.filter((e) => data.played.includes(e.status));
  const statuses = [...countBy(own, (e) => e.status)].map(([s, n]) => `${n.toLocaleString("en")} ${s}`).join(", ");
  const fact = (label, value) => make("div", {}, make("dt", {}, label), make("dd", {}, value));
  const warnings = [];
  const isComplete = run.n_planned !== null && own.length >= run.n_planned;
  if (!run.is_finished && !isComplete) warnings.push("This run has no results yet: it is still running or was stopped. These are its episodes so far.");
  if (run.has_unfinished_line) warnings.push("The last line of its log is incomplete and was left out.");
  const total = own.reduce((n, e) => n + nTokens(e), 0);
  return make("section", { class: "card" },
    make("h2", {}, run.label), make("p", { class: "muted" }, `${run.env_id} (${run.dataset})`),
    make("dl", { class: "figures" },
      fact("mean score", counted.length ? mean(counted.map((e) => e.score)).toFixed(3) : "–"),
      fact("success", counted.length ? percent(mean(counted.map((e) => (e.success ? 1 : 0)))) : "–"),
      fact("steps", counted.length ? mean(counted.map((e) => e.steps.length)).toFixed(1) : "–"),
      total ? fact("tokens", total.toLocaleString("en")) : null),
    make("p", { class: "muted" }, statuses, run.n_planned ? `, ${run.n_planned.toLocaleString("en")} planned` : ""),
    warnings.map((warning) => make("p", { class: "warning" }, warning)),
    run.provenance && run.provenance !== "{}"
      ? make("details", {}, make("summary", {}, "Settings of the agent"),
        make("pre", {}, JSON.stringify(JSON.parse(run.provenance), null, 2))) : null);
}

function failureTable() {
  const present = data.kinds.filter(({ name }) => episodes.some((e) => e.failures.some(([k]) => k === name)));
  if (!present.length) return make("p", {}, "No episode failed.");
  const head = data.runs.flatMap((run) => [make("th", { class: "count", colspan: 2 }, run.label)]);
  const sub = data.runs.flatMap(() => [make("th", { class: "count" }, "main"), make("th", { class: "count" }, "any")]);
  const rows = present.map(({ name, label, rule }) => make("tr", {},
    make("th", { scope: "row" }, label, make("small", {}, rule)),
    data.runs.flatMap((_, index) => {
      const own = episodes.filter((e) => e.run === index && e.failures.length);
      const nMain = own.filter((e) => e.failures[0][0] === name).length;
      const nAny = own.filter((e) => e.failures.some(([kind]) => kind === name)).length;
      const total = episodes.filter((e) => e.run === index).length;
      const cell = (n, main) => make("td", { class: "count" }, n ? make("button", { type: "button",
        onclick: () => filterOnly({ failure: name, main, run: data.runs.length > 1 ? String(index) : "" }) },
      n.toLocaleString("en")) : "–", main && n ? meter(n / total) : null);
      return [cell(nMain, true), cell(nAny, false)];
    })));
  return make("section", { class: "card" }, make("h2", {}, "Failures"),
    make("p", { class: "muted" }, "An episode that did not succeed may have several kinds; the first in this order is its main one."),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, data.runs.length > 1 ? make("tr", {}, make("td"), head) : null, make("tr", {}, make("th", {}, "kind"), sub)),
      make("tbody", {}, rows))));
}

function meter(share) {
  const bar = make("span", { class: "meter", "aria-hidden": "true" }, make("i"));
  bar.firstChild.style.width = `${100 * share}%`;
  return bar;
}

function kindTable() {
  const kinds = [...countBy(episodes, (e) => e.kind).keys()].sort();
  if (kinds.length < 2) return null;
  const rows = kinds.map((kind) => make("tr", {},
    make("th", { scope: "row" }, make("button", { type: "button", onclick: () => filterOnly({ kind }) }, kind || "–")),
    data.runs.flatMap((_, index) => {
      const own = episodes.filter((e) => e.run === index && e.kind === kind && data.played.includes(e.status));
      const value = mean(own.map((e) => e.score));
      return [make("td", { class: "count" }, own.length.toLocaleString("en")),
        make("td", { class: "count" }, own.length ? value.toFixed(3) : "–", own.length ? meter(value) : null)];
    })));
  return make("section", { class: "card" }, make("h2", {}, "Task types"),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {},
        data.runs.length > 1 ? make("tr", {}, make("td"),
          data.runs.map((run) => make("th", { class: "count", colspan: 2 }, run.label))) : null,
        make("tr", {}, make("th", {}, "type"),
          data.runs.flatMap(() => [make("th", { class: "count" }, "n"), make("th", { class: "count" }, "score")]))),
      make("tbody", {}, rows))));
}

// ---------------------------------------------------------------- one episode, or two

function drawEpisode() {
  const panes = [episodes[state.at], ...(state.other >= 0 ? [episodes[state.other]] : [])];
  const first = panes[0];
  $("main").replaceChildren(make("article", { class: `episode${panes.length > 1 ? " pair" : ""}`, "data-front": state.front },
    make("header", { class: "task" },
      make("p", { class: "crumbs" },
        make("button", { type: "button", class: "back", onclick: showList }, "‹ Episodes"),
        [first.env_id, first.split, first.kind, `task ${first.task_id}`].filter(Boolean).join(" · ")),
      make("h1", {}, text(first.goal) || first.task_id),
      toolbar(first, panes)),
    make("div", { class: "heads" }, panes.map((e, i) => paneHead(e, i))),
    turns(panes)));
  document.title = `${first.task_id} · Replay`;
}

function toolbar(episode, panes) {
  const others = attempts(episode).filter((e) => e !== episode);
  const name = (e) => [data.runs[e.run].label, ...which(e), e.score.toFixed(2)].join(" · ");
  const beside = make("select", { "aria-label": "Episode to compare with",
    onchange: (event) => open(state.at, state.step, Number(event.target.value)) },
  make("option", { value: -1 }, "no comparison"),
  others.map((e) => make("option", { value: e.position, selected: e.position === state.other }, name(e))));
  const button = (label, key, onclick, pressed = null) =>
    make("button", { type: "button", onclick, title: `key ${key}`, "aria-pressed": pressed }, label, make("kbd", {}, key));
  return make("div", { class: "tools" },
    button("Previous", "k", () => move(-1)), button("Next", "j", () => move(1)),
    isShop(episode) ? button("Plain text", "t", toggleRaw, String(state.raw)) : null,
    others.length ? button("Side by side", "s", toggleSideBySide, String(panes.length > 1)) : null,
    others.length ? button("Switch", "o", switchAgent) : null,
    others.length ? beside : null);
}

function toggleRaw() {
  state.raw = !state.raw;
  const { at, step, other } = state;
  if (at >= 0) open(at, step, other);
}

function paneHead(episode, index) {
  const facts = [episode.status, plural(episode.steps.length, "step"),
    nTokens(episode) ? plural(nTokens(episode), "token") : "", duration(episode.wall_s), ...which(episode)];
  return make("section", { class: `head pane${index}`, onclick: () => bringToFront(index) },
    make("h2", {}, scorePill(episode), data.runs[episode.run].label),
    make("p", { class: "muted" }, facts.filter(Boolean).join(" · ")),
    make("ul", { class: "failures" }, episode.failures.map(([kind, detail, steps]) =>
      make("li", { title: data.kinds.find((k) => k.name === kind).rule },
        steps.length ? make("button", { type: "button", onclick: () => goToStep(steps[0] + 1) }, labelOf(kind)) : make("b", {}, labelOf(kind)),
        ` ${detail}`))),
    episode.error ? make("details", { class: "error" }, make("summary", {}, "Error"), make("pre", {}, text(episode.error))) : null,
    make("div", { class: "ticks" }, episode.steps.map((step, i) => make("button", {
      type: "button", class: tickClass(step), "data-step": i + 1, onclick: () => goToStep(i + 1),
      title: `${i + 1}: ${text(step.action)}` }, String(i + 1)))));
}

const tickClass = (step) => `tick${step.is_invalid ? " invalid" : ""}${step.task_reward > 0 ? " gain" : ""}`;

/** On a narrow screen only one of two panes is visible. */
function bringToFront(index) {
  state.front = index;
  document.querySelector(".episode").setAttribute("data-front", index);
}

/** A row for every step; the steps of two episodes are side by side. */
function turns(panes) {
  const longest = Math.max(...panes.map((e) => e.steps.length));
  const rows = [];
  for (let step = 0; step <= longest; step += 1) {
    rows.push(make("section", { class: "turn", "data-step": step, "aria-label": step ? `Step ${step}` : "Start" },
      panes.map((episode, index) => make("div", { class: `cell pane${index}` },
        step <= episode.steps.length ? turn(episode, step, panes.length > 1 ? who(episode, index) : null) : null))));
  }
  return make("div", { class: "turns" }, rows);
}

/** The name of the agent whose turn it is; on a narrow screen a button that shows the other's. */
const who = (episode, index) => make("button", { type: "button", class: "who", onclick: () => bringToFront(1 - index) },
  [data.runs[episode.run].label, ...which(episode)].join(" · "));

function turn(episode, step, name) {
  const done = episode.steps[step - 1];
  const start = () => make("header", {}, make("b", { class: "n" }, "Start"), name ? [name] : []);
  const parts = done ? [stepHead(episode, done, step, name), reply(done)] : [start()];
  return [...parts, observed(episode, step)].flat();
}

function stepHead(episode, step, n, name) {
  const badges = episode.failures.filter(([, , steps]) => steps.includes(n - 1)).map(([kind]) =>
    make("span", { class: "badge bad" }, labelOf(kind)));
  if (step.is_invalid && !badges.some((b) => b.textContent === labelOf("invalid_actions"))) {
    badges.unshift(make("span", { class: "badge bad" }, "rejected"));
  }
  const rewards = [];
  if (step.task_reward) rewards.push(make("span", { class: "badge good" }, `reward ${signed(step.task_reward)}`));
  for (const [name, value] of Object.entries(step.terms || {})) {
    rewards.push(make("span", { class: "badge" }, `${name} ${signed(value)}`));
  }
  if ((step.reward || 0) !== (step.task_reward || 0)) {
    rewards.push(make("span", { class: "badge" }, `shaped ${signed(step.reward || 0)}`));
  }
  const usage = Object.entries(step.usage || {}).filter(([name]) => !/^(prompt|completion)_tokens$/.test(name))
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value, 4)}`);
  const costs = [tokens(step.usage), ...usage, step.latency_s >= 0.001 ? duration(step.latency_s) : "",
    step.score ? `score ${number(step.score)}` : ""].filter(Boolean);
  return make("header", {}, make("b", { class: "n" }, String(n)), name ? [name] : [], badges, rewards,
    make("span", { class: "costs" }, costs.join(" · ")));
}

const signed = (value) => (value > 0 ? `+${number(value)}` : number(value).replace("-", "−"));

/** The agent's thought and action, and its whole reply if that contains more. */
function reply(step) {
  const [thought, action, written] = [text(step.thought), text(step.action), text(step.text)];
  const plain = [action, `Action: ${action}`, `Thought: ${thought}\nAction: ${action}`].map((s) => s.trim());
  const isMore = written && !plain.includes(written.trim().replace(/\s*\n\s*Action:/, "\nAction:"));
  return [
    thought ? make("p", { class: "thought" }, thought) : null,
    make("p", { class: `action${step.is_invalid ? " invalid" : ""}` }, action || make("i", {}, "no action")),
    isMore ? make("details", { class: "written", open: !action }, make("summary", {}, "The agent's whole reply"), make("pre", {}, written)) : null,
  ];
}

/** The observation after `step` steps, with the agent's next action highlighted on the page. */
function observed(episode, step) {
  const observation = observationAt(episode, step);
  const next = episode.steps[step] ? text(episode.steps[step].action) : "";
  let content = null;
  if (isShop(episode) && !state.raw) content = shopPage(observation, next, chosenOptions(episode, step));
  content = content || make("pre", { class: "observation" }, observation || "(empty)");
  const isRepeated = step > 0 && observation === observationAt(episode, step - 1) && !isChoice(episode, step);
  if (!isRepeated || observation.length < 200) return content;
  return make("details", { class: "same" }, make("summary", {}, "Same as before"), content);
}

const observationAt = (episode, step) => text(step ? episode.steps[step - 1].observation : episode.observation);

// ---------------------------------------------------------------- WebShop pages

const clickedText = (action) => (/^click\[(.*)\]$/is.exec(action.trim()) || [])[1]?.trim().toLowerCase();
const isItemPage = (parts) => parts.includes("Buy Now") && parts.some((part) => part.startsWith("Price: "));

/** Whether step `step` chose an option: the text of the page is the same, its state is not. */
function isChoice(episode, step) {
  const parts = observationAt(episode, step - 1).split(SEPARATOR);
  const clicked = clickedText(text(episode.steps[step - 1].action));
  return isItemPage(parts) && parts.some((part) => part.toLowerCase() === clicked);
}

/** What was clicked since the product was opened: the text does not show which options are chosen. */
function chosenOptions(episode, step) {
  const chosen = new Set();
  for (let i = step; i > 0; i -= 1) {
    const parts = observationAt(episode, i - 1).split(SEPARATOR);
    if (parts.some((part) => /^Page -?\d+ \(Total results/.test(part)) || parts[0] === "WebShop") break;
    const clicked = clickedText(text(episode.steps[i - 1].action));
    if (clicked && isItemPage(parts)) chosen.add(clicked);
  }
  return chosen;
}

/** The page that a text observation describes; null if it describes none. */
function shopPage(observation, action, chosen) {
  const parts = observation.split(SEPARATOR).map((part) => part.trim());
  const clicked = clickedText(action);
  const query = (/^search\[(.*)\]$/is.exec(action.trim()) || [])[1];
  const button = (label, kind = "") => make("span", {
    class: `shop-button ${kind}${label.toLowerCase() === clicked ? " taken" : ""}`,
    title: label.toLowerCase() === clicked ? "clicked next" : null }, label);
  if (parts[0] === "WebShop" && parts[1] === "Instruction:" && parts.at(-1) === "Search") {
    return searchPage(parts.slice(2, -1).join(SEPARATOR), query, button);
  }
  if (parts[0].startsWith("Thank you for shopping with us!")) return receipt(parts);
  const back = parts.indexOf("Back to Search");
  if (parts[0] !== "Instruction:" || back < 0) return null;
  const instruction = parts.slice(1, back).join(SEPARATOR);
  const rest = parts.slice(back + 1);
  const content = /^Page -?\d+ \(Total results/.test(rest[0] || "") ? resultsPage(rest, clicked, button)
    : isItemPage(rest) ? itemPage(rest, chosen, button) : subPage(rest, button);
  return make("div", { class: "shop" },
    make("div", { class: "shop-bar" }, button("Back to Search"), make("span", { class: "instruction", title: instruction }, instruction)), content);
}

function searchPage(instruction, query, button) {
  return make("div", { class: "shop" },
    make("p", { class: "shop-title" }, "WebShop"), make("p", { class: "instruction" }, instruction),
    make("div", { class: "shop-search" },
      make("span", { class: `shop-input${query === undefined ? "" : " taken"}` }, query === undefined ? "Search …" : query),
      button("Search")));
}

function resultsPage(parts, clicked, button) {
  const buttons = parts.slice(1, 3).filter((part) => part === "< Prev" || part === "Next >");
  const rows = [];
  let current = null;
  for (const part of parts.slice(1 + buttons.length)) {
    if (/^[A-Z0-9]{10}$/.test(part) && (!current || current.price)) {
      current = { asin: part, title: [], price: "" };
      rows.push(current);
    } else if (current && /^\$[\d.,]+( to \$[\d.,]+)?$/.test(part)) current.price = part;
    else if (current) current.title.push(part);
  }
  return [
    make("div", { class: "shop-bar" }, make("span", {}, parts[0]), buttons.map((label) => button(label))),
    make("ol", { class: "products" }, rows.map(({ asin, title, price }) =>
      make("li", { class: asin.toLowerCase() === clicked ? "taken" : null },
        make("code", {}, asin), make("span", {}, title.join(SEPARATOR)), make("b", {}, price)))),
  ];
}

function itemPage(parts, chosen, button) {
  const price = parts.findLastIndex((part) => part.startsWith("Price: "));
  const start = parts[0] === "< Prev" ? 1 : 0;
  const groups = [];
  for (const [i, part] of parts.slice(start, price - 1).entries()) {
    if (i === 0 || data.option_names.includes(part.toLowerCase())) groups.push([part, []]);
    else groups.at(-1)[1].push(part);
  }
  return [
    start ? make("div", { class: "shop-bar" }, button("< Prev")) : null,
    make("p", { class: "product" }, parts[price - 1]),
    make("p", { class: "price" }, parts[price].slice(7), make("span", { class: "muted" }, ` · ${parts[price + 1] || ""}`)),
    make("dl", { class: "options" }, groups.map(([name, values]) => make("div", {}, make("dt", {}, name),
      make("dd", {}, values.map((value) => button(value, chosen.has(value.toLowerCase()) ? "option chosen" : "option")))))),
    make("div", { class: "shop-bar end" }, parts.slice(price + 2).map((label) => button(label, label === "Buy Now" ? "buy" : ""))),
  ].filter(Boolean);
}

function subPage(parts, button) {
  const start = parts[0] === "< Prev" ? 1 : 0;
  const lines = parts.slice(start).filter(Boolean);
  return [start ? make("div", { class: "shop-bar" }, button("< Prev")) : null,
    lines.length ? make("ul", { class: "lines" }, lines.map((line) => make("li", {}, line)))
      : make("p", { class: "muted" }, "(an empty page)")].filter(Boolean);
}

function receipt(parts) {
  const after = (name) => parts[parts.indexOf(name) + 1] || "";
  return make("div", { class: "shop receipt" }, make("p", { class: "shop-title" }, parts[0]),
    make("dl", { class: "facts" }, [["bought", after("asin")], ["options", after("options")],
      ["score", after("Your score (min 0.0, max 1.0)")]].map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value)))));
}

// ---------------------------------------------------------------- keys

const KEYS = [
  ["j  ↓", "next episode", () => move(1)], ["k  ↑", "previous episode", () => move(-1)],
  ["→", "next step", () => goToStep(state.step + 1)], ["←", "previous step", () => goToStep(state.step - 1)],
  ["s", "toggle two episodes side by side", toggleSideBySide],
  ["o", "another agent's episode of the task", switchAgent],
  ["t", "toggle pages as plain text", toggleRaw],
  ["/", "search", () => { showList(); $("filters").elements.namedItem("query").focus(); }],
  ["Esc", "overview", () => showOverview()], ["?", "this help", () => $("help").showModal()],
];
const NAMES = { ArrowDown: "↓", ArrowUp: "↑", ArrowRight: "→", ArrowLeft: "←", Escape: "Esc" };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  const key = NAMES[event.key] || event.key;
  const found = KEYS.find(([keys]) => keys.split(/\s+/).includes(key));
  if (!found || ("→←".includes(key) && state.at < 0)) return;
  event.preventDefault();
  found[2]();
}

function buildHelp() {
  $("help").append(make("h2", {}, "Keyboard shortcuts"),
    make("dl", {}, KEYS.map(([keys, what]) => make("div", {},
      make("dt", {}, keys.split(/\s+/).map((key) => make("kbd", {}, key))), make("dd", {}, what)))),
    make("p", { class: "muted" }, "A WebShop page highlights what the agent clicked or typed next."),
    make("form", { method: "dialog" }, make("button", {}, "Close")));
}

async function start() {
  prepare(await unpack());
  $("subtitle").textContent = data.runs.map((run) => run.label).join(" · ");
  buildFilters();
  buildHelp();
  applyFilters();
  $("list").addEventListener("scroll", drawList, { passive: true });
  window.addEventListener("resize", drawList);
  window.addEventListener("hashchange", followLink);
  document.addEventListener("keydown", onKey);
  $("home").addEventListener("click", () => showOverview());
  $("help-button").addEventListener("click", () => $("help").showModal());
  followLink();
  performance.mark("replay-ready");
}

start().catch((error) => {
  $("main").replaceChildren(make("p", { class: "warning" }, `This page cannot be displayed: ${error.message}`));
});
})();
