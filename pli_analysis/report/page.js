"use strict";
// Draw the figures from their JSON in the page's colors, and handle the page's buttons.

const root = document.documentElement;
const narrow = matchMedia("(max-width: 40rem)");

function colors() {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--ink"), soft: of("--soft"), line: of("--line") };
}

function themed({ layout: wide }) {
  const layout = narrow.matches && wide.meta && wide.meta.narrow ? changed(wide, wide.meta.narrow) : wide;
  const { ink, soft, line } = colors();
  const axis = (own) => ({
    gridcolor: line, linecolor: line, zerolinecolor: line, tickfont: { color: soft }, automargin: true, ...own,
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: ink },
    margin: { l: 60, r: 30, t: 30, b: 50 },
    ...layout,
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
    // Figures of several panels have more axes.
    ...Object.fromEntries(Object.entries(layout).filter(([k]) => /^[xy]axis\d+$/.test(k)).map(([k, v]) => [k, axis(v)])),
  };
}

// A layout with some of its parts changed.
function changed(layout, changes) {
  const part = ([name, own]) => [name, Array.isArray(own) || !(own instanceof Object) ? own : { ...layout[name], ...own }];
  return { ...layout, ...Object.fromEntries(Object.entries(changes).map(part)) };
}

const drawn = new Set();
const drawings = new Map();
const targetOf = (figure) => figure.querySelector(".drawing");

function prepare(figure) {
  const { drawing } = JSON.parse(figure.querySelector("script").textContent);
  drawings.set(figure, drawing);
  takeRoom(figure);
  offerViews(figure, drawing);
}

// Reserve the height of a figure, so that the page does not move when it is drawn.
function takeRoom(figure) {
  const { height } = themed(drawings.get(figure));
  if (height) targetOf(figure).style.height = `${height}px`;
}

function draw(figure) {
  if (drawn.has(figure)) return;
  const [drawing, target] = [drawings.get(figure), targetOf(figure)];
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  const fitting = (trace) => (narrow.matches && trace.meta && trace.meta.narrow ? { ...trace, ...trace.meta.narrow } : trace);
  Plotly.newPlot(target, drawing.data.map(fitting), themed(drawing), settings);
  drawn.add(figure);
  target.on("plotly_hover", ({ points }) => light(layerOf(points[0].data) || layerOfRow(points[0])));
  target.on("plotly_unhover", () => light(pinned));
  if (!pinned) return;
  lit = undefined; // force highlighting: this figure is new
  light(pinned);
}

// Draw visible figures at once, the others when the browser is idle or when the reader scrolls near them.
function drawLater(figures) {
  const waiting = new Set(figures);
  const take = (figure) => waiting.delete(figure) && draw(figure);
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(entry.target);
      take(entry.target);
    }
  }, { rootMargin: "400px" });
  waiting.forEach((figure) => near.observe(figure));
  const idle = window.requestIdleCallback || ((call) => setTimeout(call, 200));
  const next = () => {
    const [figure] = waiting;
    if (!figure) return;
    take(figure);
    idle(next);
  };
  addEventListener("load", () => idle(next));
  addEventListener("beforeprint", () => [...waiting].forEach(take));
}

// --- highlight one layer in all figures ---------------------------------------------------------------------------------

let pinned = null;
let lit = null;

function layerOf(trace) {
  return (trace.meta && trace.meta.layer) || null;
}

// The name of a heat map's row begins with the layer id.
function layerOfRow(point) {
  const found = point.data.type === "heatmap" && /^[a-z]+/.exec(String(point.y));
  return found && layers.has(found[0]) ? found[0] : null;
}

function light(layer) {
  if (layer === lit) return;
  lit = layer;
  for (const figure of drawn) {
    const [{ layout, data }, target] = [drawings.get(figure), targetOf(figure)];
    const own = data.map(layerOf);
    const some = own.flatMap((of, place) => (of ? [place] : []));
    if (some.length) {
      Plotly.restyle(target, { opacity: some.map((place) => (!layer || own[place] === layer ? 1 : 0.12)) }, some);
    }
    if (data[0].type === "heatmap") Plotly.relayout(target, { shapes: [...(layout.shapes || []), ...frame(data[0].y, layer)] });
  }
  document.querySelectorAll(".layers button").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.textContent === pinned));
    button.classList.toggle("lit", button.textContent === layer);
  });
}

// A frame around the rows of a layer.
function frame(names, layer) {
  const rows = names.flatMap((name, place) => (layer && new RegExp(`^${layer}[ .]`).test(name) ? [place] : []));
  if (!rows.length) return [];
  const line = { color: colors().ink, width: 2 };
  return [{ type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: rows[0] - 0.5, y1: rows.at(-1) + 0.5, line }];
}

// One button per layer, in the layer's color, which is the same in every figure.
const layers = new Map();

function offerLayers(figures) {
  for (const figure of figures) {
    for (const trace of drawings.get(figure).data) {
      const layer = layerOf(trace);
      if (layer && !layers.has(layer)) layers.set(layer, (trace.line || trace.marker).color);
    }
  }
  const row = document.querySelector(".layers");
  row.hidden = layers.size < 2;
  const order = ([a], [b]) => a.length - b.length || (a < b ? -1 : 1);
  for (const [layer, color] of [...layers].sort(order)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = layer;
    button.style.borderBottomColor = color;
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `Show layer ${layer} in all figures`);
    button.addEventListener("click", () => {
      pinned = pinned === layer ? null : layer;
      lit = undefined;
      light(pinned);
    });
    row.append(button);
  }
}

// A figure with several views gets a button per view. `meta.views` of the layout has the name of each view and its changes
// to the layout, `meta.views` of a trace its changes to the trace. A view may have its own caption.
function offerViews(figure, drawing) {
  const views = drawing.layout.meta && drawing.layout.meta.views;
  if (!views || Object.keys(views).length < 2) return;
  const row = figure.querySelector(".views");
  row.hidden = false;
  Object.entries(views).forEach(([view, { name, layout }], place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(place === 0));
    button.addEventListener("click", () => {
      draw(figure);
      row.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      drawing.layout = changed(drawing.layout, layout);
      const seen = drawing.data.map((trace) => trace.meta.views[view]);
      const names = [...new Set(seen.flatMap(Object.keys))];
      const traces = Object.fromEntries(names.map((attribute) => [attribute, seen.map((own) => own[attribute])]));
      Plotly.update(targetOf(figure), traces, themed(drawing));
      caption(figure, view);
    });
    row.append(button);
  });
}

// Show the caption of a view. Captions share a grid cell, so that the page does not move.
function caption(figure, view) {
  const all = [...figure.querySelectorAll("figcaption [data-view]")];
  all.forEach((words) => { words.hidden = words.dataset.view !== view; });
  const shown = all.find((words) => !words.hidden);
  const title = figure.querySelector(".title").textContent;
  if (shown) targetOf(figure).setAttribute("aria-label", `${title}. ${shown.textContent}`);
}

function paint() {
  for (const figure of drawn) Plotly.relayout(targetOf(figure), themed(drawings.get(figure)));
}

function theme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = dark ? "Light" : "Dark";
  paint();
}

function download(name, csv) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// Download a figure as it is drawn now, on the color of its card, because most viewers show transparency as white.
function picture(figure, format) {
  draw(figure);
  const { data, layout, _fullLayout: { width, height } } = targetOf(figure);
  const card = getComputedStyle(root).getPropertyValue("--card").trim();
  const shown = { data, layout: { ...layout, paper_bgcolor: card } };
  const { name } = JSON.parse(figure.querySelector("script").textContent);
  Plotly.downloadImage(shown, { format, width, height, scale: format === "png" ? 3 : 1, filename: name });
}

const system = matchMedia("(prefers-color-scheme: dark)");
theme(system.matches);
system.addEventListener("change", (event) => theme(event.matches));
document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme !== "dark"));
const figures = [...document.querySelectorAll("figure")];
figures.forEach(prepare);
offerLayers(figures);
narrow.addEventListener("change", () => figures.forEach((figure) => {
  takeRoom(figure);
  if (drawn.delete(figure)) draw(figure); // redraw, because a relayout does not move axes with a fixed aspect ratio
}));
drawLater(figures);
// Print in light colors with all methods open. `drawLater` has drawn the remaining figures by now.
const SHEET = 660; // width of A4 within its margins, in pixels; US letter is a little wider
let before = null;
addEventListener("beforeprint", () => {
  const closed = [...document.querySelectorAll(".method:not([open])")];
  before = { dark: root.dataset.theme === "dark", closed };
  closed.forEach((method) => method.setAttribute("open", ""));
  theme(false);
  drawn.forEach((figure) => Plotly.relayout(targetOf(figure), { width: SHEET }));
});
addEventListener("afterprint", () => {
  if (!before) return;
  before.closed.forEach((method) => method.removeAttribute("open"));
  theme(before.dark);
  drawn.forEach((figure) => Plotly.relayout(targetOf(figure), { width: null, autosize: true }));
  before = null;
});

document.querySelectorAll(".download").forEach((button) => {
  button.addEventListener("click", () => {
    const { name, csv } = JSON.parse(button.closest("figure, .data").querySelector("script").textContent);
    download(name, csv);
  });
});

document.querySelectorAll(".picture").forEach((button) => {
  button.addEventListener("click", () => picture(button.closest("figure"), button.dataset.format));
});

// Mark the section being read in the navigation.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("section").forEach((section) => reading.observe(section));
