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

function draw(figure) {
  const { drawing } = JSON.parse(figure.querySelector("script").textContent);
  const target = figure.querySelector(".drawing");
  if (drawing.layout.height) target.style.height = `${drawing.layout.height}px`;
  const settings = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(target, drawing.data, themed(drawing.layout), settings);
  drawn.push({ target, layout: drawing.layout });
  offerAxes(figure, target, drawing);
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
document.querySelectorAll("figure").forEach(draw);
document.querySelectorAll(".download").forEach((button) => {
  const { name, csv } = JSON.parse(button.closest("figure, .data").querySelector("script").textContent);
  button.addEventListener("click", () => download(name, csv));
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
