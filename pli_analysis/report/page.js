"use strict";
// Draws the figures from the JSON beside them, in the page's colours, and wires the page's few buttons.

const root = document.documentElement;

function colours() {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--ink"), soft: of("--soft"), line: of("--line") };
}

function themed(layout) {
  const { ink, soft, line } = colours();
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

const drawn = [];
const drawings = new Map();

// Takes the room that a figure will need, so that nothing moves when it is drawn.
function prepare(figure) {
  const { drawing } = JSON.parse(figure.querySelector("script").textContent);
  const target = figure.querySelector(".drawing");
  drawings.set(figure, drawing);
  if (drawing.layout.height) target.style.height = `${drawing.layout.height}px`;
  offerAxes(figure, target, drawing);
}

function draw(figure) {
  const drawing = drawings.get(figure);
  const target = figure.querySelector(".drawing");
  if (drawn.some((other) => other.target === target)) return;
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(target, drawing.data, themed(drawing.layout), settings);
  drawn.push({ target, layout: drawing.layout, data: drawing.data });
  target.on("plotly_hover", ({ points }) => light(layerOf(points[0].data) || layerOfRow(points[0])));
  target.on("plotly_unhover", () => light(pinned));
  if (pinned) light(pinned);
}

// What lies in sight is drawn at once, what lies below when there is time or the reader comes near.
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

// --- one layer, seen in all figures ---------------------------------------------------------------------------------

let pinned = null;
let lit = null;

function layerOf(trace) {
  return (trace.meta && trace.meta.layer) || null;
}

// Rows of a heat map begin with the id of their layer.
function layerOfRow(point) {
  const found = point.data.type === "heatmap" && /^[a-z]+/.exec(String(point.y));
  return found && layers.has(found[0]) ? found[0] : null;
}

function light(layer) {
  if (layer === lit) return;
  lit = layer;
  for (const { target, layout, data } of drawn) {
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
  const line = { color: colours().ink, width: 2 };
  return [{ type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: rows[0] - 0.5, y1: rows.at(-1) + 0.5, line }];
}

// A button a layer, in its colour: the same one in every figure.
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
  for (const [layer, colour] of [...layers].sort(order)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = layer;
    button.style.borderBottomColor = colour;
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

// A figure whose traces keep other x values in `meta` gets a row of buttons to switch between them.
function offerAxes(figure, target, drawing) {
  const axes = drawing.layout.meta && drawing.layout.meta.axes;
  if (!axes) return;
  const row = figure.querySelector(".axes");
  row.hidden = false;
  const first = Object.values(axes).indexOf(drawing.layout.xaxis.title.text);
  Object.entries(axes).forEach(([axis, title], place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.setAttribute("aria-pressed", String(place === first));
    button.addEventListener("click", () => {
      draw(figure);
      row.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      drawing.layout.xaxis.title.text = title;
      Plotly.update(target, { x: drawing.data.map((trace) => trace.meta[axis]) }, {
        "xaxis.title.text": title, "xaxis.autorange": true,
      });
    });
    row.append(button);
  });
}

function paint() {
  for (const { target, layout } of drawn) Plotly.relayout(target, themed(layout));
}

function theme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = dark ? "Light" : "Dark";
  paint();
}

// Paper is white, and nobody can click on it.
const SHEET = 660; // pixels of an A4 sheet within its margins, letters being a little wider
let before = null;
addEventListener("beforeprint", () => {
  const closed = [...document.querySelectorAll(".method:not([open])")];
  before = { dark: root.dataset.theme === "dark", closed };
  closed.forEach((method) => method.setAttribute("open", ""));
  theme(false);
  drawn.forEach(({ target }) => Plotly.relayout(target, { width: SHEET }));
});
addEventListener("afterprint", () => {
  if (!before) return;
  before.closed.forEach((method) => method.removeAttribute("open"));
  theme(before.dark);
  drawn.forEach(({ target }) => Plotly.relayout(target, { width: null, autosize: true }));
  before = null;
});

function download(name, csv) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

const system = matchMedia("(prefers-color-scheme: dark)");
theme(system.matches);
system.addEventListener("change", (event) => theme(event.matches));
document.getElementById("theme").addEventListener("click", () => theme(root.dataset.theme !== "dark"));
const figures = [...document.querySelectorAll("figure")];
figures.forEach(prepare);
offerLayers(figures);
drawLater(figures);
document.querySelectorAll(".download").forEach((button) => {
  button.addEventListener("click", () => {
    const { name, csv } = JSON.parse(button.closest("figure, .data").querySelector("script").textContent);
    download(name, csv);
  });
});

// The navigation marks the section being read.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
document.querySelectorAll("section").forEach((section) => reading.observe(section));
