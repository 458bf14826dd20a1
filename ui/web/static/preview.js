// The preview: what `ui.web.preview.shown` tells, as tiles, a solid, maps, score and seams. Text from outside only ever
// becomes text, through `textContent`.

const MAP_NAMES = { picture: "Picture", lit: "Lit", basecolor: "Basecolor", normal: "Normal", height: "Height", roughness: "Roughness",
  metallic: "Metallic", ao: "Occlusion", photo: "Photo", seam: "Seam map" };
const prefix = "z" + Math.random().toString(36).slice(2, 8);
const address = (path) => ((window.gradio_config && window.gradio_config.root) || "").replace(/\/$/, "") + path;
const images = new Map();
let told = { items: [], chosen: 0 }, view = { map: "lit" }, tiles = null, solid = null, near = null, parts = null, turnOf = 0;

function make(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function load(path) {
  if (!images.has(path)) {
    if (images.size > 60) images.clear();
    images.set(path, new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error("an image is gone"));
      image.src = address(path);
    }));
  }
  return images.get(path);
}

function choice(label, options, value, change) {
  const group = make("div", { class: "z-choice", role: "radiogroup", "aria-label": label });
  const buttons = Object.entries(options).map(([key, text]) => make("button", { type: "button", role: "radio", "data-key": key, text,
    onclick: () => set(key, true) }));
  const set = (key, loud) => {
    for (const button of buttons) {
      const on = button.dataset.key === key;
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = on ? 0 : -1;
      if (on && loud === "keys") button.focus();
    }
    if (loud) change(key);
  };
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = buttons.findIndex((button) => button.getAttribute("aria-checked") === "true");
    set(buttons[(at + step + buttons.length) % buttons.length].dataset.key, "keys");
  });
  group.append(...buttons);
  set(value, false);
  return { group, set };
}

function slider(name, label, low, high, step, value, change, shown = String) {
  const id = `${prefix}-${name}`, out = make("output", { for: id, text: shown(value) });
  const input = make("input", { type: "range", id, min: low, max: high, step, value, oninput: () => {
    out.textContent = shown(Number(input.value));
    change(Number(input.value));
  } });
  const set = (to) => { input.value = to; out.textContent = shown(Number(to)); };
  return { row: make("div", { class: "z-slider" }, make("label", { for: id, text: label }), input, out), set };
}

function drags(canvas, move, options = {}) {
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY, options.other && (event.button === 2 || event.shiftKey)];
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("z-held");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    (held[2] ? options.other : move)(event.clientX - held[0], event.clientY - held[1]);
    held = [event.clientX, event.clientY, held[2]];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; canvas.classList.remove("z-held"); });
  if (options.other) canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    (event.shiftKey && options.other ? options.other : move)(way[0] * 16, way[1] * 16);
  });
}

function build() {
  const root = element.querySelector(".z-preview");
  root.textContent = "";
  parts = { root };
  parts.ranks = make("div", { class: "z-ranks", role: "group", "aria-label": "Results, best score first" });
  // tiles
  const flat = make("canvas", { class: "z-canvas", tabindex: 0, role: "img", "aria-label": "Repeats of the tile. Drag, or move with the arrow keys." });
  tiles = makeTiles(flat);
  drags(flat, (dx, dy) => { tiles.move(dx, dy); parts.seam.setAttribute("aria-pressed", "false"); });
  parts.map = make("select", { id: `${prefix}-map`, onchange: () => lookAt(parts.map.value) });
  parts.seam = make("button", { type: "button", class: "z-toggle", "aria-pressed": "true", text: "Seam in the centre", onclick: () => {
    const on = parts.seam.getAttribute("aria-pressed") !== "true";
    parts.seam.setAttribute("aria-pressed", String(on));
    tiles.look.x = tiles.look.y = on ? 0 : 0.5;
    tiles.draw();
  } });
  parts.mark = make("button", { type: "button", class: "z-toggle", "aria-pressed": "true", text: "Border marks", onclick: () => {
    tiles.look.marks = !tiles.look.marks;
    parts.mark.setAttribute("aria-pressed", String(tiles.look.marks));
    tiles.draw();
  } });
  const count = slider("tiles", "Tiles", 1, 8, 1, 2, (value) => { tiles.look.tiles = value; tiles.draw(); }, (n) => `${n} × ${n}`);
  const tile = make("section", { class: "z-pane", "aria-label": "Tile preview" },
    make("div", { class: "z-bar" }, make("label", { for: `${prefix}-map`, text: "Map" }), parts.map, parts.seam, parts.mark), flat,
    make("div", { class: "z-bar z-under" }, count.row));
  // solid
  const round = make("canvas", { class: "z-canvas z-round", tabindex: 0, role: "img",
    "aria-label": "The material on a solid. Drag or use the arrow keys to turn it; with Shift, the light." });
  parts.solid = make("section", { class: "z-pane", "aria-label": "3D preview" });
  try {
    solid = makeSolid(round);
  } catch (error) {
    solid = null;
  }
  if (solid) {
    const turn = (value) => ((value + 540) % 360) - 180, hold = (value, most) => Math.max(-most, Math.min(most, value));
    const azimuth = slider("azimuth", "Light around", -180, 180, 1, solid.look.azimuth, (v) => { solid.look.azimuth = v; solid.draw(); }, (v) => `${v}°`);
    const elevation = slider("elevation", "Light height", -20, 90, 1, solid.look.elevation, (v) => { solid.look.elevation = v; solid.draw(); }, (v) => `${v}°`);
    const relief = slider("relief", "Relief", 0, 3, 0.05, 1, (v) => { solid.look.relief = v; solid.draw(); }, (v) => `${v.toFixed(2)} ×`);
    const repeat = slider("repeat", "Repeat", 1, 6, 1, 1, (v) => { solid.look.tiles = v; solid.draw(); }, (n) => `${n} ×`);
    drags(round, (dx, dy) => {
      solid.look.yaw += dx * 0.01;
      solid.look.pitch = hold(solid.look.pitch + dy * 0.01 + solid.shape().tilt, 1.45) - solid.shape().tilt;
      solid.draw();
    }, { other: (dx, dy) => {
      solid.look.azimuth = Math.round(turn(solid.look.azimuth + dx * 0.6));
      solid.look.elevation = Math.round(Math.max(-20, Math.min(90, solid.look.elevation - dy * 0.6)));
      azimuth.set(solid.look.azimuth); elevation.set(solid.look.elevation);
      solid.draw();
    } });
    const shape = choice("Shape", { sphere: "Sphere", plane: "Plane", cloth: "Cloth" }, "sphere", (key) => {
      Object.assign(solid.look, { shape: key, yaw: 0, pitch: 0 });
      round.dataset.shape = key;
      solid.draw();
    });
    parts.solid.append(make("div", { class: "z-bar" }, shape.group, make("span", { class: "z-hint", text: "Shift-drag turns the light" })), round,
      make("div", { class: "z-bar z-under z-two" }, azimuth.row, elevation.row, repeat.row, relief.row));
  } else {
    parts.solid.append(make("p", { class: "z-empty", text: "The 3D preview needs WebGL 2, which this browser does not give." }));
  }
  // a picture: from near and far, beside what it was made of, or as repeats
  parts.near = lookClosely();
  parts.way = choice("View", { near: "Picture", tile: "Repeats" }, "tile", (key) => { view.way = key; choose(told.chosen, false); });
  // score
  parts.score = make("section", { class: "z-score", "aria-label": "Tileability" });
  parts.maps = make("div", { class: "z-maps", role: "group", "aria-label": "Maps" });
  root.append(parts.ranks, make("div", { class: "z-panes" }, parts.way.group, tile, parts.solid, parts.near), parts.score, parts.maps);
  parts.tile = tile;
}

function lookClosely() {
  const canvas = make("canvas", { class: "z-canvas z-near", tabindex: 0, role: "img", "aria-label": "The picture. Drag, or move with the arrow keys." });
  near = makePicture(canvas);
  drags(canvas, near.move);
  const zoom = slider("zoom", "Zoom", 0, 1, 0.01, 0, (value) => near.zoom(value), (value) => `${Math.round(100 * near.scale(value))} %`);
  near.changed = () => zoom.set(near.look.zoom);
  parts.wipe = slider("wipe", "Before | after", 0, 100, 1, 50, (value) => { near.look.wipe = value / 100; near.draw(); }, (value) => `${value} %`);
  const one = make("button", { type: "button", class: "z-toggle", text: "Actual pixels", onclick: () => near.actual() });
  const all = make("button", { type: "button", class: "z-toggle", text: "Fit", onclick: () => near.fit() });
  const frame = make("div", { class: "z-frame" }, canvas, parts.names = make("div", { class: "z-names", "aria-hidden": "true" }, make("span", { text: "Before" }), make("span", { text: "After" })));
  return make("section", { class: "z-pane", "aria-label": "Picture" }, make("div", { class: "z-bar" }, all, one), frame,
    make("div", { class: "z-bar z-under z-two" }, zoom.row, parts.wipe.row));
}

function lookAt(name) {
  const item = told.items[told.chosen];
  view.map = [name, "basecolor", "picture"].find((each) => each in item.maps);
  parts.map.value = view.map;
  for (const button of parts.maps.children) button.setAttribute("aria-pressed", String(button.dataset.map === view.map));
  load(item.maps[view.map]).then((image) => { if (told.items[told.chosen] === item) tiles.show(image); }).catch(() => {});
}

function meter(label, value, before) {
  const shown = value.toFixed(2), low = value < 0.5;
  return make("div", { class: "z-meter" + (low ? " z-low" : "") }, make("span", { text: label }),
    ...(before == null ? [] : [make("span", { class: "z-number z-was", text: before.toFixed(2) })]),
    make("meter", { min: 0, max: 1, low: 0.5, high: 0.75, optimum: 1, value, "aria-label": `${label}: ${shown} of 1` }),
    make("span", { class: "z-number", text: shown }));
}

function fact(label, value) {
  return make("div", {}, make("dt", { text: label }), make("dd", { text: value }));
}

function metres(value) {
  return value >= 0.1 ? `${value.toFixed(2)} m` : value >= 0.001 ? `${(value * 1000).toFixed(1)} mm` : `${(value * 1e6).toFixed(0)} µm`;
}

// The verdict of a score, with what it was before where that is known.
function scored(item) {
  const score = item.score, before = item.before, good = score.verdict === "tiles";
  const rows = [["Both axes", "both"], ["Left to right", "x"], ["Top to bottom", "y"]];
  const badge = make("span", { class: good ? "z-badge z-good" : "z-badge z-bad", text: good ? "Tiles" : "Has a " + score.verdict });
  return [badge, make("div", { class: before ? "z-meters z-both" : "z-meters" },
    ...(before ? [make("div", { class: "z-legend" }, make("span", { text: "Photo" }), make("span", { text: "Tile" }))] : []),
    ...rows.map(([label, key]) => meter(label, score[key], before && before[key])))];
}

function choose(index, loud) {
  told.chosen = index;
  const item = told.items[index], turn = ++turnOf, score = item.score, plain = item.kind === "picture" && item.axes === "none";
  [...parts.ranks.children].forEach((button, place) => button.setAttribute("aria-pressed", String(place === index)));
  parts.ranks.hidden = told.items.length < 2;
  parts.solid.hidden = item.kind !== "material";
  const close = item.kind === "picture" && (plain || (view.way || (item.maps.before ? "near" : "tile")) === "near");
  parts.near.hidden = !close;
  parts.tile.hidden = close;
  parts.way.group.hidden = item.kind !== "picture" || plain;
  parts.way.set(close ? "near" : "tile", false);
  parts.root.classList.toggle("z-flat", item.kind !== "material");
  parts.root.classList.toggle("z-wide", item.kind === "picture" && item.size[0] > 1.6 * item.size[1]);
  const names = Object.keys(MAP_NAMES).filter((name) => name in item.maps);
  parts.map.replaceChildren(...names.map((name) => make("option", { value: name, text: MAP_NAMES[name] })));
  parts.maps.hidden = close;
  parts.maps.replaceChildren(...names.map((name) => make("button",
    { type: "button", "data-map": name, onclick: () => lookAt(name) },
    make("img", { src: address(item.maps[name]), alt: "", loading: "lazy", width: 96, height: 96 }), make("span", { text: MAP_NAMES[name] }))));
  const [badge, meters] = score ? scored(item) : [];
  parts.score.setAttribute("aria-label", score ? "Tileability" : "The picture in figures");
  parts.score.replaceChildren(
    make("div", { class: "z-verdict" }, ...(badge ? [badge] : []), make("strong", { class: "z-title", text: item.title })),
    ...(score ? [meters, make("img", { class: "z-seams", src: address(item.maps.seam), alt: "Seam map: the image in grey, in red where repeats would show a seam" })] : []),
    make("dl", { class: "z-facts" }, fact("Size", `${item.size[0]} × ${item.size[1]} px`),
      ...(score ? [fact("Seam ratio", `${score.seam_x.toFixed(2)} across, ${score.seam_y.toFixed(2)} down`)] : []),
      ...(item.seed === "" ? [] : [fact("Seed", item.seed)]),
      ...(item.kind === "material" ? [fact("Real size", `${metres(item.size_m[0])} × ${metres(item.size_m[1])}`), fact("Depth", metres(item.depth_m))] : []),
      ...(item.facts || []).map(([label, value]) => fact(label, value))));
  tiles.look.repeat = { x: "repeat-x", y: "repeat-y" }[item.axes] || "repeat";
  if (!close) lookAt(view.map);
  if (item.kind === "picture") {
    parts.wipe.row.hidden = parts.names.hidden = !item.maps.before;
    Promise.all([item.maps.picture, item.maps.before].filter(Boolean).map(load)).then(([after, before]) => {
      if (turn === turnOf) near.show(after, before || null, item.size);
    }).catch(() => {});
  }
  if (solid && item.kind === "material") {
    const names = ["basecolor", "normal", "height", "roughness", "metallic", "ao"].filter((name) => name in item.maps);
    Promise.all(names.map((name) => load(item.maps[name]))).then((found) => {
      if (turn !== turnOf) return;
      solid.show(Object.fromEntries(names.map((name, place) => [name, found[place]])), item.size_m[0] / item.size_m[1], item.depth_m / item.size_m[0]);
    }).catch(() => {});
  }
  if (loud) trigger("select", { index });
}

function refresh() {
  try {
    told = JSON.parse(props.value);
  } catch (error) {
    told = { items: [], chosen: 0 };
  }
  if (!told.items.length) {
    const root = element.querySelector(".z-preview");
    root.replaceChildren(make("div", { class: "z-welcome" }, make("strong", { text: root.dataset.title }), make("span", { text: root.dataset.text })));
    parts = tiles = solid = near = null;
    return;
  }
  if (!parts) build();
  parts.ranks.replaceChildren(...told.items.map((item, place) => make("button", { type: "button", onclick: () => choose(place, true) },
    make("img", { src: address(item.maps.lit || item.maps.basecolor || item.maps.picture), alt: "", width: 72, height: 72 }),
    make("span", { class: "z-rank", text: `${place + 1}` }), ...(item.score ? [make("span", { class: "z-number", text: item.score.both.toFixed(2) })] : []),
    make("span", { class: "z-sr", text: item.seed === "" ? item.title : `seed ${item.seed}` }))));
  choose(Math.min(told.chosen, told.items.length - 1), false);
}

watch("value", refresh);
refresh();
