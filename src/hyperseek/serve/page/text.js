// Texts, which strangers wrote, as nodes of the page: never as HTML, and with marks in place of what nobody sees.

// As `printable` of hyperseek.errors: control characters, overrides of direction, zero-width and tag characters.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
    "\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]",
  "gu",
);

/** Return a text that is safe to show; tabs and line ends are left to the style sheet. */
export function shown(text) {
  return String(text)
    .replace(/\r\n?/g, "\n")
    .replace(UNSEEN, found => `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`);
}

/** Return a text on one line. */
export const oneLine = text => shown(String(text).replace(/\s+/g, " ").trim());

/**
 * Make an element. Properties are attributes (true for present, false, null and undefined for absent), functions are
 * listeners, and strings among the children become texts, shown as they are.
 */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

/** Make a list to choose from. */
export function select(label, options, chosen, changed) {
  const made = el(
    "select",
    {"aria-label": label, change: () => changed(made.value)},
    options.map(([value, text]) => el("option", {value, selected: value === chosen}, text)),
  );
  return made;
}

/** Return an element of a stranger's text: its direction is its own and does not reach what stands around it. */
export const foreign = (name, properties, text) => el(name, {dir: "auto", ...properties}, oneLine(text));

/** A text by characters as Python counts them, which are one or two units of JavaScript's strings. */
export class Characters {
  constructor(text) {
    Object.assign(this, {text, plain: !/[\ud800-\udbff][\udc00-\udfff]/.test(text), last: [0, 0]});
  }
  get length() {
    return this.place(this.text.length);
  }
  slice(start, end) {
    return this.text.slice(this.unit(start), this.unit(end));
  }
  /** The unit at which a character begins. */
  unit(place) {
    return this.plain
      ? place
      : this.walk((characters, units) => characters < place && units < this.text.length, this.last[0] <= place)[1];
  }
  /** The character that begins at a unit. */
  place(unit) {
    return this.plain ? unit : this.walk((characters, units) => units < unit, this.last[1] <= unit)[0];
  }
  /** Go on from the last place, since places are mostly asked for in order. */
  walk(before, onwards) {
    let [characters, units] = onwards ? this.last : [0, 0];
    for (; before(characters, units); characters += 1) units += this.text.codePointAt(units) > 0xffff ? 2 : 1;
    return (this.last = [characters, units]);
  }
  /** Where a part begins, nearest to a place at which it was; -1 if it is not there. */
  find(part, near) {
    const from = this.unit(near),
      after = this.text.indexOf(part, from),
      before = this.text.lastIndexOf(part, from);
    if (after < 0 || before < 0) return Math.max(after, before) < 0 ? -1 : this.place(Math.max(after, before));
    return this.place(after - from < from - before ? after : before);
  }
}

/** Return the nodes of a text, with its spans `[start, end]` marked. */
export function marked(text, spans, clean = oneLineInside) {
  const characters = new Characters(text),
    nodes = [];
  let done = 0;
  for (const [start, end] of spans) {
    if (start < done) continue;
    nodes.push(clean(characters.slice(done, start)), el("mark", {}, clean(characters.slice(start, end))));
    done = end;
  }
  nodes.push(clean(characters.slice(done, characters.length)));
  return nodes;
}
const oneLineInside = text => shown(text.replace(/\s+/g, " "));

export const count = number => Number(number).toLocaleString("en");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Return a score in few digits. */
export const scored = (score, digits = 3) =>
  Math.abs(score) < 1e6 ? Number(score).toFixed(digits) : Number(score).toExponential(2);
