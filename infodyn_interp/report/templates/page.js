"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = data.heads.length;
  const count = data.layers.length * columns;
  const names = Object.keys(data.advice);
  const nameOf = (letter) => names.find((name) => name[0] === letter) || "";
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const MARKS = ["◇", "□", "△", "▽", "☆", "✕"];
  const title = (text) => text.replaceAll("_", " ");

  function make(tag, attributes, ...children) {
    const svg = attributes && attributes.svg;
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {}))
      if (name !== "svg") node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const draw = (tag, attributes, ...children) => make(tag, { svg: true, ...attributes }, ...children);

  function show(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return value;
    const size = Math.abs(value);
    const text = Number.isInteger(value) ? String(value) : size >= 100 ? value.toFixed(0) : size >= 0.001 ? value.toFixed(3) : size >= 0.0001 ? value.toPrecision(2) : value.toExponential(1);
    return text.replaceAll("-", "−");
  }
  const interval = (middle, low, high) =>
    show(middle) + (low === null || low === undefined ? "" : ` [${show(low)},\u00a0${show(high)}]`);
  const finite = (values) => values.filter((value) => typeof value === "number");

  // Theme: as the system, then light, then dark.
  const themes = { "": "as the system", light: "light", dark: "dark" };
  byId("theme").addEventListener("click", () => {
    const order = Object.keys(themes);
    const next = order[(order.indexOf(document.documentElement.dataset.theme || "") + 1) % order.length];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    byId("theme").textContent = `Theme: ${themes[next]}`;
  });

  // The map.
  let term = data.terms[0];
  let chosen = Math.max(0, place(location.hash.replace("#head-", ""), place(data.first, 0)));

  function place(name, otherwise) {
    const [layer, head] = name.split(".").map(Number);
    const [l, h] = [data.layers.indexOf(layer), data.heads.indexOf(head)];
    return l < 0 || h < 0 ? otherwise : l * columns + h;
  }
  const labelOf = (index) => `${data.layers[Math.floor(index / columns)]}.${data.heads[index % columns]}`;

  const grid = byId("grid");
  const cells = new Array(count);
  const corner = make("div", { role: "row" }, make("div", { role: "columnheader", class: "axis corner", style: "--l:-1;--h:-1" }));
  data.layers.forEach((layer, l) =>
    corner.append(make("div", { role: "columnheader", class: "axis", style: `--l:${l};--h:-1`, "aria-label": `layer ${layer}` }, String(layer))));
  grid.append(corner);
  data.heads.forEach((head, h) => {
    const row = make("div", { role: "row" }, make("div", { role: "rowheader", class: "axis", style: `--l:-1;--h:${h}`, "aria-label": `head ${head}` }, String(head)));
    data.layers.forEach((layer, l) => {
      const cell = make("div", { role: "gridcell", tabindex: "-1", style: `--l:${l};--h:${h}` });
      cell.index = l * columns + h;
      cells[cell.index] = cell;
      row.append(cell);
    });
    grid.append(row);
  });
  const narrow = matchMedia("(max-width: 860px)");
  const turn = () => {
    const turned = narrow.matches && columns < data.layers.length;
    grid.classList.toggle("turned", turned);
    grid.style.maxWidth = `${32 * ((turned ? columns : data.layers.length) + 1)}px`;
    grid.querySelector(".corner").textContent = turned ? "layer" : "head"; // what its column counts
    document.querySelector(".along").textContent = turned ? "from top to bottom" : "from left to right";
  };
  narrow.addEventListener("change", turn);
  turn();

  grid.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) choose(cell.index, true);
  });
  grid.addEventListener("keydown", (event) => {
    let [l, h] = [Math.floor(chosen / columns), chosen % columns];
    const turned = grid.classList.contains("turned");
    const key = turned
      ? { ArrowLeft: "ArrowUp", ArrowUp: "ArrowLeft", ArrowRight: "ArrowDown", ArrowDown: "ArrowRight", Home: "PageUp", PageUp: "Home", End: "PageDown", PageDown: "End" }[event.key]
      : event.key;
    if (key === "ArrowLeft") l -= 1;
    else if (key === "ArrowRight") l += 1;
    else if (key === "ArrowUp") h -= 1;
    else if (key === "ArrowDown") h += 1;
    else if (key === "Home") l = 0;
    else if (key === "End") l = data.layers.length - 1;
    else if (key === "PageUp") h = 0;
    else if (key === "PageDown") h = columns - 1;
    else return;
    event.preventDefault();
    if (l >= 0 && l < data.layers.length && h >= 0 && h < columns) choose(l * columns + h, true);
  });

  for (const name of data.terms) {
    const counts = names.map((verdict) => [...data.verdict[name]].filter((letter) => letter === verdict[0]).length);
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    names.forEach((verdict, k) => counts[k] && bar.append(make("span", { class: verdict[0], style: `flex:${counts[k]}` })));
    const input = make("input", { type: "radio", name: "term", value: name });
    input.checked = name === term;
    input.addEventListener("change", () => { term = name; paint(); tell(); });
    byId("terms").append(make("label", null, input, `${name}: ${counts[0]} of ${count} identified`, bar));
  }
  for (const name of names)
    byId("legend").append(make("li", null, make("span", { class: `badge ${name[0]}` }, name[0]), ` ${name}`));

  function paint() {
    byId("meaning").textContent = `${term}: ${data.meaning[term]}.`;
    cells.forEach((cell, index) => {
      const letter = data.verdict[term][index];
      cell.className = `cell ${letter}`;
      cell.textContent = letter;
      const [layer, head] = labelOf(index).split(".");
      cell.setAttribute("aria-label", `layer ${layer}, head ${head}: ${title(nameOf(letter))}`);
    });
  }

  function choose(index, moved) {
    cells[chosen].tabIndex = -1;
    cells[chosen].setAttribute("aria-selected", "false");
    chosen = index;
    cells[chosen].tabIndex = 0;
    cells[chosen].setAttribute("aria-selected", "true");
    if (moved) {
      cells[chosen].focus();
      try { history.replaceState(null, "", `#head-${labelOf(chosen)}`); } catch { /* a page that may not name itself */ }
    }
    tell();
    describe();
  }

  function tell() {
    byId("status").textContent = `Head ${labelOf(chosen)}, ${term}: ${nameOf(data.verdict[term][chosen])}; ${data.reason[term][chosen]}.`;
  }

  // One head.
  function describe() {
    byId("name").textContent = `Head ${labelOf(chosen)}`;
    const at = (name) => (data.surface[name] || [])[chosen];
    const rms = at("rms") === undefined ? "" : ` Its scores vary by ${show(at("score_rms"))} nats, its energy by ${show(at("rms"))} nats (RMS within rows).`;
    byId("surface").textContent =
      `The surface reference explains ${interval(at("r2"), at("r2_low"), at("r2_high"))} of its scores (R²), with slope ${interval(at("slope"), at("slope_low"), at("slope_high"))}.${rms}`;
    byId("cards").replaceChildren(...data.terms.map(card));
    byId("charts").replaceChildren(...[variogram(), profile(), tracks()].filter(Boolean));
    if (data.example.pieces) shade();
  }

  function card(name) {
    const letter = data.verdict[name][chosen];
    const verdict = nameOf(letter);
    const limit = (data.limit[name] || [])[chosen];
    const unit = name === "carry" ? "log V(long)/V(1)" : "share of held-out energy variance";
    const q = (data.q[name] || [])[chosen];
    const seen = limit === null || limit === undefined ? "its detection limit was not computed"
      : limit === "inf" ? "not even a share of .5 of energy variance" : `a share of ${show(limit)} of energy variance`;
    const confounder = data.confounder[name][chosen];
    const facts = [
      ["Why", data.reason[name][chosen] + (confounder ? ` (with ${confounder})` : "")],
      ["Gain", `${interval(data.gain[name][chosen], data.low[name][chosen], data.high[name][chosen])}, ${unit}` + (typeof q === "number" ? `; q ${show(q)}` : "")],
      ["Would have been seen", seen],
      ["What to do", data.advice[verdict] || "–"],
    ];
    const list = make("dl", null, ...facts.flatMap(([what, text]) => [make("dt", null, what), make("dd", null, text)]));
    const head = make("h3", null, name, make("span", { class: `badge ${letter}` }, `${letter} ${verdict}`));
    return make("article", { class: "card", "data-term": name }, head, make("p", { class: "meaning" }, data.meaning[name]), list, strip(name), ...nullRows(name));
  }

  function badge(letter) {
    const verdict = nameOf(letter);
    return verdict ? make("span", { class: `badge ${letter}`, title: verdict }, letter, make("span", { class: "unseen-name" }, ` ${verdict}`)) : "–";
  }

  function nullRows(name) {
    const rows = Object.entries(data.nulls).filter(([, of]) => typeof of.gain[name][chosen] === "number");
    if (!rows.length) return [];
    const body = rows.map(([null_, of]) => make("tr", null,
      make("th", { scope: "row" }, `${MARKS[Object.keys(data.nulls).indexOf(null_) % MARKS.length]} ${title(null_)}`),
      make("td", null, show(of.gain[name][chosen])),
      make("td", null, interval(of.above[name][chosen], of.low[name][chosen], of.high[name][chosen])),
      make("td", null, badge(of.verdict[name][chosen]))));
    const header = make("tr", null, ...["Null", "gain", "model less null", "verdict"].map((text) => make("th", { scope: "col" }, text)));
    return [make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Nulls of ${name}` },
      make("table", null, make("caption", null, "Beside its nulls, on the same documents"), make("thead", null, header), make("tbody", null, ...body)))];
  }

  function strip(name) {
    const [middle, low, high] = [data.gain, data.low, data.high].map((of) => of[name][chosen]);
    const nulls = Object.entries(data.nulls).map(([null_, of], k) => [MARKS[k % MARKS.length], of.gain[name][chosen], null_]).filter(([, value]) => typeof value === "number");
    const values = finite([0, middle, low, high, ...nulls.map((null_) => null_[1])]);
    if (values.length < 2) return "";
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const x = (value) => 16 + (288 * (value - least)) / (most - least || 1);
    const picture = draw("svg", { viewBox: "0 0 320 54", role: "img", "aria-label": `Gain of ${name} with its interval, above the gains of its nulls` });
    picture.append(draw("line", { x1: x(0), x2: x(0), y1: 4, y2: 38, stroke: "currentColor", "stroke-dasharray": "3 2" }));
    if (typeof low === "number") picture.append(draw("line", { x1: x(low), x2: x(high), y1: 13, y2: 13, stroke: "currentColor", "stroke-width": 2 }));
    if (typeof middle === "number") picture.append(draw("circle", { cx: x(middle), cy: 13, r: 3.5, fill: "currentColor" }));
    for (const [mark, value] of nulls) picture.append(draw("text", { x: x(value), y: 37, "text-anchor": "middle" }, mark));
    for (const [value, anchor] of [[least, "start"], [most, "end"]]) picture.append(draw("text", { x: x(value) + (anchor === "start" ? -12 : 12), y: 52, "text-anchor": anchor }, show(value)));
    return picture;
  }

  function chart(heading, label, below, points, xs, extra) {
    const known = finite([...points.flatMap((line) => line.values), ...(extra || [])]);
    if (!known.length) return null;
    const [top, bottom] = [Math.max(...known), Math.min(0, ...known)];
    const [x0, x1] = [xs[0], xs[xs.length - 1]];
    const x = (value) => 40 + (270 * (value - x0)) / (x1 - x0 || 1);
    const y = (value) => 128 - (116 * (value - bottom)) / (top - bottom || 1);
    const picture = draw("svg", { viewBox: "0 0 320 160", role: "img", "aria-label": label });
    picture.append(draw("path", { d: "M40 8V128H312", fill: "none", stroke: "currentColor", "stroke-width": 0.8 }));
    for (const line of points) {
      const there = xs.map((at, k) => [at, line.values[k]]).filter(([, value]) => typeof value === "number");
      picture.append(draw("path", { d: there.map(([at, value], k) => `${k ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join(""), fill: "none", stroke: "currentColor", "stroke-width": 1.5, "stroke-dasharray": line.dashes || "none" }));
      if (line.dots) for (const [at, value] of there) picture.append(draw("circle", { cx: x(at), cy: y(value), r: 2.5, fill: "currentColor" }));
    }
    for (const value of [bottom, top]) picture.append(draw("text", { x: 36, y: y(value) + 4, "text-anchor": "end" }, show(value)));
    for (const [value, anchor] of [[x0, "start"], [x1, "end"]]) picture.append(draw("text", { x: x(value), y: 142, "text-anchor": anchor }, show(value)));
    picture.append(draw("text", { x: 175, y: 157, "text-anchor": "middle" }, below));
    return make("div", { class: "card" }, make("h3", null, heading), picture, make("p", { class: "meaning" }, label));
  }

  function variogram() {
    if (!data.carry.variogram) return null;
    const at = (name) => (data.carry[name] || [])[chosen];
    const permuted = at("variogram_permuted");
    return chart("Carry-over: variogram",
      `Half the squared difference of rows a lag apart (nats²), solid${permuted ? "; with queries in random order, dashed" : ""}. A rise is carry-over: one step keeps ${interval(at("rho"), at("rho_low"), at("rho_high"))} of it.`,
      "lag (queries)", [{ values: at("variogram"), dots: true }, ...(permuted ? [{ values: permuted, dashes: "4 3" }] : [])], data.carry.lag);
  }

  function profile() {
    const [rise, threshold] = [data.profile.rise, data.profile.threshold].map((of) => (of || [])[chosen]);
    if (!rise || typeof threshold !== "number") return null;
    const at = (name) => data.profile[name][chosen];
    const capped = rise.map((value) => (typeof value === "number" && value <= 4 * threshold ? value : null));
    return chart("Carry-over: profile of ρ",
      `Squares left over the least, less one, for every ρ; below the dashed line it is not rejected: ρ ${interval(at("best"), at("low"), at("high"))}.`,
      "ρ, what one step keeps", [{ values: capped }, { values: rise.map(() => threshold), dashes: "4 3" }], data.profile.rho);
  }

  function tracks() {
    if (!data.track.track_gain) return null;
    const gains = data.track.track_gain[chosen];
    const kept = (data.track.kept || [])[chosen];
    const at = (name) => (data.track[name] || [])[chosen];
    const header = make("tr", null, make("th", { scope: "col" }, "width \\ memory"), ...data.track.tau.map((tau) => make("th", { scope: "col" }, `${show(tau)} tokens`)));
    const rows = data.track.width.map((width, w) => make("tr", null, make("th", { scope: "row" }, show(width)),
      ...data.track.tau.map((tau, t) => make("td", null, show(gains[w][t]) + (kept && kept[w][t] === 1 ? "\u00a0✓" : "") + (width === at("width_chosen") && tau === at("tau_chosen") ? "\u00a0●" : "")))));
    return make("div", { class: "card" }, make("h3", null, "Track: gain by width and memory"),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Gain of the track by width and memory" }, make("table", null, make("thead", null, header), make("tbody", null, ...rows))),
      make("p", { class: "meaning" }, `Held-out gain of each track over nuisance; ● the chosen one${kept ? ", ✓ those that the data do not reject" : ""}. Coefficient ${show(at("track_coefficient"))} nats per unit of track; below 0 is a well.`));
  }

  // The example window.
  let part = 0;
  let spans = [];
  if (data.example.pieces) {
    data.example.parts.forEach((name, k) => {
      const input = make("input", { type: "radio", name: "part", value: name });
      input.checked = k === part;
      input.addEventListener("change", () => { part = k; shade(); });
      byId("parts").append(make("label", null, input, name));
    });
    spans = data.example.pieces.map((piece) => make("span", { class: "token" }, piece));
    byId("text").append(...spans);
    byId("text").tabIndex = 0;
    byId("text").setAttribute("role", "region");
    byId("text").setAttribute("aria-label", "Text of the example window");
    byId("text").addEventListener("pointerover", (event) => {
      const index = spans.indexOf(event.target);
      if (index >= 0) byId("reading").textContent = `“${data.example.pieces[index]}”: ${data.example.parts.map((name, k) => `${name} ${show(energies()[k][index])}`).join(", ")} nats`;
    });
    byId("values").addEventListener("toggle", table);
  } else byId("window").hidden = true;

  let decoded = { index: -1, rows: [] };
  function energies() {
    if (decoded.index !== chosen) {
      const bytes = Uint8Array.from(atob(data.example.received[chosen]), (character) => character.charCodeAt(0));
      const view = new DataView(bytes.buffer);
      const tokens = data.example.pieces.length;
      const rows = data.example.parts.map((_, k) => Array.from({ length: tokens }, (_, j) => {
        const code = view.getInt16(2 * (k * tokens + j), true);
        return code === -32768 ? null : (code / 32767) * data.example.top[chosen];
      }));
      decoded = { index: chosen, rows };
    }
    return decoded.rows;
  }

  function shade() {
    const values = energies()[part];
    const top = Math.max(1e-9, ...finite(values).map(Math.abs));
    spans.forEach((span, index) => {
      const value = values[index];
      const share = value === null ? 0 : Math.abs(value) / top;
      span.className = value === null ? "token unseen" : `token ${value < 0 ? "draws" : "repels"}${share < 0.2 ? " faint" : ""}`;
      span.style.setProperty("--a", `calc(var(--strength) * ${share.toFixed(3)})`);
    });
    const cut = data.example.window > spans.length ? ` The first ${spans.length} of ${data.example.window} tokens.` : "";
    byId("scale").textContent = `Full colour is ${show(top)} nats.${cut}`;
    table();
  }

  function table() {
    if (!byId("values").open) return;
    const header = make("tr", null, ...["token", ...data.example.parts.map((name) => `${name} (nats)`)].map((text) => make("th", { scope: "col" }, text)));
    const rows = data.example.pieces.map((piece, index) => make("tr", null, make("th", { scope: "row" }, `${index} ${piece}`), ...energies().map((row) => make("td", null, show(row[index])))));
    byId("tokens").replaceChildren(make("thead", null, header), make("tbody", null, ...rows));
  }

  paint();
  choose(chosen, false);
  addEventListener("hashchange", () => {
    const index = place(location.hash.replace("#head-", ""), -1);
    if (index >= 0) choose(index, false);
  });
})();
