// The reader: a whole document with its passages marked, and why it was found.

import {documentNodes} from "./document.js";
import {ask} from "./server.js";
import {described, methods, titleOf} from "./settings.js";
import {Characters, count, el, foreign, oneLine, plural, scored, shown} from "./text.js";

const CODE = /\.(py|js|ts|c|h|cc|cpp|rs|go|java|rb|sh|sql|json|ya?ml|toml|tex|log|csv|tsv)$/;

export class Reader {
  /** @param {HTMLDialogElement} dialog @param {object} page As for Side; also `closed` and `beside`. */
  constructor(dialog, page) {
    Object.assign(this, {dialog, page, side: null, hit: null, passage: 0, marks: [], running: null});
    dialog.addEventListener("close", () => {
      this.running?.abort();
      page.closed(this.side, this.hit);
    });
    dialog.addEventListener("click", event => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", event => this.key(event));
  }

  get isOpen() {
    return this.dialog.open;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [role=tab]"))
      return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      event.preventDefault();
      this.page.beside(this.side, this.hit, event.key === "ArrowRight" ? 1 : -1);
    } else if (event.key === "n" || event.key === "p") {
      event.preventDefault();
      this.go(this.passage + (event.key === "n" ? 1 : -1));
    }
  }

  /** Open a hit of a side; a hit of a link is only an id. */
  async open(side, hit) {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const changed = this.hit?.id !== hit.id || this.side !== side;
    Object.assign(this, {side, hit});
    if (changed || !this.dialog.open) this.frame(hit);
    else if (this.chosen === "why") this.explain();
    else this.explained = false;
    if (!this.dialog.open) this.dialog.showModal();
    if (changed) this.dialog.querySelector("#reader-title").focus();
    try {
      // Not by its address, in which browsers resolve an id such as `../notes`.
      const {
        documents: [found],
      } = await ask("documents/get", {body: {index: side.index.name, ids: [hit.id]}, signal: running.signal});
      if (this.running !== running) return;
      if (found) this.fill(found, hit, changed);
      else this.fail("This document is no longer in the index.");
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error.message);
    }
  }

  fail(message) {
    this.text.replaceChildren(el("p", {class: "wrong", role: "alert"}, shown(message)));
    this.passages.replaceChildren();
  }

  /** Show the frame, with what the hit has already. */
  frame(hit) {
    const title = oneLine(hit.title ?? "") ? hit.title : hit.id;
    this.text = el("div", {class: "text", dir: "auto"});
    this.why = el("div", {class: "why"});
    this.passages = el("div", {class: "passages buttons"});
    this.fields = el("details", {class: "metadata", hidden: true});
    const tab = (name, label, panel) => {
      panel.id = `reader-${name}`;
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", `reader-tab-${name}`);
      return el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `reader-tab-${name}`,
          "aria-controls": panel.id,
          click: () => this.choose(name),
        },
        label,
      );
    };
    this.stale = el("p", {class: "hint", role: "status"});
    const document_ = el("div", {}, this.stale, this.fields, this.text);
    this.tabs = {
      document: [tab("document", "Document", document_), document_],
      why: [tab("why", "Why it was found", this.why), this.why],
    };
    const bar = el(
      "div",
      {
        role: "tablist",
        "aria-label": "What is shown",
        keydown: event => {
          if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
          event.preventDefault();
          this.choose(this.chosen === "document" ? "why" : "document");
          this.tabs[this.chosen][0].focus();
        },
      },
      this.tabs.document[0],
      this.tabs.why[0],
    );
    const step = (label, sign, by) =>
      el(
        "button",
        {
          type: "button",
          class: "plain",
          "aria-label": label,
          title: label,
          click: () => this.page.beside(this.side, this.hit, by),
        },
        sign,
      );
    this.dialog.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {class: "row"},
          el("p", {class: "above"}, hit.rank ? el("span", {}, `Rank ${hit.rank}`) : null, foreign("bdi", {}, hit.id)),
          el(
            "div",
            {class: "buttons"},
            step("Previous hit", "←", -1),
            step("Next hit", "→", 1),
            el(
              "button",
              {
                type: "button",
                class: "plain",
                "aria-label": "Close",
                title: "Close (Esc)",
                click: () => this.dialog.close(),
              },
              "✕",
            ),
          ),
        ),
        el("h2", {id: "reader-title", tabindex: -1, dir: "auto"}, oneLine(title)),
        el("div", {class: "row"}, bar, this.passages),
      ),
      document_,
      this.why,
    );
    this.choose("document");
    this.explained = false;
  }

  choose(name) {
    this.chosen = name;
    for (const [own, [tab, panel]] of Object.entries(this.tabs)) {
      tab.setAttribute("aria-selected", String(own === name));
      tab.tabIndex = own === name ? 0 : -1;
      panel.hidden = own !== name;
    }
    this.passages.hidden = name !== "document";
    if (name === "why" && !this.explained) this.explain();
  }

  /** Show a document, with the passages of the hit marked as far as they are still in it. */
  fill(found, hit, scroll) {
    const title = this.dialog.querySelector("#reader-title");
    if (oneLine(found.title)) title.textContent = oneLine(found.title);
    const text = new Characters(found.text),
      {spans, stale} = this.spans(text, hit);
    const form =
      found.metadata.format === "markdown" ? "markdown" : CODE.test(found.metadata.path ?? found.id) ? "code" : "text";
    this.text.className = `text ${form}`;
    this.text.replaceChildren(
      ...documentNodes(
        found.text,
        spans.map(span => ({...span, start: text.unit(span.start), end: text.unit(span.end)})),
        form,
      ),
    );
    this.marks = [...new Set(spans.filter(span => span.passage !== undefined).map(span => span.passage))].sort(
      (a, b) => a - b,
    );
    this.showFields(found.metadata);
    this.passages.replaceChildren();
    this.stale.textContent = stale ? "This document has changed since it was found." : "";
    if (this.marks.length > 1) {
      const button = (label, sign, by) =>
        el(
          "button",
          {
            type: "button",
            class: "plain",
            "aria-label": label,
            title: `${label} (${by < 0 ? "p" : "n"})`,
            click: () => this.go(this.passage + by),
          },
          sign,
        );
      this.passageTold = el("span", {role: "status"});
      this.passages.append(this.passageTold, button("Previous passage", "↑", -1), button("Next passage", "↓", 1));
    } else this.passageTold = null;
    this.passage = Math.min(this.passage, Math.max(0, this.marks.length - 1));
    if (scroll) this.go(0);
    else this.stand();
  }

  /** Return what is marked: passages, the best one first, and the words of the snippet. */
  spans(text, hit) {
    const spans = [],
      snippet = hit.snippet;
    let stale = false;
    const place = (part, start) => {
      if (text.slice(start, start + new Characters(part).length) === part) return start;
      const found = text.find(part, start);
      stale = true;
      return found;
    };
    const wanted = hit.passages?.length ? hit.passages : snippet ? [snippet] : [];
    wanted.forEach((passage, number) => {
      const start = place(passage.text, passage.start);
      if (start >= 0) spans.push({start, end: start + new Characters(passage.text).length, passage: number});
    });
    if (snippet) {
      const start = place(snippet.text, snippet.start);
      if (start >= 0)
        for (const [from, to] of snippet.highlights) spans.push({start: start + from, end: start + to, word: true});
    }
    return {spans, stale};
  }

  showFields(metadata) {
    const names = Object.entries(metadata);
    this.fields.hidden = !names.length;
    this.fields.replaceChildren(
      el("summary", {}, plural(names.length, "field")),
      el(
        "dl",
        {},
        names.map(([name, value]) => [
          foreign("dt", {}, name),
          foreign("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
        ]),
      ),
    );
  }

  /** Let the passage that is read stand out, and return its parts. */
  stand() {
    const own = this.text.querySelectorAll(`[data-passage="${this.marks[this.passage]}"]`);
    for (const part of this.text.querySelectorAll(".at")) part.classList.remove("at");
    for (const part of own) part.classList.add("at");
    if (this.passageTold) {
      this.passageTold.textContent = this.passage
        ? `Passage ${this.passage + 1} of ${this.marks.length}`
        : `Best of ${this.marks.length} passages`;
    }
    return own;
  }

  /** Scroll to a passage. */
  go(number) {
    if (!this.marks.length) return;
    this.passage = (number + this.marks.length) % this.marks.length;
    const own = this.stand(),
      target = [...own].flatMap(part => [...part.querySelectorAll("mark")])[0] ?? own[0];
    let before = NaN,
      turns = 20;
    // Again until it stays: parts that were left out of the layout have their height only once they are near.
    const bring = () => {
      if (!target?.isConnected) return;
      target.scrollIntoView({block: "center", behavior: "auto"});
      const {scrollTop} = this.dialog;
      if (Math.abs(scrollTop - before) < 1 || (turns -= 1) < 0) return;
      before = scrollTop;
      requestAnimationFrame(bring);
    };
    bring();
  }

  /** Say where the model alone, and the words alone, rank the document. */
  async elsewhere(body) {
    const {side, hit} = this,
      others = methods(side.index, FAR).filter(
        ([name]) => ["exact", "words"].includes(name) && name !== side.settings.method,
      );
    const rows = await Promise.all(
      others.map(async ([, label, about, how]) => {
        const {
          queries: [{hits}],
        } = await ask("search", {
          body: {...body, engine: "auto", plan: null, ...how, k: FAR, texts: false, matches: false},
          signal: this.running?.signal,
        });
        const place = hits.findIndex(one => one.id === hit.id);
        const told =
          place < 0 ? `not among its best ${hits.length}` : `rank ${place + 1}, score ${scored(hits[place].score, 4)}`;
        const bar = el("i", {"aria-hidden": "true"});
        bar.style.setProperty("--share", place < 0 ? 0 : 1 / (place + 1));
        return el(
          "li",
          {},
          bar,
          el("b", {}, label),
          el("span", {class: "numbers"}, el("span", {}, told), el("span", {}, about)),
        );
      }),
    );
    return el("section", {class: "elsewhere"}, el("h3", {}, "Where others rank it"), el("ol", {class: "stages"}, rows));
  }

  async explain() {
    this.explained = true;
    const {side, hit} = this;
    this.why.replaceChildren(el("p", {class: "hint", role: "status"}, "Asking…"));
    try {
      const body = {...side.request(), matches: true};
      const {explanation, queries} = await ask("explain", {body, signal: this.running?.signal});
      const own = queries[0].hits.find(one => one.id === hit.id);
      this.why.replaceChildren(
        ...whyOf(explanation, own, queries[0].hits, titleOf(side.settings, side.index)),
        await this.elsewhere(body),
      );
    } catch (error) {
      if (error.name === "AbortError") return;
      this.why.replaceChildren(el("p", {class: "wrong", role: "alert"}, shown(error.message)));
    }
  }
}

/** The documents that other methods are asked for, to tell where they rank one. */
const FAR = 100;

/** Return what a search did, and what it has to do with one hit. */
function whyOf({plan, reason, documents, passages, stages}, hit, hits, title) {
  const nodes = [],
    total = stages.reduce((sum, stage) => sum + stage.seconds, 0) || 1;
  if (hit) {
    const place = hits.indexOf(hit),
      [above, below] = [hits[place - 1], hits[place + 1]];
    const gap = [
      above && `${(above.score - hit.score).toPrecision(2)} below the hit before`,
      below && `${(hit.score - below.score).toPrecision(2)} above the next`,
    ];
    nodes.push(
      el(
        "p",
        {class: "verdict"},
        `Rank ${place + 1} of ${hits.length} with a score of ${scored(hit.score, 4)}`,
        gap.some(Boolean) ? `: ${gap.filter(Boolean).join(", ")}.` : ".",
      ),
    );
  } else nodes.push(el("p", {class: "verdict"}, "The search does not find this document any more."));
  nodes.push(
    el("h3", {}, "How it was searched"),
    el("p", {class: "hint"}, `${title}: ${shown(reason)}. ${described({documents, passages})}.`),
    el(
      "ol",
      {class: "stages"},
      stages.map(stage => {
        const queries = Math.max(1, stage.queries),
          bar = el("i", {"aria-hidden": "true"});
        bar.style.setProperty("--share", stage.seconds / total);
        const notes = Object.entries(stage.notes ?? {}).map(
          ([name, value]) => `${shown(name)} ${count(Math.round(value))}`,
        );
        return el(
          "li",
          {},
          bar,
          el("b", {}, shown(stage.title)),
          el(
            "span",
            {class: "numbers"},
            el("span", {}, `${((1000 * stage.seconds) / queries).toFixed(2)} ms`),
            el("span", {}, plural(Math.round(stage.candidates / queries), "candidate")),
            stage.recall === null || stage.recall === undefined
              ? null
              : el("span", {class: stage.recall < 0.95 ? "low" : ""}, `recall ${stage.recall.toFixed(3)}`),
            notes.length ? el("span", {}, notes.join(", ")) : null,
          ),
        );
      }),
    ),
    el(
      "details",
      {},
      el("summary", {}, "The plan"),
      el("pre", {class: "code"}, shown(typeof plan === "string" ? plan : JSON.stringify(plan, null, 2))),
    ),
  );
  if (hit?.passages?.length) {
    const most = Math.max(...hit.passages.map(passage => passage.score)),
      least = Math.min(0, ...hit.passages.map(passage => passage.score));
    nodes.push(
      el("h3", {}, "Its passages"),
      el(
        "ol",
        {class: "stages"},
        hit.passages.map(passage => {
          const bar = el("i", {"aria-hidden": "true"});
          bar.style.setProperty("--share", most > least ? (passage.score - least) / (most - least) : 1);
          return el(
            "li",
            {},
            bar,
            foreign("b", {}, passage.headings.at(-1) ?? passage.text.slice(0, 80)),
            el(
              "span",
              {class: "numbers"},
              el("span", {}, `score ${scored(passage.score, 4)}`),
              el("span", {}, `characters ${count(passage.start)} to ${count(passage.end)}`),
            ),
          );
        }),
      ),
    );
  }
  if (hit?.matches?.length) nodes.push(...matchesOf(hit.matches));
  return nodes;
}

const spelt = tokens => tokens.map(({text, kind}) => (kind === "text" ? text : `${text} (${kind})`)).join(" ") || "?";

/** Return the token of the document that each token of the query found. */
function matchesOf(matches) {
  const most = Math.max(...matches.map(match => Math.abs(match.share))) || 1;
  return [
    el("h3", {}, "What each token found"),
    el(
      "div",
      {class: "scroll", tabindex: 0, role: "region", "aria-label": "Matched tokens"},
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["Query", "Document", "Similarity", "Share of the score"].map(name => el("th", {scope: "col"}, name)),
          ),
        ),
        el(
          "tbody",
          {},
          matches.map(match => {
            const bar = el("i", {class: "bar", "aria-hidden": "true"});
            bar.style.setProperty("--share", Math.max(0, match.share) / most);
            return el(
              "tr",
              {},
              foreign("td", {}, spelt(match.query)),
              foreign("td", {}, spelt(match.document)),
              el("td", {}, match.similarity.toFixed(3)),
              el("td", {}, bar, match.share.toFixed(3)),
            );
          }),
        ),
      ),
    ),
  ];
}
