"use strict";
// The page of `minialbert explore`. What is chosen lives in `state`; `choose` changes it and the parts that depend on
// it draw themselves anew. Text from outside reaches the page through text nodes and attributes only, never as markup.
// Reading order: helpers, colours, controls, then one function for each section, the keys and the start at the end.

const data = JSON.parse(document.getElementById("data").textContent);
const { L, A } = data.model.sizes;
const { plan } = data.model;
const tokens = data.tokens;
const T = tokens.length;
const MIDDLE = Math.ceil(L / 2); // the visit that the page opens at: no longer the input, not yet the end
const state = {
  layer: MIDDLE, // 1..L, as everywhere in minialbert
  head: 0, // 0..A-1
  token: data.start, // the one that is held, or null
  hover: null, // the one pointed at, or in focus
  toward: false, // false: what the token looks at; true: who looks at it
  cell: null, // [query, key] in the map
};

// ---- helpers ----

const byId = (id) => document.getElementById(id);
const SVG = new Set(["svg", "g", "path", "circle", "rect", "line", "text"]);

function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children); // strings become text nodes
  return node;
}

const updates = []; // [keys of the state, function]: run when one of the keys has changed
const paints = []; // run after a change of theme: what has its colours in pixels or in a style

const when = (keys, update) => updates.push([keys.split(" "), update]);

function choose(change) {
  const changed = Object.keys(change).filter((key) => String(change[key]) !== String(state[key]));
  Object.assign(state, change);
  for (const [keys, update] of updates) if (keys.some((key) => changed.includes(key))) update();
  if (changed.some((key) => ["layer", "head", "token"].includes(key))) remember();
}

function remember() {
  const kept = { visit: state.layer, head: state.head, token: state.token ?? "none" };
  try {
    history.replaceState(null, "", "#" + new URLSearchParams(kept)); // a link opens at the same place
  } catch {} // some browsers refuse it for files
}

// The head that the page opens at: the one in which the token looks at most places, for there is most to see.
function widestHead() {
  const most = Array.from({ length: A }, (_, head) => {
    return Math.max(...tokens.map((_, key) => chance(MIDDLE, head, data.start, key)));
  });
  return most.indexOf(Math.min(...most));
}

function fromLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high, otherwise) => {
    const value = given.has(name) ? Number(given.get(name)) : NaN;
    return Number.isInteger(value) && value >= low && value <= high ? value : otherwise;
  };
  return {
    layer: number("visit", 1, L, MIDDLE),
    head: number("head", 0, A - 1, widestHead()),
    token: given.get("token") === "none" ? null : number("token", 0, T - 1, data.start),
  };
}

const SHOWN = "token hover"; // the keys that `shown` depends on
const shown = () => state.hover ?? state.token; // the token that everything is about just now
const chance = (layer, head, query, key) => data.attention[layer - 1][head][query * T + key] / 1e6;
const here = (query, key) => chance(state.layer, state.head, query, key);
const looked = (other) => (state.toward ? here(other, shown()) : here(shown(), other));

const short = (text, most) => ([...text].length > most ? [...text].slice(0, most - 1).join("") + "…" : text);
const bare = (text) => (text.startsWith("▁") && text.length > 1 ? text.slice(1) : text); // where room is short
const count = (number) => number.toLocaleString("en");
const times = (n) => ["never", "once", "twice"][n] ?? `${n} times`;

function plain(number) {
  if (number === null) return "not finite";
  const size = Math.abs(number);
  return size && (size >= 1e5 || size < 1e-3) ? number.toExponential(1) : number.toPrecision(3);
}

// A piece as it is in the vocabulary, with the sign of a word's beginning or middle made small.
function piece(text) {
  const sign = ["▁", "##"].find((sign) => text.startsWith(sign) && text !== sign) ?? "";
  return make("bdi", {}, sign && make("span", { class: "mark" }, sign), text.slice(sign.length));
}

// Draw into a node when one of the keys changes, and when the room for it does.
function drawn(node, keys, draw, room = node) {
  const again = () => node.replaceChildren(draw(Math.max(280, room.clientWidth)));
  let width = room.clientWidth;
  new ResizeObserver(() => {
    if (room.clientWidth !== width) again();
    width = room.clientWidth;
  }).observe(room);
  when(keys, again);
}

// An SVG as wide as its room, with the three shapes that every figure here needs.
function canvasOf(width, height, attributes) {
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, ...attributes });
  const add = (tag, attributes, ...children) => svg.appendChild(make(tag, attributes, ...children));
  const text = (x, y, content, kind = "", anchor = "middle") =>
    add("text", { x, y, class: kind, "text-anchor": anchor }, content);
  const spot = (cx, cy, r, kind, pick) => {
    const node = add("circle", { cx, cy, r, class: pick ? `${kind} click` : kind });
    if (pick) node.addEventListener("click", pick); // for the mouse; the buttons of the page do the same for keys
  };
  return { svg, add, text, spot };
}

// ---- colours ----

let ramp = []; // 256 shades of the theme, [r, g, b], from nothing to everything

function readRamp() {
  const probe = document.body.appendChild(make("i"));
  const stops = [0, 1, 2, 3, 4, 5].map((i) => {
    probe.style.color = `var(--s${i})`;
    return getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  });
  probe.remove();
  ramp = Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * 5;
    const low = Math.min(4, Math.floor(at));
    return [0, 1, 2].map((c) => Math.round(stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c])));
  });
}

const isDark = () => ramp[255][0] > ramp[0][0];
const shade = (p) => ramp[Math.round(255 * Math.sqrt(Math.min(1, p)))];

function paintCell(node, colour) {
  const linear = colour.map((c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  node.style.backgroundColor = `rgb(${colour})`;
  node.style.color = light > 0.179 ? "#000" : "#fff"; // one of the two always has a contrast of 4.58 or more
}

function paintPixels(canvas, width, height, valueOf) {
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set(shade(valueOf(i)), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

const paintMap = (canvas, layer, head) =>
  paintPixels(canvas, T, T, (i) => data.attention[layer - 1][head][i] / 1e6);

function setTheme(theme) { // null: as the system has it
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  readRamp();
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  for (const paint of paints) paint();
}

// ---- controls ----

// One tab stop for many buttons: the arrow keys move inside, and `moved` hears where to.
function rove(container, columns, moved) {
  container.addEventListener("keydown", (event) => {
    const all = [...container.querySelectorAll("button")];
    const at = all.indexOf(event.target);
    const way = getComputedStyle(container).direction === "rtl" ? -1 : 1;
    const step = {
      ArrowLeft: -way, ArrowRight: way, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: all.length - 1 - at,
    }[event.key];
    if (at < 0 || step === undefined || event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const next = all[at + step];
    if (next) next.focus();
    if (next && moved) moved(at + step);
  });
  container.addEventListener("focusin", (event) => {
    for (const button of container.querySelectorAll("button")) button.tabIndex = button === event.target ? 0 : -1;
  });
}

// Buttons of which exactly one is on. options: [content, label] each.
function radios(container, name, options, columns, keys, isOn, pick) {
  const buttons = options.map(([content, label], i) => {
    const button = make("button", { type: "button", role: "radio", "aria-label": label }, content);
    button.addEventListener("click", () => pick(i));
    return button;
  });
  container.setAttribute("role", "radiogroup");
  container.setAttribute("aria-label", name);
  rove(container, columns, pick);
  when(keys, () =>
    buttons.forEach((button, i) => {
      button.setAttribute("aria-checked", isOn(i));
      button.tabIndex = isOn(i) ? 0 : -1;
      if (isOn(i) && container.contains(document.activeElement)) button.focus(); // the focus goes with the choice
    }),
  );
  return buttons;
}

function bar() {
  const numbers = (n, first, word) => Array.from({ length: n }, (_, i) => [String(i + first), `${word} ${i + first}`]);
  const group = (id, name, options, key, first) => {
    const pick = (i) => choose({ [key]: i + first });
    byId(id).append(...radios(byId(id), name, options, 1, key, (i) => state[key] === i + first, pick));
  };
  group("visits", "Visit", numbers(L, 1, "visit"), "layer", 1);
  group("heads", "Head", numbers(A, 0, "head"), "head", 0);
  when(SHOWN, () => byId("now").replaceChildren(...(shown() === null ? [] : ["token: ", piece(tokens[shown()])])));
}

// ---- the one floating box ----

let anchor = null; // the node that the box hangs on, unless it hangs on the pointer

function tip(node, content, x = null, y = null) {
  anchor = x === null ? node : null;
  byId("tip").replaceChildren(...content);
  byId("tip").hidden = false;
  put(node, x, y);
}

function put(node, x = null, y = null) {
  const box = byId("tip");
  const place = node.getBoundingClientRect();
  const [left, top] = [x ?? place.left, y ?? place.bottom];
  const fits = top + box.offsetHeight + 12 <= innerHeight;
  box.style.left = `${Math.max(8, Math.min(left, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${fits ? top + 10 : (y ?? place.top) - box.offsetHeight - 10}px`;
}

const untip = () => (byId("tip").hidden = true);

function scrolled() {
  if (anchor && anchor === document.activeElement) put(anchor); // what keys reach comes into view, and its box with it
  else untip();
}

// ---- the heading, and the drawing of the block and its visits ----

const setsOf = (half) => [...new Set(plan.map((pair) => pair[half]))].sort((a, b) => a - b);

function heading() {
  const [attentions, forwards] = [setsOf(0).length, setsOf(1).length];
  const { name, sizes, block } = data.model;
  let title = `${attentions} blocks, ${L} visits`;
  let note = `The visits share ${count(block)} numbers; the threads say who uses which.`;
  if (attentions !== forwards) {
    title = `${attentions} attention and ${forwards} feed-forward halves, ${L} visits`;
  } else if (attentions === 1) {
    title = `One block, visited ${times(L)}`;
    note =
      `ALBERT's idea: one set of weights (${count(block)} numbers) that the hidden states pass ${times(L)}. ` +
      `Layer ${L} is visit ${L}, not another block: ${L} separate ones would hold ${count(block * L)}.`;
  } else if (attentions === L) {
    title = `${L} blocks, each visited once`;
    note =
      `As in BERT, every layer has weights of its own, ${count(block)} numbers in all. ` +
      "An ALBERT has one block, and every visit goes to it.";
  }
  document.title = `${title}: ${short(data.text, 40)}`;
  byId("title").textContent = title;
  byId("block-note").textContent = note;
  const quoted = (text) => make("bdi", {}, text ? `“${text}”` : "an empty text");
  byId("lead").append("What happens inside at each visit, for ", quoted(data.text));
  if (data.pair !== null) byId("lead").append(" and ", quoted(data.pair));
  byId("facts").textContent =
    `${name}: vocabulary V = ${count(sizes.V)}, embeddings E = ${sizes.E}, hidden states H = ${sizes.H}, ` +
    `A = ${A} heads of width D = ${sizes.D}, feed-forward F = ${count(sizes.F)}, L = ${L} visits. ` +
    `This text: T = ${T} tokens.`;
}

function sharers(layer) {
  const same = plan.flatMap((pair, i) => (i + 1 !== layer && String(pair) === String(plan[layer - 1]) ? [i + 1] : []));
  if (same.length && same.length === L - 1) return "the same weights as at every other visit";
  if (same.length) return `the same weights as at visit${same.length > 1 ? "s" : ""} ${same.join(", ")}`;
  return L > 1 ? "weights that no other visit uses" : "the only one";
}

function drawing() {
  const rows = plan.every(([a, f]) => a === f) ? ["attention + feed-forward"] : ["attention", "feed-forward"];
  drawn(byId("drawing"), "layer", (width) => {
    const narrow = width < 620;
    const [left, right] = narrow ? [8, width - 8] : [126, width - 128];
    const x = (i) => left + ((right - left) * (i + 0.5)) / L;
    const radius = Math.min(21, (right - left) / L / 2.6);
    const y = narrow ? 64 : 30;
    const said = `${byId("title").textContent}. Chosen: visit ${state.layer}, ${sharers(state.layer)}.`;
    const figure = canvasOf(width, y + 158 + 92 * (rows.length - 1), { role: "img", "aria-label": said });
    const { svg, add, text, spot } = figure;
    rows.forEach((label, half) => weights(figure, label, half, left, right, x, y + radius, y + 92 + 92 * half));
    const arrow = (from, to) => {
      add("path", { d: `M${from} ${y}H${to - 5}`, class: "flow" });
      add("path", { d: `M${to} ${y}l-6 -3.5v7z`, class: "head-of-arrow" });
    };
    plan.forEach((_, i) => {
      const on = i + 1 === state.layer;
      if (i) arrow(x(i - 1) + radius, x(i) - radius);
      spot(x(i), y, radius, `visit${on ? " on" : ""}`, () => choose({ layer: i + 1 }));
      text(x(i), y + 4, String(i + 1), `through${on ? " on-visit" : ""}`);
    });
    const table = data.model.projection ? "V × E, then E × H" : "V × E";
    const ends = data.model.heads.length ? data.model.heads : ["hidden states"];
    if (narrow) {
      text(8, 14, `words: ${table}`, "soft", "start");
      text(8, 31, `after the last visit: ${ends.join(", ")}`, "soft", "start");
    } else {
      text(0, y - 4, "words", "", "start");
      text(0, y + 13, table, "soft", "start");
      arrow(116, x(0) - radius);
      arrow(x(L - 1) + radius, right + 8);
      ends.forEach((end, i) => text(right + 16, y + 4 + 17 * (i - (ends.length - 1) / 2), end, "", "start"));
    }
    return svg;
  });
  when("layer", () => (byId("h-block").textContent = `Visit ${state.layer} of ${L}: ${sharers(state.layer)}`));
}

// The boxes of one kind of weights, and a thread to each from every visit that uses it.
function weights({ add, text }, label, half, left, right, x, from, top) {
  const sets = setsOf(half);
  const wide = Math.min(sets.length === 1 ? 270 : 220, (right - left) / sets.length - 6);
  const middle = (set) => left + ((right - left) * (sets.indexOf(set) + 0.5)) / sets.length;
  const order = plan.map((_, i) => i).sort((a, b) => (a + 1 === state.layer) - (b + 1 === state.layer));
  for (const i of order) { // the chosen one last, on top of the others
    const fan = sets.length < L ? ((i + 0.5) / L - 0.5) * wide * 0.7 : 0;
    const to = middle(plan[i][half]) + fan;
    const d = `M${x(i)} ${from}C${x(i)} ${top - 18} ${to} ${from + 18} ${to} ${top}`;
    add("path", { class: `thread${i + 1 === state.layer ? " on" : ""}`, d });
  }
  const named = sets.length === 1 || wide > 190; // is there room for the name in each box?
  for (const set of sets) {
    const on = set === plan[state.layer - 1][half] ? " on" : "";
    add("rect", { class: `box${on}`, x: middle(set) - wide / 2, y: top, width: wide, height: 50, rx: 8 });
    const name = sets.length === 1 ? label : named ? `${label} ${set + 1}` : String(set + 1);
    text(middle(set), top + 30, name);
  }
  if (!named) text((left + right) / 2, top + 67, label, "soft");
}

// ---- the sentence ----

function sentence() {
  const options = [["looks at", "what the token looks at"], ["is looked at by", "who looks at the token"]];
  const pick = (i) => choose({ toward: i === 1 });
  byId("direction").append(
    ...radios(byId("direction"), "Direction", options, 1, "toward", (i) => state.toward === (i === 1), pick),
  );
  const first = (data.text.match(/\p{L}/u) ?? [""])[0];
  const rtl = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}]/u.test(first);
  const attributes = { role: "group", "aria-label": "The tokens of the text", dir: rtl ? "rtl" : "ltr" };
  const row = make("div", { class: T > 60 ? "tokens many" : "tokens", ...attributes });
  const arcs = make("svg", { class: "arcs", "aria-hidden": "true" });
  const chips = tokens.map(chipOf);
  rove(row, 1);
  row.append(arcs, ...chips);
  byId("sentence").append(row);
  const paint = () => {
    chips.forEach(paintChip);
    arcs.replaceChildren(...(shown() === null ? [] : bows(row, chips)));
    byId("looks").replaceChildren(...looksAt());
  };
  when(`layer head toward ${SHOWN}`, paint);
  paints.push(paint);
  new ResizeObserver(paint).observe(row); // other line breaks, other bows
}

function chipOf(text, i) {
  const chip = make("button", { type: "button", class: "token", tabindex: i ? -1 : 0 });
  chip.append(make("span", { class: "piece" }, piece(text)), make("span", { class: "p" }));
  chip.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && choose({ hover: i }));
  chip.addEventListener("pointerleave", () => choose({ hover: null }));
  chip.addEventListener("focus", () => chip.matches(":focus-visible") && choose({ hover: i }));
  chip.addEventListener("blur", () => choose({ hover: null }));
  chip.addEventListener("click", () => choose({ token: i, hover: null }));
  return chip;
}

function paintChip(chip, i) {
  const about = shown();
  const [word, number] = chip.children;
  chip.classList.toggle("from", i === about);
  chip.setAttribute("aria-pressed", i === state.token);
  if (about === null) word.removeAttribute("style");
  else paintCell(word, shade(looked(i)));
  number.textContent = about === null || looked(i) < 0.005 ? "" : looked(i).toFixed(2);
  const verb = state.toward ? "looks at" : "is looked at by";
  const told = about === null ? "" : `, ${verb} ${tokens[about]}: ${looked(i).toFixed(4)}`;
  chip.setAttribute("aria-label", `token ${i}, ${tokens[i]}${told}`);
}

// In words: the five that matter most.
function looksAt() {
  if (shown() === null) return ["No token is held."];
  const best = tokens.map((_, i) => i).sort((a, b) => looked(b) - looked(a)).slice(0, 5);
  const told = best.filter((i) => looked(i) >= 5e-5); // what would be written as 0 is not told
  const parts = told.flatMap((i) => [" · ", piece(tokens[i]), ` ${looked(i).toFixed(4)}`]);
  const verb = state.toward ? " is looked at by " : " looks at ";
  return [`Visit ${state.layer}, head ${state.head}: `, piece(tokens[shown()]), verb, ...parts.slice(1)];
}

// Lines from the shown token to those it looks at: above the row inside one row, through the gap between two.
function bows(row, chips) {
  const origin = row.getBoundingClientRect();
  const place = (i) => {
    const box = chips[i].firstChild.getBoundingClientRect();
    const [x, top] = [box.left + box.width / 2 - origin.left, box.top - origin.top];
    return { x, top, bottom: top + box.height + (chips[i].lastChild.textContent ? 20 : 3) }; // under the number
  };
  const from = place(shown());
  return chips.flatMap((_, i) => {
    const p = looked(i);
    if (i === shown() || p < 0.02) return []; // thinner than can be seen
    const to = place(i);
    let [start, end] = to.top > from.top ? [from.bottom, to.top] : [from.top, to.bottom];
    let bend = (start + end) / 2;
    if (Math.abs(from.top - to.top) < 4) {
      [start, end] = [from.top, to.top];
      bend = start - Math.min(44, 12 + Math.abs(to.x - from.x) * 0.13);
    }
    const d = `M${from.x} ${start}C${from.x} ${bend} ${to.x} ${bend} ${to.x} ${end}`;
    return [make("path", { d, "stroke-width": 0.8 + 4.5 * p, opacity: 0.25 + 0.75 * Math.sqrt(p) })];
  });
}

// ---- the map of one head, and the overview ----

function map() {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const holder = byId("map");
  let size = {}; // where the cells are, in the units of the drawing
  drawn(holder, `toward cell ${SHOWN}`, (width) => {
    size = mapSize(width);
    holder.style.maxWidth = `${size.wide}px`;
    const [left, top] = [size.side / size.wide, size.top / size.high];
    const [w, h] = [(size.cell * T) / size.wide, (size.cell * T) / size.high];
    ["left", "top", "width", "height"].forEach((name, i) => (canvas.style[name] = `${100 * [left, top, w, h][i]}%`));
    const both = document.createDocumentFragment();
    both.append(canvas, mapFrame(size));
    return both;
  }, holder.parentElement);
  const paint = () => paintMap(canvas, state.layer, state.head);
  paints.push(paint);
  when("layer head", () => {
    paint();
    const name = `Visit ${state.layer}, head ${state.head}`;
    byId("map-title").textContent = name;
    holder.setAttribute("aria-label", `Attention map: ${name}. Arrow keys move from cell to cell.`);
    byId("code").textContent = code();
  });
  when("layer head cell", () => {
    byId("cell").replaceChildren(...(state.cell ? cellLine(true) : ["Point at a cell for its number."]));
  });
  holder.addEventListener("pointermove", (event) => {
    const box = holder.getBoundingClientRect();
    const at = (pixel, whole, units, margin) => Math.floor(((pixel / whole) * units - margin) / size.cell);
    const query = at(event.clientY - box.top, box.height, size.high, size.top);
    const key = at(event.clientX - box.left, box.width, size.wide, size.side);
    const inside = Math.min(query, key) >= 0 && Math.max(query, key) < T;
    choose({ cell: inside ? [query, key] : null });
    if (inside) tip(holder, cellLine(false), event.clientX + 12, event.clientY + 6);
    else untip();
  });
  for (const kind of ["pointerleave", "blur"]) holder.addEventListener(kind, () => (untip(), choose({ cell: null })));
  holder.addEventListener("click", () => state.cell && choose({ token: state.cell[state.toward ? 1 : 0] }));
  holder.addEventListener("keydown", (event) => {
    untip(); // the pointer's cell is not the one that keys choose
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || event.shiftKey) return;
    event.preventDefault();
    const moved = state.cell?.map((x, i) => Math.max(0, Math.min(T - 1, x + step[i])));
    choose({ cell: moved ?? [shown() ?? 0, 0] });
  });
}

function mapSize(width) {
  const longest = Math.min(12, Math.max(...tokens.map((text) => [...bare(text)].length)));
  const [side, top] = [Math.min(14 + 7 * longest, width / 3), 16 + 6 * longest];
  const cell = Math.min(44, (width - side - 24) / T);
  return { cell, side, top, wide: side + cell * T + 24, high: top + cell * T + 2 };
}

// What lies around and on the cells: names, a frame, the row of the shown token, the cell pointed at.
function mapFrame({ cell, side, top, wide, high }) {
  const { svg, add } = canvasOf(wide, high, { "aria-hidden": "true" });
  const about = shown();
  const every = Math.ceil(11.5 / cell); // names that would lie on each other are left out
  for (let i = 0; i < T; i++) {
    const near = about !== null && Math.abs(i - about) < every; // the shown one gets its room
    if (i !== about && every > 1 && (i % every || near)) continue;
    const kind = i === about ? "on" : "";
    const [name, at] = [short(bare(tokens[i]), 12), cell * (i + 0.5) + 4];
    add("text", { x: side - 6, y: top + at, "text-anchor": "end", class: kind }, name);
    add("text", { x: side + at, y: top - 6, transform: `rotate(-60 ${side + at} ${top - 6})`, class: kind }, name);
  }
  const frame = (kind, x, y, w, h) =>
    add("rect", { class: kind, x: side + cell * x, y: top + cell * y, width: cell * w, height: cell * h });
  frame("frame", 0, 0, T, T);
  if (about !== null) frame("cross", ...(state.toward ? [about, 0, 1, T] : [0, about, T, 1]));
  if (state.cell) frame("cross", state.cell[1], state.cell[0], 1, 1);
  return svg;
}

function cellLine(inWords) {
  const [query, key] = state.cell;
  const p = here(query, key).toFixed(4);
  if (inWords) return [piece(tokens[query]), " looks at ", piece(tokens[key]), ` with probability ${p}`];
  return [make("b", {}, p), " from ", piece(tokens[query]), " to ", piece(tokens[key])];
}

function code() {
  return [
    "import minialbert",
    "",
    `model, tokenizer = ${data.model.load}`,
    `batch = ${data.call}`,
    `tape = minialbert.Recorder("attention.probs", layers=${state.layer})`,
    "model(**batch, tap=tape)",
    `tape["attention.probs", ${state.layer}][0, ${state.head}]  # [${T}, ${T}]: a row for each token that looks`,
  ].join("\n");
}

function overview() {
  const grid = make("div", { class: "maps" });
  grid.style.gridTemplateColumns = `1.4rem repeat(${A}, minmax(0, 5.4rem))`;
  const number = (text) => make("span", { class: "number", "aria-hidden": "true" }, String(text));
  const canvases = Array.from({ length: L * A }, () => make("canvas", { "aria-hidden": "true" }));
  const place = (i) => ({ layer: Math.floor(i / A) + 1, head: i % A });
  const options = canvases.map((canvas, i) => [canvas, `visit ${place(i).layer}, head ${place(i).head}`]);
  const isOn = (i) => place(i).layer === state.layer && place(i).head === state.head;
  const buttons = radios(grid, "All maps", options, A, "layer head", isOn, (i) => choose(place(i)));
  grid.append(number(""), ...Array.from({ length: A }, (_, i) => number(i)));
  for (let layer = 0; layer < L; layer++) grid.append(number(layer + 1), ...buttons.slice(layer * A, layer * A + A));
  if (A > 6) byId("overview").closest(".columns").classList.add("even"); // more room for more maps
  byId("overview").append(grid, make("p", { class: "facts" }, "Down: visits. Across: heads."));
  const band = make("canvas", { "aria-hidden": "true" });
  const marks = make("div", { "aria-hidden": "true" });
  for (const p of [0, 0.05, 0.2, 0.5, 1]) {
    marks.appendChild(make("span", {}, String(p))).style.left = `${100 * Math.sqrt(p)}%`;
  }
  byId("legend").append("probability", make("div", { class: "ramp" }, band, marks));
  paints.push(() => {
    canvases.forEach((canvas, i) => paintMap(canvas, place(i).layer, place(i).head));
    paintPixels(band, 256, 1, (i) => (i / 255) ** 2);
  });
}

// ---- the logit lens ----

const afterVisit = (layer) => (layer ? `After visit ${layer}` : "Before the first visit");

function lens() {
  const holder = byId("lens");
  if (!data.lens) return holder.append(make("p", { class: "missing" }, data.missing));
  const table = make("table", { class: "lens" });
  table.style.setProperty("--layers", L + 1);
  const names = data.lens.map((_, layer) => (layer === 0 ? "input" : layer === L ? `${L}, the answer` : String(layer)));
  const tops = names.map((name) => make("th", { scope: "col" }, name));
  const cells = [];
  const rows = tokens.map((text, i) => {
    const buttons = data.lens.map((layer, l) => lensCell(layer[i], i, l));
    cells.push(...buttons);
    const name = make("th", { scope: "row" }, piece(text));
    return make("tr", {}, name, ...buttons.map((button) => make("td", {}, button)));
  });
  cells[0].tabIndex = 0;
  table.append(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "after visit"), ...tops)));
  table.append(make("tbody", {}, ...rows));
  rove(table, L + 1);
  holder.append(table);
  paints.push(() =>
    cells.forEach((button, i) => {
      const [, p] = data.lens[i % (L + 1)][Math.floor(i / (L + 1))][0];
      paintCell(button, ramp[Math.round(150 * p)]); // not to the end: a table of answers is mostly certain of itself
    }),
  );
  when("layer", () => tops.forEach((top, l) => top.classList.toggle("on", l === state.layer)));
  when(SHOWN, () => rows.forEach((row, i) => row.classList.toggle("on", i === shown())));
}

function lensCell(guesses, i, layer) {
  const best = guesses.map(([word, p]) => `${word} ${p.toFixed(4)}`).join(", ");
  const line = `${afterVisit(layer)}, at ${tokens[i]}: ${best}`;
  const button = make("button", { type: "button", tabindex: -1, "aria-label": line }, piece(guesses[0][0]));
  const show = () => {
    const bars = guesses.flatMap(([word, p]) => {
      const bar = make("span", { class: "bar" });
      bar.style.width = `${100 * p}%`;
      return [piece(word), make("span", { class: "p" }, p.toFixed(4)), bar];
    });
    const title = [make("b", {}, afterVisit(layer)), ", at ", piece(tokens[i])];
    tip(button, [...title, make("div", { class: "bars" }, ...bars)]);
  };
  for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, show);
  for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, untip);
  button.addEventListener("click", () => {
    choose({ token: i, layer: layer || state.layer });
    show();
  });
  return button;
}

// ---- paths and distances ----

function path() {
  const { points, share } = data.path;
  const [one, two] = share.map((part) => `${(100 * part).toFixed(0)}%`);
  const flat = points.flat();
  const edge = (f, c) => flat.reduce((best, point) => f(best, point[c]), flat[0][c]);
  const [lows, highs] = [Math.min, Math.max].map((f) => [edge(f, 0), edge(f, 1)]);
  drawn(byId("path"), `layer ${SHOWN}`, (width) => {
    const [height, pad, about] = [Math.min(460, width * 0.9), 26, shown()];
    const spans = [0, 1].map((c) => ((c ? height : width) - 2 * pad) / (highs[c] - lows[c] || 1));
    const ratio = Math.min(...spans); // one scale for both axes: a distance is a distance in every direction
    const fit = (value, c, whole) => Math.round(10 * (whole / 2 + (value - (lows[c] + highs[c]) / 2) * ratio)) / 10;
    const xy = (point) => [fit(point[0], 0, width), height - fit(point[1], 1, height)];
    const said = `Paths of the ${T} tokens through ${L} visits; dots after visit ${state.layer}.`;
    const { svg, add, spot } = canvasOf(width, height, { role: "img", "aria-label": said });
    const order = tokens.map((_, i) => i).sort((a, b) => (a === about) - (b === about)); // the shown one on top
    for (const i of order) {
      const d = "M" + points.map((layer) => xy(layer[i]).join(" ")).join("L");
      add("path", { class: `trail${i === about ? " on" : ""}`, d });
    }
    for (const i of order) {
      const kind = i === about ? "dot on" : "dot";
      spot(...xy(points[state.layer][i]), i === about ? 5 : 3.2, kind, () => choose({ token: i }));
    }
    if (about !== null) for (const layer of points) spot(...xy(layer[about]), 2, "dot on"); // the visits on its way
    const wanted = order.reverse().map((i) => [short(bare(tokens[i]), 14), ...xy(points[state.layer][i]), i === about]);
    svg.append(...labels(wanted, width));
    return svg;
  });
  when("layer", () => {
    byId("path-note").textContent =
      `All hidden states of this text, 0 to ${L}, on the two directions in which they differ most: ${one} and ${two} ` +
      `of the variance. The dots are after visit ${state.layer}; what two directions cannot show is not here.`;
  });
}

// Names beside dots; one that would lie on another is left out (the first come first).
function labels(wanted, width) {
  const taken = [];
  return wanted.flatMap(([text, x, y, on]) => {
    const wide = 7.2 * [...text].length + 4;
    const left = x + 8 + wide > width ? x - 8 - wide : x + 8;
    if (taken.some((box) => left < box[0] + box[2] && box[0] < left + wide && Math.abs(y - box[1]) < 14)) return [];
    taken.push([left, y, wide]);
    return [make("text", { x: left, y: y + 4, class: on ? "on halo" : "halo" }, text)];
  });
}

function curve(id, title, values, digits) {
  const told = values.map((value) => (value === null ? "not finite" : value.toFixed(digits)));
  const high = Math.max(...values) || 1;
  const label = `${title}: ` + told.map((value, i) => `visit ${i + 1} ${value}`).join(", ");
  drawn(byId(id), "layer", (width) => {
    const [height, pad, top] = [205, 24, 48];
    const { svg, add, text, spot } = canvasOf(width, height, { role: "img", "aria-label": label });
    const base = height - 26;
    const x = (i) => pad + ((width - 2 * pad) * (i + 0.5)) / L;
    const y = (value) => base - ((base - top) * value) / high;
    text(0, 14, title, "", "start");
    add("line", { class: "axis", x1: 0, x2: width, y1: base, y2: base });
    add("path", { class: "curve", d: "M" + values.map((value, i) => `${x(i)} ${y(value)}`).join("L") });
    values.forEach((value, i) => {
      const on = i + 1 === state.layer ? "on" : "";
      spot(x(i), y(value), on ? 5 : 3.5, `dot ${on}`, () => choose({ layer: i + 1 }));
      text(x(i), y(value) - 10, told[i], `halo ${on || "soft"}`);
      text(x(i), height - 8, String(i + 1), on || "soft");
    });
    return svg;
  });
}

// ---- the forward, line by line ----

const STATISTICS = ["mean", "std", "norm", "low", "high"];

function steps() {
  const columns = ["point", "shape", "what", ...STATISTICS];
  const titles = columns.map((name, i) => make("th", { scope: "col", class: i > 2 ? "num" : "" }, name));
  const body = make("tbody");
  byId("steps").append(make("table", { class: "steps" }, make("thead", {}, make("tr", {}, ...titles)), body));
  const band = (text) => {
    const cell = make("th", { colspan: columns.length, scope: "colgroup" }, text);
    return make("tr", { class: "band" }, cell);
  };
  const isHead = (step) => ["pooled", "mlm.logits", "sop.logits"].includes(step.point);
  const after = data.steps.filter(isHead);
  const before = data.steps.filter((step) => step.layer === 0 && !isHead(step));
  when("layer", () => {
    const visit = data.steps.filter((step) => step.layer === state.layer);
    body.replaceChildren(
      band("Before the first visit"), ...before.map(stepRow),
      band(`Visit ${state.layer} of ${L}: ${sharers(state.layer)}`), ...visit.map(stepRow),
      ...(after.length ? [band("After the last visit"), ...after.map(stepRow)] : []),
    );
  });
}

function stepRow(step) {
  const line = `${step.file}:${step.line}  ${step.code.replace(/\s+# \[.*$/, "")}`; // the shape has a column already
  return make("tr", {},
    make("th", { scope: "row" }, step.point),
    make("td", {}, make("code", {}, step.letters), make("code", {}, step.shape.join(" × "))),
    make("td", { class: "what" }, step.formula, make("code", {}, line)),
    ...STATISTICS.map((name) => make("td", { class: "num" }, plain(step[name]))),
  );
}

// ---- keys, theme, paper ----

function keys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      untip();
      choose({ token: null, hover: null, cell: null });
    }
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !event.shiftKey) return;
    event.preventDefault();
    const within = (x, low, high) => Math.max(low, Math.min(high, x));
    choose({ layer: within(state.layer + step[0], 1, L), head: within(state.head + step[1], 0, A - 1) });
  });
  addEventListener("scroll", scrolled, { passive: true, capture: true }); // of the tables too
  addEventListener("hashchange", () => choose(fromLink()));
}

function themes() {
  let chosen = null; // until somebody chooses, the system's
  byId("theme").addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    setTheme(chosen);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(chosen));
  matchMedia("print").addEventListener("change", (event) => setTheme(event.matches ? "light" : chosen));
  addEventListener("beforeprint", () => setTheme("light")); // paper is white
  addEventListener("afterprint", () => setTheme(chosen));
}

function start() {
  Object.assign(state, fromLink());
  setTheme(null);
  heading();
  for (const part of [bar, drawing, sentence, map, overview, lens, path, steps, keys, themes]) part();
  curve("distance", "Distance, L2", data.distances.l2, 2);
  curve("angle", "Angle, degrees", data.distances.degrees, 1);
  const digest = `model ${data.model.digest.slice(0, 12)} by the SHA-256 of its numbers`;
  byId("made").textContent = `Made by minialbert ${data.version}: ${data.command} (${digest}).`;
  for (const [, update] of updates) update();
  for (const paint of paints) paint();
}

start();
