"use strict";
// Attention of single heads: the matrix on a canvas, and the text in the shades of what one token attends to.
{
  const view = document.querySelector(".heads");
  const { tokens, causal, checkpoints } = JSON.parse(view.querySelector("script").textContent);
  const size = tokens.length;
  const pick = Object.fromEntries([...view.querySelectorAll("[data-pick]")].map((input) => [input.dataset.pick, input]));
  const panels = [...view.querySelectorAll(".head")];
  const decoded = new Map();
  let pointed = null; // [query, key] under the pointer; the key is null in the text
  const query = () => (pointed ? pointed[0] : Number(pick.token.value));

  const visible = (token) => token.replace(/\n/g, "↵").replace(/\t/g, "⇥");
  const quoted = (place) => `“${visible(tokens[place])}”`;
  const percent = (weight) => `${weight >= 0.0995 || weight === 0 ? (100 * weight).toFixed(0) : (100 * weight).toPrecision(2)}\u00a0%`;
  const find = (checkpoint, name) => checkpoints[checkpoint].heads.find((head) => head.name === name);
  const step = (checkpoint) => `step ${checkpoints[checkpoint].step.toLocaleString("en")}`;

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  // A weight is largest × (level ÷ 255)²; a causal head has no levels for the keys after its query.
  function matrix(head) {
    if (!decoded.has(head)) {
      const bytes = bytesOf(head.levels);
      const levels = new Uint8Array(size * size);
      for (let row = 0, start = 0; row < size; row += 1) {
        const end = start + (causal ? row + 1 : size);
        levels.set(bytes.subarray(start, end), row * size);
        start = end;
      }
      decoded.set(head, { levels, largest: new Float32Array(bytesOf(head.largest).buffer) });
    }
    return decoded.get(head);
  }

  const weightOf = ({ levels, largest }, row, key) => largest[row] * (levels[row * size + key] / 255) ** 2;
  // What a level is multiplied with for an opacity: √ of the weight, or of its share of the row's largest.
  const scaleOf = ({ largest }, row) => (pick.colors.value === "row" ? 1 : Math.sqrt(largest[row])) / 255;

  const accent = () => {
    const color = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  };

  function paint(canvas, weights, [red, green, blue]) {
    canvas.width = canvas.height = size;
    const image = new ImageData(size, size);
    new Uint32Array(image.data.buffer).fill(red | (green << 8) | (blue << 16));
    for (let row = 0, at = 0; row < size; row += 1) {
      const opacity = 255 * scaleOf(weights, row);
      for (const end = at + size; at < end; at += 1) image.data[4 * at + 3] = weights.levels[at] * opacity;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // --- what is shown ------------------------------------------------------------------------------------------------------

  function left() {
    const checkpoint = Number(pick.checkpoint.value);
    const head = find(checkpoint, pick.head.value);
    const donor = checkpoints[checkpoint].donors[head.name];
    return { checkpoint, head, words: donor ? `copy of ${donor}` : "" };
  }

  function right({ checkpoint, head }) {
    const [kind, other, name] = pick.compare.value.split("/");
    if (kind === "none") return null;
    if (kind === "head") return { checkpoint: Number(other), head: find(other, name), words: "" };
    if (kind === "step") {
      const beside = 1 - checkpoint;
      return { checkpoint: beside, head: find(beside, head.name), words: `there is no head ${head.name}` };
    }
    const donor = checkpoints[checkpoint].donors[head.name];
    const found = donor && find(checkpoint, donor);
    return { checkpoint, head: found, words: !donor ? `${head.name} has no donor` : found ? `donor of ${head.name}` : `the donor ${donor} is not on this page` };
  }

  function showHeads() {
    const shown = left();
    [shown, right(shown)].forEach((side, number) => {
      const panel = panels[number];
      panel.hidden = side === null;
      panel.shown = side && side.head;
      if (!side) return;
      const { checkpoint, head, words } = side;
      const named = head ? `Head ${head.name}, ${step(checkpoint)}` : step(checkpoint)[0].toUpperCase() + step(checkpoint).slice(1);
      panel.querySelector("h4").textContent = words && !(head && words.startsWith("there is no")) ? `${named}: ${words}` : named;
      panel.querySelectorAll(":scope > div").forEach((part) => { part.hidden = !head; });
      if (!head) return;
      const canvas = panel.querySelector("canvas");
      canvas.setAttribute("aria-label", `Attention matrix of head ${head.name}, ${step(checkpoint)}: rows are tokens, columns the tokens that they attend to`);
      paint(canvas, matrix(head), accent());
    });
    view.querySelectorAll(".all button").forEach((button) => button.setAttribute("aria-pressed", String(button.title === shown.head.name)));
    showToken();
  }

  function showToken() {
    const row = query();
    const key = pointed ? pointed[1] : null;
    view.querySelector(".token").textContent = `${row + 1} of ${size}: ${quoted(row)}`;
    pick.token.setAttribute("aria-valuetext", view.querySelector(".token").textContent);
    const color = accent().join(" ");
    for (const panel of panels.filter((each) => each.shown)) {
      const weights = matrix(panel.shown);
      const [opacity, start] = [0.45 * scaleOf(weights, row), row * size];
      [...panel.querySelector(".words").children].forEach((word, place) => {
        word.style.backgroundColor = `rgb(${color} / ${opacity * weights.levels[start + place]})`;
        word.classList.toggle("query", place === row);
      });
      const mark = panel.querySelector(".cells i");
      mark.style.top = `${(100 * row) / size}%`;
      mark.style.height = `${100 / size}%`;
      const order = tokens.map((_, place) => place).sort((a, b) => weights.levels[start + b] - weights.levels[start + a]);
      const said = order.slice(0, 5).map((place) => `${quoted(place)} (${place + 1}) ${percent(weightOf(weights, row, place))}`).join(" · ");
      const under = key === null ? "" : `\nTo ${quoted(key)} (${key + 1}): ${percent(weightOf(weights, row, key))}`;
      panel.querySelector(".most").textContent = `Attends most to ${said}${under}`;
    }
  }

  // --- controls -----------------------------------------------------------------------------------------------------------

  function option(value, text) {
    return Object.assign(document.createElement("option"), { value, textContent: text });
  }

  // Fill a select, and keep its choice where that is still there.
  function fill(select, options) {
    const kept = select.value;
    select.replaceChildren(...options);
    if ([...select.options].some(({ value }) => value === kept)) select.value = kept;
  }

  function fillLayers() {
    const { heads } = checkpoints[pick.checkpoint.value];
    fill(pick.layer, [...new Set(heads.map(({ layer }) => layer))].map((layer) => option(layer, layer)));
    fillHeads();
  }

  function fillHeads() {
    const number = pick.head.value.split(".")[1]; // keep the head's number in another layer
    const own = checkpoints[pick.checkpoint.value].heads.filter(({ layer }) => layer === pick.layer.value);
    fill(pick.head, own.map(({ name, head }) => option(name, head)));
    const same = own.find(({ head }) => head === number);
    if (same) pick.head.value = same.name;
  }

  function choose(name) {
    pick.layer.value = name.split(".")[0];
    fillHeads();
    pick.head.value = name;
  }

  function fillCompare() {
    const kinds = [option("none", "nothing")];
    if (checkpoints.length > 1) kinds.push(option("step", "the same head at the other step"));
    if (checkpoints.some(({ donors }) => Object.keys(donors).length)) kinds.push(option("donor", "its donor"));
    const groups = checkpoints.map(({ heads }, number) => {
      const group = Object.assign(document.createElement("optgroup"), { label: `Head at ${step(number)}` });
      group.append(...heads.map(({ name }) => option(`head/${number}/${name}`, name)));
      return group;
    });
    fill(pick.compare, [...kinds, ...groups]);
    if (kinds.length > 1) pick.compare.value = kinds[1].value;
  }

  // Small matrices of all heads, one row for each layer, the bottom layer below. They select a head by pointer; the selects do
  // so by keyboard.
  function fillOverview() {
    const { heads } = checkpoints[pick.checkpoint.value];
    const layers = [...new Set(heads.map(({ layer }) => layer))].reverse();
    const columns = Math.max(...layers.map((layer) => heads.filter((head) => head.layer === layer).length));
    const all = view.querySelector(".all");
    view.querySelector(".overview").textContent = `All heads on this page at ${step(pick.checkpoint.value)}, layers from bottom to top`;
    all.style.gridTemplateColumns = `max-content repeat(${columns}, minmax(0, 5rem))`;
    all.replaceChildren(...layers.flatMap((layer) => {
      const label = Object.assign(document.createElement("span"), { textContent: layer });
      label.style.gridColumn = 1;
      return [label, ...heads.filter((head) => head.layer === layer).map((head) => {
        const button = Object.assign(document.createElement("button"), { type: "button", title: head.name, tabIndex: -1 });
        button.append(document.createElement("canvas"));
        button.addEventListener("click", () => {
          choose(head.name);
          showHeads();
        });
        return button;
      })];
    }));
    paintOverview();
  }

  function paintOverview() {
    const { heads } = checkpoints[pick.checkpoint.value];
    const color = accent();
    for (const button of view.querySelectorAll(".all button")) {
      paint(button.firstChild, matrix(heads.find(({ name }) => name === button.title)), color);
    }
  }

  function point(place) {
    pointed = place;
    showToken();
  }

  function keep(place) {
    pick.token.value = place[0];
    point(place);
  }

  for (const panel of panels) {
    const words = panel.querySelector(".words");
    words.append(...tokens.map((token) => {
      const text = token.replace(/\t/g, "⇥").replace(/\n/g, "↵\n");
      return Object.assign(document.createElement("span"), { textContent: text });
    }));
    const spans = [...words.children];
    const inText = ({ target }) => (spans.includes(target) ? [spans.indexOf(target), null] : null);
    const cells = panel.querySelector(".cells");
    const inMatrix = ({ clientX, clientY }) => {
      const box = cells.firstElementChild.getBoundingClientRect();
      const cell = (offset, length) => Math.max(0, Math.min(size - 1, Math.floor((offset / length) * size)));
      return [cell(clientY - box.top, box.height), cell(clientX - box.left, box.width)];
    };
    [[words, inText], [cells, inMatrix]].forEach(([part, locate]) => {
      part.addEventListener("pointermove", (event) => point(locate(event)));
      part.addEventListener("click", (event) => locate(event) && keep(locate(event)));
      part.addEventListener("pointerleave", () => point(null));
    });
  }

  pick.checkpoint.addEventListener("change", () => {
    fillLayers();
    fillOverview();
  });
  pick.layer.addEventListener("change", fillHeads);
  pick.colors.addEventListener("change", paintOverview);
  [pick.checkpoint, pick.layer, pick.head, pick.compare, pick.colors].forEach((select) => select.addEventListener("change", showHeads));
  pick.token.addEventListener("input", () => point(null));

  fill(pick.checkpoint, checkpoints.map((_, number) => option(String(number), step(number))));
  pick.checkpoint.parentElement.hidden = checkpoints.length < 2;
  pick.token.max = size - 1;
  pick.token.value = Math.floor(size / 2);
  view.classList.toggle("long", size > 200);
  fillLayers();
  fillCompare();
  const { donors, heads } = checkpoints[0];
  choose((heads.find(({ name }) => donors[name] && find(0, donors[name])) || heads[0]).name);
  fillOverview();
  showHeads();
  new MutationObserver(() => {
    paintOverview();
    showHeads();
  }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}
