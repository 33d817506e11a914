// A document's text as blocks, with spans of it marked. Markdown gets the look of its blocks, within which it stays as
// it is.

import {el, shown} from "./text.js";

const GROUP = 6000; // characters of a part that the browser may leave out of its layout,
const LONG = 100_000; // in texts of more than these.
const TOO_LONG = 1_000_000; // Markdown of more has too many blocks to be shown at once, and is shown as a text.

/**
 * Return the nodes of a text.
 * @param {string} text
 * @param {{start: number, end: number, passage?: number, word?: boolean}[]} spans In units of the string.
 * @param {"markdown" | "code" | "text"} form
 */
export function documentNodes(text, spans, form) {
  const groups = [];
  let group = null,
    size = Infinity;
  for (const block of form === "markdown" && text.length <= TOO_LONG ? markdownBlocks(text) : plainBlocks(text)) {
    if (size > GROUP) {
      group = el("div", {class: text.length > LONG ? "chunk" : null});
      groups.push(group);
      size = 0;
    }
    size += block.end - block.start;
    group.append(el(block.element, {class: block.kind, dir: "auto"}, ...marksOf(text, block, spans)));
  }
  return groups;
}

/** Blocks of whole lines. */
function* plainBlocks(text) {
  for (let start = 0; start < text.length;) {
    const line = text.indexOf("\n", start + GROUP),
      end = line < 0 ? text.length : line;
    yield {element: "div", kind: "lines", start, end};
    start = end + 1;
  }
}

const HEADING = /^ {0,3}(#{1,6})[ \t]/,
  FENCE = /^ {0,3}(```+|~~~+)/,
  ITEM = /^\s*([-*+]|\d+[.)])\s/,
  TABLE = /^\s*\|/;

/** Headings and code without their marks, tables, items of lists and paragraphs; lines of the last two flow. */
function* markdownBlocks(text) {
  let open = null,
    fence = "";
  const close = end => {
    const done = open;
    open = null;
    return done && {...done, end};
  };
  for (let start = 0; start <= text.length;) {
    const stop = text.indexOf("\n", start),
      end = stop < 0 ? text.length : stop,
      line = text.slice(start, end);
    const opened = line.match(FENCE)?.[1] ?? "";
    let next = null;
    if (fence) {
      if (opened.startsWith(fence) && line.trim() === opened) {
        fence = "";
        if (start > open.start) yield close(start - 1);
        open = null;
      } else next = open;
    } else if (opened) {
      fence = opened;
      next = {element: "pre", kind: "code", start: Math.min(text.length, end + 1)};
    } else if (HEADING.test(line)) {
      const [mark, signs] = line.match(HEADING);
      next = {element: `h${Math.min(6, 2 + signs.length)}`, kind: "heading", start: start + mark.length};
    } else if (TABLE.test(line)) next = open?.kind === "table" ? open : {element: "pre", kind: "table", start};
    else if (ITEM.test(line)) next = {element: "p", kind: "item flows", start};
    else if (line.trim()) next = open && open.kind.includes("flows") ? open : {element: "p", kind: "flows", start};
    if (open && next !== open) yield close(start - 1);
    open = next;
    if (open?.kind === "heading") yield close(end);
    start = end + 1;
  }
  if (open && open.start < text.length) yield close(text.length);
}

/** The nodes of a block: its text, cut where spans begin and end. */
function marksOf(text, {start, end, kind}, spans) {
  const own = spans.filter(span => span.start < end && span.end > start),
    cuts = new Set([start, end]);
  for (const span of own) for (const place of [span.start, span.end]) if (place > start && place < end) cuts.add(place);
  const places = [...cuts].sort((a, b) => a - b),
    nodes = [];
  for (let place = 0; place + 1 < places.length; place += 1) {
    const [from, to] = [places[place], places[place + 1]],
      over = own.filter(span => span.start <= from && span.end >= to);
    const passages = over.filter(span => span.passage !== undefined).map(span => span.passage);
    let piece = shown(text.slice(from, to));
    if (kind.includes("flows")) piece = piece.replace(/\n[ \t]*/g, " ");
    const node = over.some(span => span.word) ? el("mark", {}, piece) : piece;
    nodes.push(passages.length ? el("span", {class: "passage", "data-passage": Math.min(...passages)}, node) : node);
  }
  return nodes;
}
