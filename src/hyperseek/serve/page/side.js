// One side: its settings, its hits, and what moved between two sides.

import {ask} from "./server.js";
import {readSettings, requested, showSettings, titleOf} from "./settings.js";
import {Characters, count, el, foreign, marked, oneLine, scored} from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

export class Side {
  /**
   * @param {object} page What it reads of the page: `indexes`, `query`, `k`, `where`, `link`, and whom it tells:
   *     `changed`, `open`, `found`, `failed`.
   * @param {string} name As in "A".
   * @param {unknown} given Settings, of a link.
   */
  constructor(page, name, given) {
    Object.assign(this, {page, name, hits: [], asked: "", answer: null, failure: null, running: null, again: 0, timer: 0});
    this.settings = readSettings(given);
    this.title = el("span", {});
    this.how = el("div", {class: "how-body"});
    this.list = el("ol", {class: "hits", "aria-label": "Hits"});
    this.empty = el("p", {class: "empty", hidden: true});
    this.told = el("p", {class: "moved"});
    const other = name === "A" ? "B" : "A";
    this.place = el(
      "section",
      {class: "side", "data-side": name, "aria-label": `Side ${name}`},
      el("button", {type: "button", class: "switch", click: () => page.show(other)}, `Show side ${other}`),
      el(
        "details",
        {class: "how"},
        el("summary", {}, el("i", {"aria-hidden": "true"}, name), el("small", {}, "Method"), this.title),
        this.how,
      ),
      this.told,
      this.list,
      this.empty,
    );
  }

  get index() {
    const {indexes} = this.page;
    return indexes.find(one => one.name === this.settings.index) ?? indexes[0];
  }

  /** Show the settings again, after the indexes or the settings changed. */
  settle() {
    if (!this.index) return;
    showSettings(this.how, this.settings, this.page.indexes, this.index, soon => this.page.changed(this, soon));
    this.retitle();
  }

  retitle() {
    this.title.textContent = titleOf(this.settings, this.index);
    this.place.setAttribute("aria-label", `Side ${this.name}: ${this.title.textContent}`);
  }

  /** Return what is asked; a Failure of the settings is thrown. */
  request() {
    const {query, k, where} = this.page;
    return {query, k, where, ...requested(this.settings, this.index, k)};
  }

  /** Search; an answer that came too late is dropped, and a request that nobody waits for is ended. */
  async search() {
    this.running?.abort();
    clearTimeout(this.again);
    const running = (this.running = new AbortController());
    if (!this.page.query.trim() || !this.index) {
      this.running = null;
      this.show({hits: []}, "");
      return;
    }
    this.place.setAttribute("aria-busy", "true");
    try {
      const request = this.request();
      const answer = await ask("search", {body: request, signal: running.signal});
      if (this.running !== running) return;
      const {hits} = answer.queries[0];
      this.answer = answer;
      this.show({hits}, JSON.stringify([request.query, request.k, request.where]));
      this.page.found(this);
    } catch (error) {
      if (error.name === "AbortError" || this.running !== running) return;
      this.page.failed(this, error);
      if (error.wait) this.again = setTimeout(() => this.search(), 1000 * Math.min(30, error.wait));
    } finally {
      if (this.running === running) {
        this.running = null;
        this.place.removeAttribute("aria-busy");
      }
    }
  }

  stop() {
    this.running?.abort();
    for (const timer of [this.again, this.timer]) clearTimeout(timer);
  }

  show({hits}, asked) {
    const held = document.activeElement,
      kept = this.list.contains(held) ? held.closest("li")?.hit : null;
    this.hits = hits.map((hit, place) => ({...hit, rank: place + 1}));
    this.asked = asked;
    this.items = new Map(this.hits.map(hit => [hit.id, this.item(hit)]));
    this.list.replaceChildren(...this.items.values());
    this.empty.hidden = hits.length > 0 || !asked;
    this.empty.textContent = this.page.where ? "No document meets the filters." : "Nothing was found.";
    this.told.textContent = "";
    if (kept) (this.items.get(kept.id) ?? this.list.firstElementChild)?.querySelector("a").focus({preventScroll: true});
  }

  item(hit) {
    const best = hit.passages?.[0],
      title = hit.title && oneLine(hit.title) ? hit.title : hit.id;
    const open = el(
      "a",
      {
        href: this.page.link(hit.id),
        class: "title",
        dir: "auto",
        click: event => {
          if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // in a tab of its own
          event.preventDefault();
          this.page.open(this, hit);
        },
      },
      oneLine(title) || "(no title)",
    );
    const above = [...(title === hit.id ? [] : [hit.id]), ...(best?.headings ?? []).filter(part => part !== hit.title)];
    const item = el(
      "li",
      {class: "hit"},
      el(
        "div",
        {class: "rank"},
        el("span", {}, el("span", {class: "unseen"}, "Rank "), String(hit.rank)),
        el("b", {class: "move"}),
      ),
      el(
        "div",
        {class: "body"},
        el("h2", {}, open),
        above.length
          ? el(
              "p",
              {class: "above"},
              above.map(part => foreign("bdi", {}, part)),
            )
          : null,
        hit.snippet ? el("p", {class: "snippet", dir: "auto"}, snippetOf(hit)) : null,
      ),
      el(
        "span",
        {class: "score", title: `Score ${hit.score}`},
        el("span", {class: "unseen"}, "Score "),
        scored(hit.score),
      ),
    );
    item.hit = hit;
    item.addEventListener("mouseenter", () => this.page.pointed(hit.id, true));
    item.addEventListener("mouseleave", () => this.page.pointed(hit.id, false));
    open.addEventListener("focus", () => this.page.pointed(hit.id, true));
    open.addEventListener("blur", () => this.page.pointed(hit.id, false));
    item.addEventListener("click", event => {
      // The whole card is a target, but texts in it can be selected.
      if (!event.target.closest("a") && !String(getSelection())) this.page.open(this, hit);
    });
    return item;
  }

  /** The hit that has the focus, as its place in the list; -1 for none. */
  get focused() {
    return [...this.list.children].indexOf(document.activeElement?.closest?.(".hits > li"));
  }

  focus(place) {
    const items = this.list.children;
    if (!items.length) return false;
    const link = items[Math.max(0, Math.min(items.length - 1, place))].querySelector("a");
    link.focus({preventScroll: true});
    link.closest("li").scrollIntoView({block: "nearest", behavior: "auto"});
    return true;
  }
}

/** Return the nodes of a hit's snippet, with dots where its text goes on. */
function snippetOf({snippet, passages, text}) {
  const nodes = marked(snippet.text, snippet.highlights);
  const begins = passages?.length ? passages[0].start : 0,
    whole = new Characters(text ?? "");
  if (snippet.start > begins && whole.slice(0, snippet.start - begins).trim()) nodes.unshift("… ");
  if (snippet.end - begins < whole.length && whole.slice(snippet.end - begins, whole.length).trim()) nodes.push(" …");
  return nodes;
}

/** Say at each hit where it was on the other side, and above the lists what they have in common. */
export function compare(first, second) {
  if (!first.asked || first.asked !== second.asked) return;
  const before = new Map(first.hits.map(hit => [hit.id, hit.rank])),
    after = new Map(second.hits.map(hit => [hit.id, hit.rank]));
  const tell = (item, text, kind, words) => {
    const badge = item.querySelector(".move");
    badge.className = `move ${kind}`;
    badge.replaceChildren(el("span", {"aria-hidden": "true"}, text), el("span", {class: "unseen"}, `, ${words}`));
  };
  for (const [id, item] of first.items) {
    if (after.has(id)) tell(item, "", "", `rank ${after.get(id)} on the other side`);
    else tell(item, "left", "left", "not found by the other side");
  }
  let up = 0,
    down = 0,
    common = 0;
  for (const [id, item] of second.items) {
    const was = before.get(id),
      now = after.get(id);
    if (was === undefined) {
      tell(item, "new", "new", "not found by the first side");
      continue;
    }
    common += 1;
    up += was > now;
    down += was < now;
    if (was > now) tell(item, `▲ ${was - now}`, "up", `up by ${was - now}`);
    else if (was < now) tell(item, `▼ ${now - was}`, "down", `down by ${now - was}`);
    else tell(item, "=", "same", "the same rank");
  }
  const gone = first.hits.length - common,
    entered = second.hits.length - common;
  first.told.textContent = `${count(common)} in common, ${count(gone)} left`;
  second.told.textContent = `${count(up)} up, ${count(down)} down, ${count(entered)} entered`;
}

/** Draw lines from each hit of the first side to the same of the second. */
export function drawMoves(svg, first, second) {
  const box = svg.getBoundingClientRect();
  svg.replaceChildren();
  if (!box.width || !box.height || first.asked !== second.asked) return;
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  const middle = item => {
    const own = item.querySelector(".rank span").getBoundingClientRect();
    return own.top + own.height / 2 - box.top;
  };
  const lines = [];
  for (const [id, item] of first.items) {
    const other = second.items.get(id);
    const line = document.createElementNS(SVG, "path"),
      start = middle(item),
      end = other ? middle(other) : start;
    const wide = box.width;
    line.setAttribute(
      "d",
      other ? `M0 ${start}C${wide / 2} ${start} ${wide / 2} ${end} ${wide} ${end}` : `M0 ${start}h${wide * 0.3}`,
    );
    const kind = !other
      ? "left"
      : other.hit.rank < item.hit.rank
        ? "up"
        : other.hit.rank > item.hit.rank
          ? "down"
          : "same";
    line.setAttribute("class", kind);
    line.dataset.id = id;
    lines.push(line);
  }
  svg.append(...lines); // at the end, or each place that is read would be laid out anew
}
