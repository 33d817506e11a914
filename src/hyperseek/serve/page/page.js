// The page: what is asked, its sides, the address, keys, and an index that changes meanwhile.

import {Filters} from "./filters.js";
import {CorpusMap} from "./map.js";
import {Reader} from "./reader.js";
import {ask} from "./server.js";
import {described} from "./settings.js";
import {compare, drawMoves, Side} from "./side.js";
import {count, el, plural, shown} from "./text.js";

const TYPING = 120; // milliseconds after a key before the search
const LOOK = 4000; // milliseconds between looks at the indexes, and eight times as long where nobody has done anything
const IDLE = 300_000; // for this long
const COUNTS = [5, 10, 20, 50, 100];
const find = id => document.getElementById(id);
const address = new URLSearchParams(location.search);

const page = {
  indexes: [],
  sides: [],
  query: "",
  k: 10,
  get where() {
    return filters.where;
  },
  show: name => {
    find("sides").dataset.shown = name;
  },
  link,
  changed,
  open,
  openId,
  found,
  failed,
  pointed,
  closed,
  beside,
  level,
};
const filters = new Filters(find("filters"), () => later());
const reader = new Reader(find("reader"), page);
const map = new CorpusMap(find("map"), page);
const moves = document.createElementNS("http://www.w3.org/2000/svg", "svg");
moves.setAttribute("class", "moves");
moves.setAttribute("aria-hidden", "true");
let timer = 0,
  composing = false,
  looking = null,
  opener = null,
  start = null; // what the address asks for, to be done once the indexes are known

function json(name) {
  try {
    return JSON.parse(address.get(name));
  } catch {
    return null;
  }
}

/** Return the address of what is shown, with a document open or without. */
function link(id = null) {
  const now = new URLSearchParams();
  if (page.query) now.set("q", page.query);
  if (page.k !== 10) now.set("k", page.k);
  if (filters.plain.length) now.set("filters", JSON.stringify(filters.plain));
  if (filters.sql) now.set("where", filters.sql);
  page.sides.forEach((side, place) => {
    const {index, method, plan, options, card} = side.settings,
      kept = {};
    if (index !== undefined && index !== page.indexes[0]?.name) kept.index = index;
    if (method !== "auto") kept.method = method;
    if (method === "plan") kept.plan = plan;
    if (Object.keys(options).length) kept.options = options;
    if (card) kept.card = card;
    if (place || Object.keys(kept).length) now.set("ab"[place], JSON.stringify(kept));
  });
  if (!find("map").hidden) now.set("map", "1");
  if (id !== null) now.set("open", id);
  const text = now.toString();
  return text ? `?${text}` : location.pathname;
}

function note(id = null) {
  history.replaceState(history.state, "", link(id));
  document.title = page.query.trim() ? `${shown(page.query.trim())} · hyperseek` : "hyperseek";
}

/** Search once nothing more was typed for a moment. */
function later(wait = TYPING) {
  clearTimeout(timer);
  timer = setTimeout(search, wait);
}

function search() {
  clearTimeout(timer);
  page.query = find("query").value;
  const asked = page.query.trim() !== "";
  document.body.classList.toggle("asked", asked);
  find("welcome").hidden = asked;
  find("sides").hidden = !asked;
  for (const side of page.sides) side.failure = null;
  tellFailures();
  tellFilters();
  note();
  const searches = page.sides.map(side => side.search());
  if (!asked) {
    find("status").textContent = "";
    moves.replaceChildren();
    map.update();
  }
  return Promise.all(searches);
}

/** Say what failed, of all sides. */
function tellFailures() {
  const told = page.sides
    .filter(side => side.failure)
    .map(
      ({name, failure}) =>
        (page.sides.length > 1 ? `Side ${name}: ` : "") +
        shown(failure.message) +
        (failure.wait ? " Trying again in a moment." : ""),
    );
  find("failure").textContent = told.join(" ");
  find("failure").hidden = !told.length;
}

/** A side has an answer. */
function found(side) {
  side.failure = null;
  tellFailures();
  filters.learn(side.hits);
  const [first, second] = page.sides;
  if (second) compare(first, second);
  drawLines();
  const {answer} = first;
  if (answer && side === first) {
    const filtered = filters.active ? `, ${plural(filters.active, "filter")}` : "";
    const all = plural(answer.documents ?? first.index.documents, "document");
    const took = `in ${Math.max(1, Math.round(answer.milliseconds))} ms`;
    find("status").textContent = first.hits.length
      ? `${plural(first.hits.length, "hit")} of ${all}${filtered}, ${took}`
      : `Nothing found${filtered}`;
  }
  if (side.renewed) {
    side.renewed = false;
    if (reader.isOpen && reader.side === side)
      reader.open(side, side.hits.find(hit => hit.id === reader.hit.id) ?? reader.hit);
  }
  map.update();
}

function failed(side, error) {
  side.failure = error;
  tellFailures();
  if (error.status === 404) look(); // an index or an engine is gone
}

/** The settings of a side changed. */
function changed(side, soon = false) {
  side.retitle();
  if (side === page.sides[0]) filters.of(side.index);
  clearTimeout(side.timer);
  side.timer = setTimeout(
    () => {
      note();
      tellIndex();
      side.search();
    },
    soon ? TYPING : 0,
  );
}

function drawLines() {
  const [first, second] = page.sides;
  if (second && first.items && second.items) drawMoves(moves, first, second);
}

/** A hit was pointed at somewhere: let it stand out everywhere. */
function pointed(id, on) {
  for (const side of page.sides) side.items?.get(id)?.classList.toggle("at", on);
  for (const line of moves.children) if (line.dataset.id === id) line.classList.toggle("at", on);
  map.highlight(id, on);
}

function open(side, hit) {
  if (!reader.isOpen) {
    opener = document.activeElement;
    history.pushState({open: true}, "", link(hit.id));
  } else history.replaceState(history.state, "", link(hit.id));
  reader.open(side, hit);
}

/** Open a document that may be no hit. */
function openId(id) {
  const [side] = page.sides;
  open(side, side.hits.find(hit => hit.id === id) ?? {id});
}

/** The reader was closed: go back to the hit it showed last. */
function closed(side, hit) {
  if (history.state?.open) history.back();
  else note();
  const item = side?.items?.get(hit.id)?.querySelector("a");
  if (opener?.closest?.("#map") && opener.isConnected) opener.focus();
  else if (item) item.focus();
  else find("query").focus();
}

/** Open the hit beside one. */
function beside(side, hit, by) {
  const next = side.hits[side.hits.findIndex(one => one.id === hit.id) + by];
  if (next) open(side, next);
}

/** The level of the map: that of the first side. */
function level() {
  const [{settings, index}] = page.sides;
  return index.levels > 1 && settings.options.level !== undefined ? settings.options.level : null;
}

/** Show one side, or two. */
function setSides(both) {
  if (both && page.sides.length < 2) {
    const [{settings, index}] = page.sides,
      other = settings.method === "words" ? "auto" : "words";
    // With levels or cards of its own, which are what is compared there, the same method is a better beginning.
    const method = index?.levels > 1 || index?.cards ? settings.method : other;
    page.sides.push(new Side(page, "B", json("b") ?? {...structuredClone(settings), method}));
  } else if (!both && page.sides.length > 1) {
    page.sides.pop().stop();
    page.sides[0].told.textContent = "";
    page.sides[0].place.querySelector("details").open = false;
  }
  document.body.classList.toggle("two", both);
  if (!both) page.show("A");
  find("show-other").setAttribute("aria-pressed", String(both));
  find("sides").replaceChildren(...(both ? [page.sides[0].place, moves, page.sides[1].place] : [page.sides[0].place]));
  for (const side of page.sides) side.settle();
}

function showMap(on) {
  find("map").hidden = !on;
  document.body.classList.toggle("mapped", on);
  find("show-map").setAttribute("aria-expanded", String(on));
  if (on) map.update();
}

function showFilters(on) {
  find("filters").hidden = !on;
  find("show-filters").setAttribute("aria-expanded", String(on));
  if (on) filters.show();
}

function tellFilters() {
  const badge = find("show-filters").querySelector("b");
  badge.hidden = !filters.active;
  badge.textContent = filters.active;
}

function tellIndex() {
  const {index} = page.sides[0] ?? {};
  if (!index) return;
  const space = index.space ?? {};
  find("welcome").replaceChildren(
    el("h2", {}, shown(index.name)),
    el("p", {}, `${described(index)}.`),
    el(
      "dl",
      {},
      el("dt", {}, "Model"),
      el("dd", {}, shown(index.model ?? "none")),
      el("dt", {}, "Space"),
      el(
        "dd",
        {},
        typeof space === "string" ? shown(space) : `${shown(space.kind)}, ${count(space.dimension)} dimensions`,
      ),
      index.levels > 1 ? [el("dt", {}, "Levels"), el("dd", {}, String(index.levels))] : null,
      el("dt", {}, "Fields"),
      el(
        "dd",
        {},
        Object.keys(index.fields ?? {})
          .map(shown)
          .join(", ") || "none",
      ),
    ),
    el("p", {class: "hint"}, "Begin to type. Results come as you do."),
  );
}

/** Look whether an index changed, came or went, and search again where it did; once, however often it is called. */
function look() {
  looking ??= compareIndexes().finally(() => {
    looking = null;
  });
}

async function compareIndexes() {
  let listed;
  try {
    listed = await ask("indexes");
  } catch (error) {
    if (!page.indexes.length) {
      find("failure").textContent = shown(error.message);
      find("failure").hidden = false;
    }
    return;
  }
  const before = JSON.stringify(page.indexes),
    first = !page.indexes.length;
  for (const side of page.sides) if (side.failure?.status === 0) side.search(); // the server is back
  if (JSON.stringify(listed) === before && listed.length) return;
  page.indexes = listed;
  const others = new Map((first ? [] : JSON.parse(before)).map(one => [one.name, one]));
  const differs = (index, ...names) =>
    names.some(name => JSON.stringify(index[name]) !== JSON.stringify(others.get(index.name)?.[name]));
  const came = listed.length !== others.size || listed.some(one => !others.has(one.name));
  for (const side of page.sides) {
    if (!side.index) continue;
    // Editors keep what is being written in them.
    if (came || differs(side.index, "levels", "cards", "engines")) side.settle();
    if (!first && differs(side.index, ...Object.keys(side.index))) {
      side.renewed = true;
      side.search();
    }
  }
  if (first || (page.sides[0].index && differs(page.sides[0].index, "fields"))) filters.of(page.sides[0].index);
  tellIndex();
  if (!first) map.update();
  if (!listed.length) {
    find("failure").textContent = "This server has no index to search; it has models for other programs.";
    find("failure").hidden = false;
  } else if (first) {
    tellFailures();
    start();
  }
}

function keys(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || composing)
    return;
  const {target} = event,
    writing = target.closest("input, textarea, select, [contenteditable]");
  if (document.querySelector("dialog[open]")) return;
  const query = find("query");
  if (event.key === "/" && !writing) {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "Escape") {
    if (target === query && query.value) {
      query.value = "";
      search();
    } else if (find("filters").contains(target)) {
      showFilters(false);
      find("show-filters").focus();
    } else {
      query.focus();
      query.select();
    }
    event.preventDefault();
  } else if (target === query || !writing) moveThroughHits(event, query);
}

function moveThroughHits(event, query) {
  const side = page.sides.find(one => one.focused >= 0),
    place = side ? side.focused : -1,
    [first] = page.sides;
  const steps = {ArrowDown: 1, ArrowUp: -1, j: 1, k: -1};
  if (event.key in steps && (event.target !== query || event.key.startsWith("Arrow"))) {
    if (side && place === 0 && steps[event.key] < 0) query.focus();
    else if (side) side.focus(place + steps[event.key]);
    else if (
      steps[event.key] > 0 &&
      event.target.closest("header, main, body") &&
      !event.target.closest("summary, button")
    )
      first.focus(0);
    else return;
    event.preventDefault();
  } else if (side && (event.key === "Home" || event.key === "End")) {
    side.focus(event.key === "Home" ? 0 : Infinity);
    event.preventDefault();
  } else if (side && page.sides.length > 1 && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const other = page.sides[event.key === "ArrowRight" ? 1 : 0];
    if (other !== side) {
      // The same document, if the other side found it, or else that at the same height.
      const same = other.items?.get(side.hits[place].id);
      other.focus(same ? same.hit.rank - 1 : place);
    }
    event.preventDefault();
  }
}

function begin() {
  const query = find("query");
  query.value = page.query = address.get("q") ?? "";
  const asked = Number(address.get("k"));
  if (Number.isInteger(asked) && asked >= 1 && asked <= 1000) page.k = asked;
  const k = find("k"),
    counts = [...new Set([...COUNTS, page.k])].sort((a, b) => a - b);
  k.replaceChildren(...counts.map(one => el("option", {value: one, selected: one === page.k}, `${one} hits`)));
  k.addEventListener("change", () => {
    page.k = Number(k.value);
    search();
  });
  filters.read(json("filters"), address.get("where"));
  page.sides.push(new Side(page, "A", json("a")));
  setSides(address.has("b"));
  address.delete("b"); // a second side that is opened later is a copy of the first
  query.addEventListener("compositionstart", () => {
    composing = true;
  });
  query.addEventListener("compositionend", () => {
    composing = false;
    later();
  });
  query.addEventListener("input", event => {
    if (!event.isComposing) later();
  });
  find("form").addEventListener("submit", event => {
    event.preventDefault();
    search();
  });
  find("show-filters").addEventListener("click", () => {
    showFilters(find("filters").hidden);
    if (!find("filters").hidden && !filters.rows.length) find("filters").querySelector("button").click();
  });
  find("show-other").addEventListener("click", () => {
    setSides(page.sides.length < 2);
    if (page.sides[1])
      page.sides[0].place.querySelector("details").open = page.sides[1].place.querySelector("details").open = true;
    search();
  });
  find("show-map").addEventListener("click", () => {
    showMap(find("map").hidden);
    note();
  });
  document.addEventListener("keydown", keys);
  addEventListener("popstate", () => {
    const id = new URLSearchParams(location.search).get("open"),
      [side] = page.sides;
    if (id === null && reader.isOpen) reader.dialog.close();
    else if (id !== null) reader.open(side, side.hits.find(hit => hit.id === id) ?? {id});
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look();
  });
  let turn = 0,
    last = Date.now();
  for (const name of ["keydown", "pointermove"])
    addEventListener(
      name,
      () => {
        last = Date.now();
      },
      {passive: true},
    );
  setInterval(() => {
    turn += 1;
    if (!document.hidden && (Date.now() - last < IDLE || turn % 8 === 0)) look();
  }, LOOK);
  new ResizeObserver(drawLines).observe(find("sides"));
  const shownId = address.get("open"),
    mapped = address.get("map") === "1";
  start = async () => {
    showFilters(filters.active > 0);
    if (mapped) showMap(true);
    await search();
    if (shownId !== null) openId(shownId);
  };
  look();
}

begin();
