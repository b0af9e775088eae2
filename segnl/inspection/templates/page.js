"use strict";
// The gallery. Masks are zlib streams of class indices, 255 void; nothing is fetched and no picture is read back.
(async () => {
  const VOID = 255;
  const data = JSON.parse(document.getElementById("payload").textContent);
  const abgr = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;   // as little-endian pixels lie
  const $ = (id) => document.getElementById(id);
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  setUpTheme();
  if (!data.images.length) return;
  $("gallery").hidden = false;

  const state = { at: 0, view: "mask", hidden: new Set(), outline: false, order: "differ" };
  let order = data.images.map((_, i) => i);
  const decoded = new Map();
  readAddress();

  const titles = ["Image", "Truth", ...data.heads];
  const panels = titles.map((title, column) => panel(title, column));
  $("panels").append(...panels.map((p) => p.figure));
  buildStrip();
  buildLegend();
  listen();
  await show();
  document.body.dataset.ready = "yes";

  function setUpTheme() {
    const root = document.documentElement;
    const asked = new URLSearchParams(location.hash.slice(1)).get("theme");
    let kept = null;
    try { kept = localStorage.getItem("segnl-theme"); } catch { /* a file may have no storage */ }
    if (asked || kept) root.dataset.theme = asked || kept;
    $("theme").addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("segnl-theme", root.dataset.theme); } catch { /* as above */ }
    });
  }

  function readAddress() {               // #image=5&view=error&outline=1: a link to what one sees
    const address = new URLSearchParams(location.hash.slice(1));
    const image = Number(address.get("image")) - 1;
    if (image >= 0 && image < data.images.length) state.at = image;
    if (["mask", "overlay", "error"].includes(address.get("view"))) state.view = address.get("view");
    state.outline = address.get("outline") === "1";
  }

  function panel(title, column) {
    const photo = make("img", { alt: "", draggable: false });
    const canvas = make("canvas"), outline = make("canvas", { className: "outline" }), cross = make("span", { className: "cross" });
    canvas.setAttribute("role", "img");
    const frame = make("div", { className: "frame" }, photo, canvas, outline, cross);
    const name = make("span");
    if (column >= 2) {
      const mark = data.marks[column - 2];
      const shape = make("span", { className: "mark", textContent: mark.shape + " " });
      shape.style.setProperty("--mark", mark.colour);
      shape.setAttribute("aria-hidden", "true");
      name.append(shape);
    }
    name.append(title);
    const probe = make("span", { className: "probe" });
    const figure = make("figure", { className: "panel" }, frame, make("figcaption", {}, name, probe));
    return { figure, frame, photo, canvas, outline, cross, probe, column, title };
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function idsOf(i) {
    if (!decoded.has(i)) {
      const image = data.images[i];
      const parts = [image.truth, ...image.masks, ...(image.ambiguous ? [image.ambiguous] : [])];
      decoded.set(i, Promise.all(parts.map(unpack)));
    }
    const [truth, ...rest] = await decoded.get(i);
    return { truth, masks: rest.slice(0, data.heads.length), ambiguous: rest[data.heads.length] || null };
  }

  async function show() {
    const asked = order[state.at];
    const image = data.images[asked];
    const ids = await idsOf(asked);
    if (asked !== order[state.at]) return;      // another one was asked for meanwhile
    const [height, width] = image.hw;
    for (const p of panels) {
      p.photo.src = image.photo;
      p.photo.width = width;
      p.photo.height = height;
      const mask = p.column === 0 ? null : p.column === 1 ? ids.truth : ids.masks[p.column - 2];
      const view = p.column < 2 && state.view === "error" ? (p.column ? "overlay" : "none") : state.view;
      paint(p.canvas, mask, ids.truth, view, width, height);
      p.frame.classList.toggle("is-error", state.view === "error" && p.column >= 2);
      paintOutline(p.outline, state.outline ? ids.ambiguous : null, width, height);
      p.canvas.setAttribute("aria-label", describe(p, image));
    }
    tell(image);
    say(image, ids);
    idsOf(order[(state.at + 1) % order.length]);        // the next one is ready when it is asked for
  }

  function describe(p, image) {
    if (p.column === 0) return `Photo ${image.stem}`;
    if (p.column === 1) return `Truth of ${image.stem}`;
    return `${p.title}: ${percent(image.wrong[p.column - 2])} of the labelled pixels wrong`;
  }

  function paint(canvas, ids, truth, view, width, height) {
    canvas.width = width;
    canvas.height = height;
    if (!ids || view === "none") return;
    const pixels = new ImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    const colours = new Uint32Array(256);
    const alpha = view === "overlay" ? 150 : 255;
    data.classes.forEach(({ rgb }, k) => { colours[k] = abgr(rgb, alpha); });
    colours[VOID] = abgr([0, 0, 0], view === "overlay" ? 90 : 255);
    for (const k of state.hidden) colours[k] = 0;
    const wrong = abgr(data.wrong, 255), unscored = abgr(data.unscored, 255);
    if (view === "error") {
      for (let i = 0; i < ids.length; i++) {
        const isWrong = truth[i] !== VOID && ids[i] !== truth[i];
        const isHidden = state.hidden.has(truth[i]) && state.hidden.has(ids[i]);
        if (truth[i] === VOID) out[i] = unscored;
        else if (isWrong && !isHidden) out[i] = wrong;
      }
    } else {
      for (let i = 0; i < ids.length; i++) out[i] = colours[ids[i]];
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function paintOutline(canvas, ambiguous, width, height) {
    canvas.width = width;
    canvas.height = height;
    if (!ambiguous) return;
    const pixels = new ImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    const put = (y, x, colour) => { if (y >= 0 && x >= 0 && y < height && x < width) out[y * width + x] = colour; };
    const edges = [];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const here = ambiguous[y * width + x];
        if (!here) continue;
        const isEdge = [[0, 1], [0, -1], [1, 0], [-1, 0]].some(([dy, dx]) =>
          y + dy < 0 || x + dx < 0 || y + dy >= height || x + dx >= width || ambiguous[(y + dy) * width + x + dx] !== here);
        if (isEdge) edges.push([y, x]);
      }
    }
    for (const [y, x] of edges) for (let dy = -2; dy <= 2; dy++) for (let dx = -2; dx <= 2; dx++) put(y + dy, x + dx, 0xff000000);
    for (const [y, x] of edges) for (let dy = -1; dy <= 0; dy++) for (let dx = -1; dx <= 0; dx++) put(y + dy, x + dx, 0xffffffff);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function percent(fraction) { return fraction === null ? "–" : `${(100 * fraction).toFixed(1)} %`; }

  function tell(image) {
    for (const p of panels) {
      p.probe.className = "probe";
      p.probe.textContent = p.column >= 2 ? `${percent(image.wrong[p.column - 2])} wrong` : "";
    }
    panels[0].probe.textContent = image.stem;
    panels[0].probe.title = image.stem;
  }

  function say(image, ids) {
    $("place").textContent = `${state.at + 1} / ${order.length}`;
    const alone = data.heads.length === 1;
    const shown = data.available > data.images.length ? ` Of ${data.available} images these ${data.images.length} show the most.` : "";
    $("about").textContent = alone
      ? `${percent(image.differ)} of the labelled pixels are wrong here.${shown}`
      : `The heads do not all agree on ${percent(image.differ)} of this image's labelled pixels.${shown}`;
    const swatch = (rgb) => {
      const square = make("span", { className: "swatch" });
      square.style.background = `rgb(${rgb.join(" ")})`;
      return square;
    };
    const key = $("key");
    if (state.view === "error") key.replaceChildren(swatch(data.wrong), " wrong, ", swatch(data.unscored), " void in the truth, not scored; the darkened photo where the head is right.");
    else key.replaceChildren(swatch([0, 0, 0]), " void in the truth: neither trained on nor scored. Classes that you hide let the photo through.");
    if (state.outline) key.append(` White outline: an ambiguous object (${data.pairs.join(", ")}), told apart only by a cue far away.`);
    for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
    $("outline").hidden = $("hint-outline").hidden = !data.pairs.length;
    $("outline").setAttribute("aria-pressed", String(state.outline));
    const seen = new Set();
    for (const part of [ids.truth, ...ids.masks]) for (let i = 0; i < part.length; i++) seen.add(part[i]);
    for (const button of $("legend").children) {
      const k = Number(button.dataset.k);
      button.setAttribute("aria-pressed", String(!state.hidden.has(k)));
      button.classList.toggle("is-absent", !seen.has(k));
      button.title = seen.has(k) ? "" : "in none of these panels";
    }
    for (const button of $("strip").children) {
      const isHere = Number(button.dataset.i) === order[state.at];
      button.setAttribute("aria-current", String(isHere));
      if (isHere) {
        const frame = $("strip").parentElement;
        frame.scrollLeft = button.offsetLeft - frame.clientWidth / 2 + button.offsetWidth / 2;
      }
    }
  }

  function buildStrip() {
    $("strip").replaceChildren(...order.map((i, place) => {
      const image = data.images[i];
      const button = make("button", { type: "button", title: image.stem }, make("img", { src: image.thumb, alt: `Image ${place + 1}: ${image.stem}`, loading: "lazy" }));
      button.dataset.i = i;
      button.addEventListener("click", () => go(order.indexOf(i)));
      return button;
    }));
  }

  function buildLegend() {
    $("legend").replaceChildren(...data.classes.map(({ name, rgb }, k) => {
      const swatch = make("i");
      swatch.style.background = `rgb(${rgb.join(" ")})`;
      const button = make("button", { type: "button" }, swatch, name);
      button.dataset.k = k;
      button.addEventListener("click", (event) => {
        if (event.shiftKey) state.hidden = new Set(data.classes.map((_, j) => j).filter((j) => j !== k));
        else if (!state.hidden.delete(k)) state.hidden.add(k);
        show();
      });
      return button;
    }));
  }

  function go(place) {
    state.at = (place + order.length) % order.length;
    return show();
  }

  function probe(event, p) {
    const box = p.frame.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    const asked = order[state.at];
    idsOf(asked).then((ids) => {
      if (asked !== order[state.at]) return;
      const [height, width] = data.images[asked].hw;
      const place = Math.floor(y * height) * width + Math.floor(x * width);
      $("panels").classList.add("is-probing");
      for (const q of panels) {
        q.cross.style.left = `${100 * x}%`;
        q.cross.style.top = `${100 * y}%`;
        if (q.column === 0) continue;
        const k = (q.column === 1 ? ids.truth : ids.masks[q.column - 2])[place];
        const isWrong = q.column >= 2 && ids.truth[place] !== VOID && k !== ids.truth[place];
        const swatch = make("i");
        swatch.style.background = k === VOID ? "#000" : `rgb(${data.classes[k].rgb.join(" ")})`;
        q.probe.replaceChildren(swatch, (k === VOID ? "void" : data.classes[k].name) + (isWrong ? " ✗" : ""));
        q.probe.classList.toggle("is-wrong", isWrong);
      }
    });
  }

  function unprobe() {
    $("panels").classList.remove("is-probing");
    tell(data.images[order[state.at]]);
  }

  function setView(view) { state.view = view; show(); }
  function toggleOutline() { state.outline = !state.outline; show(); }

  function listen() {
    $("previous").addEventListener("click", () => go(state.at - 1));
    $("next").addEventListener("click", () => go(state.at + 1));
    $("outline").addEventListener("click", toggleOutline);
    $("all").addEventListener("click", () => { state.hidden.clear(); show(); });
    for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
    $("order").addEventListener("change", (event) => {
      const worth = event.target.value === "differ" ? (i) => data.images[i].differ : (i) => data.images[i].wrong.reduce((a, b) => a + b, 0);
      order = data.images.map((_, i) => i).sort((a, b) => worth(b) - worth(a));
      buildStrip();
      go(0);
    });
    for (const p of panels) {
      p.frame.addEventListener("pointermove", (event) => probe(event, p));
      p.frame.addEventListener("pointerdown", (event) => probe(event, p));
      p.frame.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") unprobe(); });
    }
    const keys = { ArrowLeft: () => go(state.at - 1), ArrowRight: () => go(state.at + 1), m: () => setView("mask"), o: () => setView("overlay"), e: () => setView("error"), a: () => data.pairs.length && toggleOutline() };
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .scroll")) return;
      const act = keys[event.key];
      if (act) { event.preventDefault(); act(); }
    });
  }
})();
