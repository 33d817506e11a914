// How one side searches: its index, its scorer or plan, levels, and card, as far as the index has them.

import {Failure} from "./server.js";
import {el, plural, select, shown} from "./text.js";

const fused = n => ({
  stages: [
    {
      kind: "fusion",
      sources: [
        {kind: "full_text", n},
        {kind: "auto", n},
      ],
    },
  ],
});
const RELATIONS = [
  ["distance", "near the query"],
  ["is_a", "what the query is a kind of"],
  ["cone", "whose cone holds the query"],
];
const CARD_FIELDS = [
  ["name", "Name", "A short name of one line"],
  ["description", "What makes a document relevant", "Abstracts that support or refute a scientific claim"],
  ["query_examples", "Queries of the task, one a line", ""],
  ["doc_examples", "Relevant documents, one a line", ""],
  ["domain", "Domain", "finance"],
  ["query_type", "Kind of queries", "factoid"],
];
const LISTS = new Set(["query_examples", "doc_examples"]);

/** Return the ways to search an index for `k` documents: `[name, label, what it is, what a request has]`. */
export function methods(index, k = 10) {
  const n = Math.max(100, (index.passages ? 10 : 1) * k); // candidates, which may be passages
  const found = [
    ["auto", "Automatic", "the tuned plan of the index, or what its size suggests", {}],
    ["exact", "Exact", "every document scored by the model", {engine: "exact"}],
    ["hybrid", "Hybrid", "the words of the query and the model, fused by rank", {plan: fused(n)}],
    ["words", "Words only", "BM25 over titles and texts", {plan: {kind: "full_text", n}}],
    [
      "feedback",
      "Feedback",
      "the query moved towards its best document, then asked again",
      {plan: {stages: [{kind: "auto", n}, {kind: "feedback"}]}},
    ],
  ];
  if (index.levels > 1) {
    found.push([
      "broad",
      "Broad to narrow",
      "a neighbourhood at level 1, decided at the level of the search",
      {plan: {stages: [{kind: "nearest", n: 3000, options: {level: 1}}, {kind: "rescore"}]}},
    ]);
  }
  for (const engine of index.engines ?? []) {
    const name = typeof engine === "string" ? engine : engine.name;
    found.push([
      `engine:${name}`,
      `Engine ${shown(name)}`,
      "candidates of this engine, scored exactly",
      {engine: name},
    ]);
  }
  found.push(["plan", "A plan of yours", "stages, as in a file of `--plan`", {}]);
  return found;
}

/** The settings of a side as a link has them, with everything that is not what it should be left out. */
export function readSettings(given) {
  const plain = typeof given === "object" && given !== null ? given : {},
    found = {method: "auto", options: {}};
  for (const name of ["index", "method", "plan"]) if (typeof plain[name] === "string") found[name] = plain[name];
  for (const [name, value] of Object.entries(plain.options ?? {})) {
    const fits = name === "relation" ? RELATIONS.some(([one]) => one === value) : Number.isFinite(value);
    if (["level", "document_level", "broaden", "relation", "radius_weight"].includes(name) && fits)
      found.options[name] = value;
  }
  if (typeof plain.card === "string" || (typeof plain.card === "object" && plain.card !== null))
    found.card = plain.card;
  return found;
}

/** Return what a request has for these settings of an index. */
export function requested(settings, index, k) {
  const known = methods(index, k),
    chosen = known.find(([name]) => name === settings.method) ?? known[0];
  const request = {index: index.name, ...chosen[3]};
  if (chosen[0] === "plan" && settings.plan?.trim()) {
    try {
      request.plan = JSON.parse(settings.plan);
    } catch (error) {
      throw new Failure(`The plan is not JSON: ${error.message}`, {status: 400});
    }
  }
  if (index.levels > 1 && Object.keys(settings.options).length) request.options = settings.options;
  if (index.cards && settings.card) request.card = settings.card;
  return request;
}

/** Return the name of a side for people. */
export function titleOf(settings, index) {
  const [, label] = methods(index).find(([name]) => name === settings.method) ?? methods(index)[0];
  const {level, document_level: other, broaden} = settings.options,
    parts = [label];
  if (index.levels > 1 && broaden !== undefined) parts.push(`broadened by ${broaden}`);
  if (index.levels > 1 && level !== undefined) parts.push(`level ${level}${other === undefined ? "" : ` of ${other}`}`);
  if (index.cards && settings.card) parts.push(`card ${shown(settings.card.name ?? settings.card)}`);
  return parts.join(", ");
}

/**
 * Show the settings of a side.
 * @param {HTMLElement} place
 * @param {object} settings They are changed in place.
 * @param {object[]} indexes
 * @param {object} index The one that is searched.
 * @param {(soon?: boolean) => void} changed Called after each change; `soon` where more of them may follow.
 */
export function showSettings(place, settings, indexes, index, changed) {
  const again = () => {
    const name = document.activeElement?.getAttribute("aria-label");
    showSettings(place, settings, indexes, indexes.find(one => one.name === settings.index) ?? index, changed);
    if (name && !place.contains(document.activeElement))
      place.querySelector(`[aria-label="${CSS.escape(name)}"]`)?.focus();
  };
  const known = methods(index);
  if (!known.some(([name]) => name === settings.method)) settings.method = "auto"; // of an engine that is gone
  const parts = [];
  if (indexes.length > 1) {
    parts.push(
      select(
        "Index",
        indexes.map(one => [one.name, shown(one.name)]),
        index.name,
        value => {
          settings.index = value;
          again();
          changed();
        },
      ),
    );
  }
  parts.push(
    select(
      "How to search",
      known.map(([name, label]) => [name, label]),
      settings.method,
      value => {
        settings.method = value;
        if (value === "plan") settings.plan ??= JSON.stringify(fused(100), null, 2);
        again();
        changed();
      },
    ),
  );
  parts.push(el("p", {class: "about"}, known.find(([name]) => name === settings.method)[2]));
  if (settings.method === "plan") parts.push(planEditor(settings, changed));
  if (index.levels > 1) parts.push(levelSliders(settings, index.levels, again, changed));
  if (index.cards) parts.push(cardEditor(settings, index.cards, changed));
  place.replaceChildren(...parts);
}

function planEditor(settings, changed) {
  const wrong = el("p", {class: "wrong", role: "alert"});
  const text = el("textarea", {rows: 7, spellcheck: "false", "aria-label": "Plan in JSON", class: "code"});
  text.value = settings.plan ?? "";
  const apply = () => {
    try {
      JSON.parse(text.value);
    } catch (error) {
      wrong.textContent = `This is not JSON: ${error.message}`;
      return;
    }
    wrong.textContent = "";
    settings.plan = text.value;
    changed();
  };
  return el("div", {class: "editor"}, text, wrong, el("button", {type: "button", click: apply}, "Apply the plan"));
}

function levelSliders(settings, levels, again, changed) {
  const {options} = settings;
  const mode =
    options.broaden !== undefined
      ? "broaden"
      : options.document_level !== undefined
        ? "two"
        : options.level !== undefined
          ? "one"
          : "narrow";
  const slider = (name, label, least, most, step, value) => {
    const told = el("output", {}, String(value));
    const input = el("input", {
      type: "range",
      min: least,
      max: most,
      step,
      value,
      "aria-label": label,
      input: () => {
        options[name] = Number(input.value);
        told.textContent = input.value;
        changed(true);
      },
    });
    return el("label", {class: "slider"}, el("span", {}, label), input, told);
  };
  const modes = [
    ["narrow", `The narrowest level, ${levels}`],
    ["one", "One level"],
    ["two", "Two levels"],
    ["broaden", "Between levels"],
  ];
  const parts = [
    el(
      "label",
      {class: "line"},
      el("span", {}, "Levels"),
      select("Levels", modes, mode, value => {
        const level = options.level ?? levels;
        for (const name of ["level", "document_level", "broaden"]) delete options[name];
        if (value === "one" || value === "two") options.level = level;
        if (value === "two") options.document_level = level;
        if (value === "broaden") options.broaden = 0.5;
        again();
        changed();
      }),
    ),
  ];
  if (mode === "one" || mode === "two") parts.push(slider("level", "Level of the query", 1, levels, 1, options.level));
  if (mode === "two") parts.push(slider("document_level", "Level of documents", 1, levels, 1, options.document_level));
  if (mode === "broaden") parts.push(slider("broaden", "Narrow to broad", 0, 1, 0.05, options.broaden));
  parts.push(
    el(
      "label",
      {class: "line"},
      el("span", {}, "Documents"),
      select("Relation", RELATIONS, options.relation ?? "distance", value => {
        if (value === "distance") delete options.relation;
        else options.relation = value;
        changed();
      }),
    ),
  );
  return el("fieldset", {class: "levels"}, el("legend", {class: "unseen"}, "Levels"), parts);
}

function cardEditor(settings, names, changed) {
  const known = Array.isArray(names) ? names : [];
  const wrong = el("p", {class: "wrong", role: "alert"});
  const json = el("textarea", {class: "code", rows: 10, spellcheck: "false", "aria-label": "Card in JSON"});
  const fields = new Map(
    CARD_FIELDS.map(([name, label, hint]) => {
      const long = name === "description" || LISTS.has(name);
      const given = {type: long ? null : "text", rows: long ? 3 : null, placeholder: hint, "aria-label": label};
      return [name, el(long ? "textarea" : "input", given)];
    }),
  );
  const told = value => (Array.isArray(value) ? value.join("\n") : String(value ?? ""));
  /** The card as it is written in JSON; null where that cannot be read. */
  const written = () => {
    try {
      const card = JSON.parse(json.value);
      return typeof card === "object" && !Array.isArray(card) ? card : null;
    } catch {
      return null;
    }
  };
  const fill = card => {
    for (const [name, field] of fields) field.value = told(card[name]);
  };
  // What the form has no field for, as judged pairs and examples of several lines, stays as it is in the JSON.
  const write = () => {
    const card = {version: 1, ...written()};
    for (const [name, field] of fields) {
      if (field.value === told(card[name])) continue;
      const lines = field.value.split("\n").map(line => line.trim());
      const value = LISTS.has(name) ? lines.filter(Boolean) : field.value.trim();
      if (value.length) card[name] = value;
      else delete card[name];
    }
    json.value = JSON.stringify(card, null, 2);
  };
  const card = typeof settings.card === "object" ? settings.card : {version: 1};
  json.value = JSON.stringify(card, null, 2);
  fill(card);
  json.addEventListener("input", () => fill(written() ?? {}));
  for (const field of fields.values()) field.addEventListener("input", write);
  const state = el("p", {class: "hint", role: "status"});
  const tell = () => {
    state.textContent = settings.card ? `In use: ${shown(settings.card.name ?? settings.card)}` : "No card is in use.";
  };
  const use = value => {
    if (value) settings.card = value;
    else delete settings.card;
    wrong.textContent = "";
    tell();
    changed();
  };
  const apply = () => {
    let value;
    try {
      value = JSON.parse(json.value);
    } catch (error) {
      wrong.textContent = `This is not JSON: ${error.message}`;
      return;
    }
    if (written() === null) wrong.textContent = 'A card is an object, as in {"name": …}.';
    else if (!value.name || !value.description) wrong.textContent = "A card needs at least a name and a description.";
    else use(value);
  };
  const form = el(
    "div",
    {class: "fields"},
    CARD_FIELDS.map(([name, label]) => el("label", {}, el("span", {}, label), fields.get(name))),
  );
  const raw = el("details", {}, el("summary", {}, "As JSON"), json);
  tell();
  return el(
    "details",
    {class: "card", open: !!settings.card},
    el("summary", {}, "Task card"),
    known.length
      ? el(
          "label",
          {class: "line"},
          el("span", {}, "Saved cards"),
          select(
            "Saved cards",
            [["", "none"], ...known.map(name => [name, shown(name)])],
            typeof settings.card === "string" ? settings.card : "",
            value => use(value),
          ),
        )
      : null,
    form,
    raw,
    wrong,
    state,
    el(
      "div",
      {class: "buttons"},
      el("button", {type: "button", click: apply}, "Apply the card"),
      el("button", {type: "button", class: "plain", click: () => use(null)}, "Without a card"),
    ),
  );
}

/** Return what an index is, in words. */
export function described({documents, passages}) {
  return plural(documents, "document") + (passages ? ` in ${plural(passages, "passage")}` : "");
}
