// The map of an index: its documents on the Poincaré disk or on a plane, with the hits of the sides on it.

import {ask} from "./server.js";
import {count, el, oneLine, shown} from "./text.js";

const NEAR = 14; // pixels within which a document is pointed at
const WIDE = 21; // pixels between the marks of two hits
const RINGS = [0.5, 1, 1.5, 2]; // radii of the disk's rings, as drawn
const START = {a: [1, 0], b: [0, 0], x: 0, y: 0, zoom: 1};

// An isometry of the disk is z -> (a z + b) / (conj(b) z + conj(a)), with |a|^2 - |b|^2 = 1.
const times = (p, q) => [p[0] * q[0] - p[1] * q[1], p[0] * q[1] + p[1] * q[0]];
const plus = (p, q) => [p[0] + q[0], p[1] + q[1]];
const conj = p => [p[0], -p[1]];
const over = (p, q) => {
  const size = q[0] ** 2 + q[1] ** 2,
    all = times(p, conj(q));
  return [all[0] / size, all[1] / size];
};
const applied = ({a, b}, z) => over(plus(times(a, z), b), plus(times(conj(b), z), conj(a)));
function composed(m, n) {
  const a = plus(times(m.a, n.a), times(m.b, conj(n.b))),
    b = plus(times(m.a, n.b), times(m.b, conj(n.a)));
  const size = Math.sqrt(Math.max(1e-300, a[0] ** 2 + a[1] ** 2 - b[0] ** 2 - b[1] ** 2));
  return {a: [a[0] / size, a[1] / size], b: [b[0] / size, b[1] / size]};
}
function translation(from, to) {
  const out = z => {
    const n = 1 / Math.sqrt(1 - z[0] ** 2 - z[1] ** 2);
    return {a: [n, 0], b: [z[0] * n, z[1] * n]};
  };
  return composed(out(to), out([-from[0], -from[1]]));
}

/** Move points that would cover each other a little apart. */
function apart(points) {
  const moved = points.map(([x, y], number) => [x + Math.cos(number), y + Math.sin(number)]);
  for (let turn = 0; turn < 30; turn += 1) {
    for (let one = 0; one < moved.length; one += 1)
      for (let other = 0; other < one; other += 1) {
        const [p, q] = [moved[one], moved[other]],
          x = p[0] - q[0],
          y = p[1] - q[1],
          far = Math.hypot(x, y) || 1,
          lack = (WIDE - far) / 2;
        if (lack <= 0) continue;
        p[0] += (x / far) * lack;
        p[1] += (y / far) * lack;
        q[0] -= (x / far) * lack;
        q[1] -= (y / far) * lack;
      }
  }
  return moved;
}

export class CorpusMap {
  /** @param {HTMLElement} place @param {object} page As for Side; also `sides`, `level` and `openId`. */
  constructor(place, page) {
    Object.assign(this, {
      place,
      page,
      data: null,
      of: "",
      found: new Map(),
      view: {...START},
      at: -1,
      running: null,
    });
    this.canvas = el("canvas", {
      tabindex: 0,
      role: "application",
      "aria-describedby": "map-note map-told",
      keydown: event => this.key(event),
      blur: () => this.point(-1),
    });
    this.marks = el("div", {class: "marks"});
    this.tip = el("div", {class: "tip", hidden: true});
    this.told = el("p", {id: "map-told", class: "unseen", role: "status"});
    this.note = el("p", {id: "map-note", class: "hint"});
    const button = (sign, label, does) =>
      el("button", {type: "button", class: "plain", "aria-label": label, title: label, click: does}, sign);
    this.zooms = [button("+", "Nearer", () => this.zoom(1.4)), button("−", "Farther", () => this.zoom(1 / 1.4))];
    this.stage = el(
      "div",
      {class: "stage"},
      this.canvas,
      this.marks,
      this.tip,
      el(
        "div",
        {class: "buttons"},
        ...this.zooms,
        button("All", "All of the map", () => {
          this.view = {...START};
          this.draw();
        }),
      ),
    );
    place.replaceChildren(this.stage, this.note, this.told);
    this.canvas.addEventListener("pointerdown", event => this.grab(event));
    this.canvas.addEventListener("pointermove", event => this.move(event));
    this.canvas.addEventListener("pointerleave", () => this.point(-1));
    new ResizeObserver(() => this.draw()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  get disk() {
    return this.data?.kind === "disk";
  }

  /** Read the map of the index that is searched, if it is another one or has changed, and then the places of hits. */
  async update() {
    if (this.place.hidden || !this.page.sides[0].index) return;
    const {index} = this.page.sides[0],
      level = this.page.level(),
      of = JSON.stringify([index.name, index.version, level]);
    this.running?.abort();
    const running = (this.running = new AbortController()),
      {signal} = running;
    try {
      if (of !== this.of) {
        this.place.setAttribute("aria-busy", "true");
        this.note.textContent = "Drawing the map…";
        const asked = new URLSearchParams({index: index.name, ...(level === null ? {} : {level})});
        this.data = await ask(`map?${asked}`, {signal});
        // What was drawn of another map has no place on this one.
        Object.assign(this, {of, view: {...START}, at: -1, pixels: []});
        this.marks.replaceChildren();
        this.found = new Map(this.data.shown.map(one => [one.id, one.at]));
        this.note.textContent =
          `${this.data.shown.length < this.data.documents ? `${count(this.data.shown.length)} of ` : ""}` +
          `${count(this.data.documents)} documents. ${shown(this.data.note)}`;
        this.canvas.setAttribute("aria-label", "Map. Arrow keys move from document to document, Enter opens one.");
        for (const button of this.zooms) button.hidden = this.disk;
      }
      const ids = this.page.sides
        .filter(side => side.index.name === index.name)
        .flatMap(side => side.hits.map(hit => hit.id));
      const unknown = [...new Set(ids)].filter(id => !this.found.has(id));
      if (unknown.length) {
        const {places} = await ask("map", {body: {index: index.name, level, ids: unknown}, signal});
        for (const [id, at] of Object.entries(places)) this.found.set(id, at);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      this.note.textContent = shown(error.message);
    }
    if (this.running === running) this.place.removeAttribute("aria-busy");
    this.mark();
    this.draw();
  }

  /** Make a button for each hit. */
  mark() {
    const [first, second] = this.page.sides,
      own = first.index.name;
    const marks = [];
    const add = (hit, side, kind) => {
      if (!this.found.has(hit.id)) return;
      const title = oneLine(hit.title ?? "") || oneLine(hit.id);
      const mark = el(
        "button",
        {
          type: "button",
          class: `mark ${kind}`,
          "aria-label": `Rank ${hit.rank}: ${title}`,
          click: () => this.page.open(side, hit),
          focus: () => {
            this.page.pointed(hit.id, true);
            this.show(hit.id, title);
          },
          blur: () => {
            this.page.pointed(hit.id, false);
            this.point(-1);
          },
          pointerenter: () => {
            this.page.pointed(hit.id, true);
            this.show(hit.id, title);
          },
          pointerleave: () => {
            this.page.pointed(hit.id, false);
            this.point(-1);
          },
        },
        String(hit.rank),
      );
      mark.hit = hit.id;
      marks.push(mark);
    };
    const known = new Set(first.hits.map(hit => hit.id));
    if (second && second.index.name === own)
      for (const hit of second.hits) if (!known.has(hit.id)) add(hit, second, "second");
    // The best last, and so above the others.
    for (const hit of [...first.hits].reverse()) add(hit, first, "first");
    this.marks.replaceChildren(...marks);
  }

  /** Return the pixel of a place. */
  pixel([x, y]) {
    const {width, height} = this,
      size = Math.min(width, height) / 2 - 10;
    if (this.disk) {
      const z = applied(this.view, [x, y]);
      return [width / 2 + size * z[0], height / 2 - size * z[1]];
    }
    const {zoom} = this.view;
    return [
      width / 2 + (x - this.view.x) * zoom * (width / 2 - 24),
      height / 2 - (y - this.view.y) * zoom * (height / 2 - 24),
    ];
  }

  draw() {
    if (this.waiting || !this.data || this.place.hidden) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.paint();
    });
  }

  paint() {
    const {canvas, stage} = this,
      ratio = devicePixelRatio || 1,
      pen = canvas.getContext("2d");
    this.width = stage.clientWidth;
    this.height = stage.clientHeight;
    if (!this.width || !this.height) return;
    canvas.width = this.width * ratio;
    canvas.height = this.height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(this.place),
      colour = name => style.getPropertyValue(`--${name}`).trim();
    if (this.disk) this.paintDisk(pen, colour);
    this.pixels = this.data.shown.map(one => this.pixel(one.at));
    pen.fillStyle = colour("dot");
    pen.globalAlpha = 0.8;
    const dot = Math.max(1.4, Math.min(3.4, 60 / Math.sqrt(this.pixels.length)));
    pen.beginPath();
    for (const [x, y] of this.pixels) {
      pen.moveTo(x + dot, y);
      pen.arc(x, y, dot, 0, 2 * Math.PI);
    }
    pen.fill();
    pen.globalAlpha = 1;
    this.paintNames(pen, colour);
    const marks = [...this.marks.children],
      spots = apart(marks.map(mark => this.pixel(this.found.get(mark.hit))));
    for (const [number, mark] of marks.entries()) {
      const [x, y] = spots[number];
      mark.style.setProperty("transform", `translate(${x}px, ${y}px)`);
      mark.hidden = x < 0 || y < 0 || x > this.width || y > this.height;
    }
    if (this.at >= 0) {
      const [x, y] = this.pixels[this.at];
      pen.strokeStyle = colour("ink");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, dot + 4, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  paintDisk(pen, colour) {
    const size = Math.min(this.width, this.height) / 2 - 10;
    pen.beginPath();
    pen.arc(this.width / 2, this.height / 2, size, 0, 2 * Math.PI);
    pen.fillStyle = colour("disk");
    pen.fill();
    pen.strokeStyle = colour("line");
    pen.lineWidth = 1;
    pen.stroke();
    for (const ring of RINGS) {
      pen.beginPath();
      for (let turn = 0; turn <= 72; turn += 1) {
        const r = Math.tanh((ring / 2) * 1.2),
          angle = (turn * Math.PI) / 36;
        pen.lineTo(...this.pixel([r * Math.cos(angle), r * Math.sin(angle)]));
      }
      pen.stroke();
    }
  }

  /** Write the titles of some documents where they cover no other and no hit. */
  paintNames(pen, colour) {
    const taken = [...this.marks.children]
      .map(mark => this.pixel(this.found.get(mark.hit)))
      .map(([x, y]) => [x, y, 14]);
    const order = this.data.shown.map((one, place) => place);
    if (this.disk) {
      const room = order.map(place => Math.hypot(...applied(this.view, this.data.shown[place].at)));
      order.sort((one, other) => room[one] - room[other]);
    }
    pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
    pen.textAlign = "center";
    pen.lineJoin = "round";
    pen.lineWidth = 3;
    pen.strokeStyle = colour(this.disk ? "disk" : "paper");
    pen.fillStyle = colour("faint");
    const most = Math.round((this.width * this.height) / 20000);
    let written = 0;
    for (const place of order.slice(0, 400)) {
      const [x, below] = this.pixels[place],
        y = below - 8,
        title = oneLine(this.data.shown[place].title);
      const name = title.length > 26 ? `${title.slice(0, 25).trimEnd()}…` : title,
        half = pen.measureText(name).width / 2 + 6;
      if (x - half < 0 || x + half > this.width || y < 14 || y > this.height) continue;
      if (taken.some(one => Math.abs(one[1] - y) < 18 && Math.abs(one[0] - x) < half + one[2])) continue;
      taken.push([x, y, half]);
      pen.strokeText(name, x, y);
      pen.fillText(name, x, y);
      if ((written += 1) >= most) break;
    }
  }

  /** Point at a document that is drawn, by its place in the list; -1 for none. */
  point(place) {
    const before = this.at;
    if (place === before && place >= 0) return;
    this.at = place;
    this.tip.hidden = true;
    if (place >= 0) {
      const {id, title} = this.data.shown[place];
      this.show(id, oneLine(title));
    }
    if (place !== before) this.draw();
  }

  /** Say beside a document what it is. */
  show(id, title) {
    const [x, y] = this.pixel(this.found.get(id));
    this.tip.replaceChildren(
      el("span", {dir: "auto"}, title),
      title === oneLine(id) ? "" : el("small", {dir: "auto"}, oneLine(id)),
    );
    this.tip.hidden = false;
    this.told.textContent = title;
    this.tip.style.setProperty("left", `${Math.max(4, Math.min(x + 12, this.width - this.tip.offsetWidth - 4))}px`);
    this.tip.style.setProperty(
      "top",
      `${y + 14 + this.tip.offsetHeight > this.height ? y - 12 - this.tip.offsetHeight : y + 14}px`,
    );
  }

  /** Let a hit stand out, wherever it was pointed at. */
  highlight(id, on) {
    for (const mark of this.marks.children) if (mark.hit === id) mark.classList.toggle("at", on);
  }

  nearest(x, y, most = NEAR) {
    let best = -1,
      least = most ** 2;
    this.pixels?.forEach(([px, py], place) => {
      const apart = (px - x) ** 2 + (py - y) ** 2;
      if (apart < least) [least, best] = [apart, place];
    });
    return best;
  }

  zoom(by) {
    this.view.zoom = Math.max(1, Math.min(40, this.view.zoom * by));
    if (this.view.zoom === 1) Object.assign(this.view, {x: 0, y: 0});
    this.draw();
  }

  where(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  inDisk([x, y]) {
    const size = Math.min(this.width, this.height) / 2 - 10,
      z = [(x - this.width / 2) / size, (this.height / 2 - y) / size];
    const far = Math.hypot(...z);
    return far < 0.985 ? z : [(z[0] / far) * 0.985, (z[1] / far) * 0.985];
  }

  grab(event) {
    if (!this.data || event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    const from = this.where(event),
      before = {...this.view};
    const held = new AbortController(),
      {signal} = held;
    let dragged = false;
    const move = moved => {
      const to = this.where(moved);
      dragged ||= Math.hypot(to[0] - from[0], to[1] - from[1]) > 4;
      if (!dragged) return;
      this.tip.hidden = true;
      if (this.disk) Object.assign(this.view, composed(translation(this.inDisk(from), this.inDisk(to)), before));
      else if (this.view.zoom > 1) {
        this.view.x = before.x - (to[0] - from[0]) / (this.view.zoom * (this.width / 2 - 24));
        this.view.y = before.y + (to[1] - from[1]) / (this.view.zoom * (this.height / 2 - 24));
      }
      this.draw();
    };
    const end = ended => {
      held.abort();
      this.dragging = false;
      // A finger that scrolls the page ends by being cancelled.
      const place = dragged || ended.type === "pointercancel" ? -1 : this.nearest(...from);
      if (place >= 0) this.page.openId(this.data.shown[place].id);
    };
    this.dragging = true;
    this.canvas.addEventListener("pointermove", move, {signal});
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, end, {signal});
  }

  move(event) {
    if (!this.dragging && this.data) this.point(this.nearest(...this.where(event)));
  }

  /** Move to the next document in a direction, open it, or leave. */
  key(event) {
    const ways = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]},
      way = ways[event.key];
    if (!this.pixels?.length) return;
    if (event.key === "Enter" && this.at >= 0) {
      event.preventDefault();
      this.page.openId(this.data.shown[this.at].id);
    } else if (event.key === "+" || event.key === "-") {
      this.zoom(event.key === "+" ? 1.4 : 1 / 1.4);
    } else if (way) {
      event.preventDefault();
      event.stopPropagation();
      if (this.at < 0) {
        this.point(this.nearest(this.width / 2, this.height / 2, Infinity));
        return;
      }
      const [x, y] = this.pixels[this.at];
      let best = this.at,
        least = Infinity;
      this.pixels.forEach(([px, py], place) => {
        const along = (px - x) * way[0] + (py - y) * way[1],
          aside = Math.abs((px - x) * way[1]) + Math.abs((py - y) * way[0]);
        if (place === this.at || along <= 0.5 || aside > 1.6 * along) return;
        if (along + 2 * aside < least) [least, best] = [along + 2 * aside, place];
      });
      this.point(best);
    }
  }
}
