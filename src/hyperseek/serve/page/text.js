// Texts, which strangers wrote, as nodes of the page: never as HTML, and with marks in place of what nobody sees.

// As `printable` of hyperseek.errors: control characters, overrides of direction, zero-width and tag characters.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
  "\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]", "gu");

/** Return a text that is safe to show; tabs and line ends are left to the style sheet. */
export function shown(text) {
  return String(text).replace(/\r\n?/g, "\n")
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

/** Return an element of a stranger's text: its direction is its own and does not reach what stands around it. */
export const foreign = (name, properties, text) => el(name, {dir: "auto", ...properties}, oneLine(text));

/** A text by characters as Python counts them, which are one or two units of JavaScript's strings. */
export class Characters {
  constructor(text) {
    this.text = text;
    this.all = /[\ud800-\udbff][\udc00-\udfff]/.test(text) ? Array.from(text) : null;
  }
  get length() { return this.all === null ? this.text.length : this.all.length; }
  slice(start, end) { return this.all === null ? this.text.slice(start, end) : this.all.slice(start, end).join(""); }
  /** The unit of the string at which a character begins. */
  unit(place) { return this.all === null ? place : this.all.slice(0, place).join("").length; }
  /** Where a part begins, nearest to a place at which it was; -1 if it is not there. */
  find(part, near) {
    let best = -1;
    for (let unit = this.text.indexOf(part); unit >= 0; unit = this.text.indexOf(part, unit + 1)) {
      const place = this.all === null ? unit : Array.from(this.text.slice(0, unit)).length;
      if (best >= 0 && Math.abs(best - near) <= Math.abs(place - near)) break;
      best = place;
    }
    return best;
  }
}

/** Return the nodes of a text, with its spans `[start, end]` marked. */
export function marked(text, spans, clean = oneLineInside) {
  const characters = new Characters(text), nodes = [];
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
