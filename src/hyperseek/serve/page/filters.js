// Filters: a row for each condition, with the operators of its field's kind, and the SQL that they make.

import {el, select, shown} from "./text.js";

const OWN = {title: "string", text: "string", id: "string"}; // what every index has
const OPERATORS = {
  string: [
    ["contains", "contains"],
    ["is", "is"],
    ["isnt", "is not"],
    ["begins", "begins with"],
    ["least", "is at least"],
    ["most", "is at most"],
    ["there", "is there"],
    ["missing", "is missing"],
  ],
  number: [
    ["is", "="],
    ["least", "≥"],
    ["most", "≤"],
    ["isnt", "≠"],
    ["there", "is there"],
    ["missing", "is missing"],
  ],
  boolean: [
    ["true", "is true"],
    ["false", "is false"],
    ["missing", "is missing"],
  ],
  "list of strings": [
    ["has", "has"],
    ["lacks", "has not"],
    ["there", "is there"],
    ["missing", "is missing"],
  ],
};
const WITHOUT_VALUE = new Set(["true", "false", "there", "missing"]);
const NUMBER = /^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$/;
const LONGEST_FORM = 256; // of LIKE

const quoted = text => `'${text.replaceAll("'", "''")}'`;

/**
 * Return a condition in SQL; null where it has no value yet.
 * @param {{field: string, is: string, value: string}} row
 * @param {string} kind Of the field.
 * @throws {RangeError} The value is no number and the field wants one.
 */
export function condition({field, is, value}, kind) {
  const name = `\`${field.replaceAll("`", "")}\``;
  if (WITHOUT_VALUE.has(is)) {
    return `${name} IS ${{true: "TRUE", false: "FALSE", there: "NOT NULL", missing: "NULL"}[is]}`;
  }
  const given = kind === "number" ? value.trim() : value;
  if (!given) return null;
  if (kind === "number" && !NUMBER.test(given)) throw new RangeError("Give a number, as in 12 or -1.5");
  const literal = kind === "number" ? given.replace(/^\+/, "") : quoted(given);
  const form = `%${given.replace(/[\\%_]/g, "\\$&")}%`;
  switch (is) {
    case "contains":
      return form.length > LONGEST_FORM ? `contains(${name}, ${literal})` : `${name} ILIKE ${quoted(form)}`;
    case "begins":
      return `starts_with(${name}, ${literal})`;
    case "has":
      return `array_has(${name}, ${literal})`;
    case "lacks":
      return `NOT array_has(${name}, ${literal})`;
    default:
      return `${name} ${{is: "=", isnt: "!=", least: ">=", most: "<="}[is]} ${literal}`;
  }
}

export class Filters {
  /**
   * @param {HTMLElement} place Where they are shown.
   * @param {() => void} changed Called when the condition may be another one.
   */
  constructor(place, changed) {
    Object.assign(this, {place, changed, rows: [], sql: "", fields: OWN, known: new Map()});
  }

  /** Take the fields of an index; rows of fields that it lacks are dropped. */
  of(index) {
    this.fields = {...(index?.fields ?? {}), ...OWN};
    this.rows = this.rows.filter(row => row.field in this.fields);
    this.show();
  }

  /** Take rows and SQL of a link, as far as they can be read. */
  read(rows, sql) {
    const text = value => typeof value === "string";
    this.rows = (Array.isArray(rows) ? rows : [])
      .slice(0, 50)
      .filter(row => Array.isArray(row) && row.length === 3 && row.every(text))
      .map(([field, is, value]) => ({field, is, value}));
    this.sql = text(sql) ? sql : "";
  }

  /** The rows as a link has them. */
  get plain() {
    return this.rows.map(({field, is, value}) => [field, is, value]);
  }

  /** The condition of all rows and of the SQL, or null for none; rows that are not complete are left out. */
  get where() {
    const {parts} = this;
    return parts.length > 1 ? parts.map(part => `(${part})`).join(" AND ") : (parts[0] ?? null);
  }

  /** How many conditions there are. */
  get active() {
    return this.parts.length;
  }

  get parts() {
    const found = this.rows.map(row => {
      try {
        return condition(row, this.fields[row.field]);
      } catch {
        return null; // the row says so
      }
    });
    return [...found, this.sql.trim() || null].filter(part => part !== null);
  }

  /** Remember values of hits, to be suggested. */
  learn(hits) {
    for (const {metadata} of hits)
      for (const [field, value] of Object.entries(metadata ?? {})) {
        if (!this.known.has(field)) this.known.set(field, new Set());
        const values = this.known.get(field);
        for (const one of [value].flat())
          if (values.size < 40 && ["string", "number"].includes(typeof one)) values.add(String(one));
      }
  }

  show(focus = null) {
    const names = Object.keys(this.fields);
    const add = el(
      "button",
      {
        type: "button",
        click: () => {
          const own = names.find(name => !(name in OWN) && !this.rows.some(row => row.field === name)) ?? names[0];
          this.rows.push({field: own, is: OPERATORS[this.fields[own]]?.[0][0] ?? "is", value: ""});
          this.show(this.rows.length - 1);
        },
      },
      "Add a filter",
    );
    const sql = el("textarea", {
      id: "sql",
      rows: 2,
      spellcheck: "false",
      placeholder: "year >= 2015 AND venue IN ('ACL', 'SIGIR')",
      "aria-describedby": "sql-fields",
      input: () => {
        this.sql = sql.value;
        this.changed();
      },
    });
    sql.value = this.sql;
    const fields = names.map(name => `${shown(name)} (${this.fields[name]})`).join(", ");
    this.place.replaceChildren(
      el(
        "ul",
        {class: "rows"},
        this.rows.map((row, place) => this.row(row, place, names)),
      ),
      add,
      el(
        "details",
        {open: this.sql !== ""},
        el("summary", {}, "A condition in SQL"),
        el("label", {class: "unseen", for: "sql"}, "Condition in SQL"),
        sql,
        el("p", {id: "sql-fields", class: "hint"}, "Fields: ", el("bdi", {}, fields)),
      ),
    );
    if (focus !== null) this.place.querySelectorAll(".rows select")[2 * focus]?.focus();
  }

  row(row, place, names) {
    const kind = this.fields[row.field],
      operators = OPERATORS[kind] ?? OPERATORS.string;
    // Until the index is known, so is no field of it.
    if (kind && !operators.some(([name]) => name === row.is)) row.is = operators[0][0];
    const field = select(
      "Field",
      names.map(name => [name, shown(name)]),
      row.field,
      value => {
        Object.assign(row, {field: value, is: "", value: ""});
        this.show(place);
        this.changed();
      },
    );
    const is = select("Comparison", operators, row.is, value => {
      row.is = value;
      this.show();
      this.changed();
      this.place.querySelectorAll(".rows select")[2 * place + 1]?.focus();
    });
    const wrong = el("span", {class: "wrong", role: "alert"}),
      list = `values-${place}`;
    const value = el("input", {
      type: "text",
      "aria-label": "Value",
      inputmode: kind === "number" ? "decimal" : null,
      list,
      maxlength: 2000,
      input: () => {
        row.value = value.value;
        check();
        this.changed();
      },
    });
    value.value = row.value;
    const check = () => {
      let fault = "";
      try {
        condition(row, kind);
      } catch (error) {
        fault = error.message;
      }
      wrong.textContent = fault;
      value.setAttribute("aria-invalid", String(fault !== ""));
    };
    check();
    const known = el(
      "datalist",
      {id: list},
      [...(this.known.get(row.field) ?? [])].map(one => el("option", {value: one})),
    );
    const remove = el(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-label": "Remove this filter",
        click: () => {
          this.rows.splice(place, 1);
          this.show();
          this.changed();
          (
            this.place.querySelectorAll(".rows button")[Math.max(0, place - 1)] ?? this.place.querySelector("button")
          ).focus();
        },
      },
      "✕",
    );
    return el("li", {}, field, is, WITHOUT_VALUE.has(row.is) ? null : [value, known], remove, wrong);
  }
}
