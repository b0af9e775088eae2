// The gallery: an image, its label and every head's mask; two of them under one slider; orders, keys, the address.
// Columns: 0 the image, 1 the label, 2 and up the heads.
const titles = ["Image", "Label", ...data.heads];
const state = { at: 0, view: "mask", before: "mask", hidden: new Set(), outline: false, order: "differ", left: data.heads.length > 1 ? 2 : 1, right: data.heads.length > 1 ? 3 : 2 };
let order = data.images.map((_, i) => i);
let zoom = null, panels = [], wipe = null, addressTimer = 0;

if (data.images.length) startGallery();

async function startGallery() {
  $("gallery").hidden = false;
  readAddress();
  zoom = lockedZoom($("panels"), (factor) => { $("zoom-reset").textContent = `${factor < 10 ? factor.toFixed(1) : Math.round(factor)}×`; });
  wipe = makeWipe();
  panels = titles.map(makePanel);
  $("panels").append(wipe.figure, ...panels.map((p) => p.figure));
  $("panels").dataset.heads = data.heads.length;
  buildLegend(state.hidden, show);
  listen();
  zoom.reset();
  moveWipe(0.5);
  const first = order[state.at];
  sortImages();
  state.at = order.indexOf(first);
  await show();
  performance.mark("ready");
  document.body.dataset.ready = "yes";
}

function readAddress() {                 // #image=5&view=error&left=aspp&right=rcca: a link to the current view
  const address = new URLSearchParams(location.hash.slice(1));
  const image = Number(address.get("image")) - 1;
  if (image >= 0 && image < data.images.length) state.at = image;
  if (["mask", "overlay", "error"].includes(address.get("view"))) state.view = address.get("view");
  if (["differ", "wrong", "gain"].includes(address.get("order"))) state.order = address.get("order");
  for (const side of ["left", "right"]) {
    const column = titles.indexOf(address.get(side), 1);
    if (column > 0) state[side] = column;
  }
  state.outline = address.get("outline") === "1";
}

function writeAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const now = { image: order[state.at] + 1, view: state.view, order: state.order, left: titles[state.left], right: titles[state.right], outline: Number(state.outline) };
  for (const [key, value] of Object.entries(now)) address.set(key, value);
  try { history.replaceState(null, "", `#${address}`); } catch { /* some browsers refuse it for a file */ }
}

function makeScreen() {                  // the zoomed layers: photo, mask, outline
  const photo = make("img", { alt: "", draggable: false });
  const canvas = make("canvas"), outline = make("canvas", { className: "outline" });
  canvas.setAttribute("role", "img");
  return { photo, canvas, outline, stage: make("div", { className: "stage" }, photo, canvas, outline) };
}

function named(column) {                 // a head's mark and its name
  const name = make("span");
  if (column >= 2) {
    const { shape, colour } = data.marks[column - 2];
    const mark = make("span", { className: "mark", textContent: `${shape} ` });
    mark.style.setProperty("--mark", colour);
    mark.setAttribute("aria-hidden", "true");
    name.append(mark);
  }
  name.append(titles[column]);
  return name;
}

function makePanel(title, column) {
  const screen = makeScreen();
  const frame = make("div", { className: "frame" }, screen.stage, make("span", { className: "cross" }));
  const probe = make("span", { className: "probe" });
  const figure = make("figure", { className: `panel ${column < 2 ? "input" : "head"}` }, frame, make("figcaption", {}, named(column), probe));
  return { figure, frame, probe, column, screen };
}

function makeWipe() {
  const sides = ["left", "right"].map((side) => {
    const screen = makeScreen(), label = make("span", { className: "side" });
    return { side, screen, label, layer: make("div", { className: `layer ${side}` }, screen.stage, label) };
  });
  const frame = make("div", { className: "frame" }, ...sides.map((s) => s.layer), make("span", { className: "divider" }), make("span", { className: "cross" }));
  const range = make("input", { type: "range", min: 0, max: 100, step: 1, id: "wipe" });
  range.setAttribute("aria-label", "Slider: how much of the left one is shown, in per cent");
  const choices = sides.map(({ side }) => {
    const choice = make("select", { id: side }, ...titles.map((text, column) => make("option", { value: column, textContent: text })).slice(1));
    choice.setAttribute("aria-label", side === "left" ? "Left of the slider" : "Right of the slider");
    return choice;
  });
  const swap = make("button", { type: "button", id: "swap", textContent: "⇄" });
  swap.setAttribute("aria-label", "Swap both (x)");
  const figure = make("figure", { className: "panel wipe" }, frame, range, make("figcaption", {}, choices[0], swap, choices[1]));
  return { figure, frame, range, sides, choices, swap, share: 0.5, isMoving: false };
}

function moveWipe(share) {
  wipe.share = Math.min(1, Math.max(0, share));
  wipe.frame.style.setProperty("--wipe", wipe.share);
  wipe.range.value = Math.round(100 * wipe.share);
}

async function show() {
  const index = order[state.at];
  const image = data.images[index];
  const ids = await idsOf(index);
  if (index !== order[state.at]) return;      // the reader has moved on meanwhile
  for (const p of panels) paintScreen(p.screen, p.column, image, ids);
  for (const s of wipe.sides) {
    paintScreen(s.screen, state[s.side], image, ids);
    s.label.replaceChildren(named(state[s.side]));
  }
  tell(image);
  say(image);
  showLegend(state.hidden, new Set(ids.columns.flatMap((map) => map ? [...new Set(map)] : [])));
  showStrip();
  idsOf(order[(state.at + 1) % order.length]);        // decode the next image ahead of time
  clearTimeout(addressTimer);
  addressTimer = setTimeout(writeAddress, 300);
}

function paintScreen(screen, column, image, ids) {
  const isError = state.view === "error" && column >= 2;
  const view = state.view === "error" && !isError ? "overlay" : state.view;
  screen.photo.src = image.photo;
  [screen.photo.height, screen.photo.width] = image.hw;
  paint(screen.canvas, ids.columns[column], ids.columns[1], view, state.hidden, image.hw);
  paintOutline(screen.outline, state.outline ? ids.ambiguous : null, image.hw);
  screen.stage.classList.toggle("is-error", isError);
  const wrong = column >= 2 ? `: ${percent(image.wrong[column - 2])} of the labelled pixels wrong` : ` of ${image.id}`;
  screen.canvas.setAttribute("aria-label", titles[column] + wrong);
}

function wrongOf(image, column) { return column < 2 ? 0 : image.wrong[column - 2] ?? 0; }

function orderText(name) {
  const [left, right] = [titles[state.left], titles[state.right]];
  if (name === "gain" && state.left === 1) return `fewest errors of ${right}`;
  if (name === "gain" && state.right === 1) return `most errors of ${left}`;
  return { differ: "most disagreement", wrong: data.heads.length > 1 ? "most errors, all heads" : "most errors", gain: `gain of ${right} over ${left}` }[name];
}

function sortImages() {
  const worth = {
    differ: (image) => image.differ ?? 0,
    wrong: (image) => titles.reduce((sum, _, column) => sum + wrongOf(image, column), 0),
    gain: (image) => wrongOf(image, state.left) - wrongOf(image, state.right),
  }[state.order];
  order = data.images.map((_, i) => i).sort((a, b) => worth(data.images[b]) - worth(data.images[a]));
  for (const option of $("order").options) {
    option.textContent = orderText(option.value);
    option.hidden = option.disabled = data.heads.length === 1 && option.value === "differ";
  }
  $("order").value = state.order;
  buildStrip();
}

function tell(image) {                   // writes below each panel how much of it is wrong
  for (const p of panels) {
    p.probe.className = "probe";
    p.probe.textContent = p.column >= 2 ? `${percent(image.wrong[p.column - 2])} wrong` : p.column ? "" : image.id;
  }
  panels[0].probe.title = image.id;
}

function inWords(gain) {                  // points of an image's pixels
  return Math.abs(gain) < 0.05 ? "as many" : `${Math.abs(gain).toFixed(1)} points ${gain < 0 ? "fewer" : "more"}`;
}

function say(image) {
  $("place").textContent = `${state.at + 1} / ${order.length}`;
  const gain = 100 * (wrongOf(image, state.left) - wrongOf(image, state.right));
  const compared = Math.min(state.left, state.right) < 2 || state.left === state.right ? ""
    : ` ${titles[state.right]} gets ${inWords(gain)} of them right ${Math.abs(gain) < 0.05 ? "as" : "than"} ${titles[state.left]}.`;
  const rest = data.available > order.length ? ` These are ${order.length} of ${data.available} images: the first ones of each order.` : "";
  $("about").textContent = data.heads.length === 1
    ? `${percent(image.differ)} of the labelled pixels are wrong here.${rest}`
    : `The heads disagree on ${percent(image.differ)} of this image's labelled pixels.${compared}${rest}`;
  const key = $("key");
  if (state.view === "error") key.replaceChildren(swatch(data.wrong), " wrong, ", swatch(data.ignored), " ignored in the label, not scored; the darkened photo where the head is right.");
  else key.replaceChildren(swatch([0, 0, 0]), " ignored in the label: neither trained on nor scored. Where a class is hidden, the photo shows.");
  if (state.outline) key.append(` White outline: an ambiguous object (${data.pairs.join(", ")}), told apart only by a distant cue.`);
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  for (const node of document.querySelectorAll(".for-pairs")) node.hidden = !data.pairs.length;
  $("outline").setAttribute("aria-pressed", String(state.outline));
  wipe.choices.forEach((choice, i) => { choice.value = state[wipe.sides[i].side]; });
}

function buildStrip() {
  $("strip").replaceChildren(...order.map((i, place) => {
    const image = data.images[i];
    const thumb = make("img", { alt: `Image ${place + 1}: ${image.id}`, loading: "lazy", src: image.thumb });
    [thumb.height, thumb.width] = image.hw;      // reserves its place before it is decoded
    const button = make("button", { type: "button", title: image.id }, thumb);
    button.dataset.i = i;
    button.addEventListener("click", () => go(order.indexOf(i)));
    return button;
  }));
}

function showStrip() {
  const strip = $("strip"), frame = strip.parentElement, hadFocus = strip.contains(document.activeElement);
  for (const button of strip.children) {
    const isHere = Number(button.dataset.i) === order[state.at];
    button.setAttribute("aria-current", String(isHere));
    button.tabIndex = isHere ? 0 : -1;   // one stop of the Tab key; arrows move on from there
    if (!isHere) continue;
    frame.scrollLeft = button.offsetLeft - frame.clientWidth / 2 + button.offsetWidth / 2;
    if (hadFocus) button.focus({ preventScroll: true });
  }
}

function go(place) {
  state.at = (place + order.length) % order.length;
  return show();
}

function setOrder(name) {
  state.order = name;
  sortImages();
  go(0);
}

function choose(left, right) {
  [state.left, state.right] = [left, right];
  const here = order[state.at];
  sortImages();
  go(state.order === "gain" ? 0 : order.indexOf(here));
}

function setView(view) {
  if (view === "error" && state.view !== "error") state.before = state.view;
  state.view = view;
  show();
}

function toggleOutline() { state.outline = !state.outline; show(); }

async function probe(event, frame) {     // the class under the pointer, in every panel
  const box = frame.getBoundingClientRect();
  const [x, y] = zoom.toImage((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
  const index = order[state.at];
  const ids = await idsOf(index);
  if (index !== order[state.at]) return;
  const [height, width] = data.images[index].hw;
  const place = Math.floor(y * height) * width + Math.floor(x * width);
  $("panels").style.setProperty("--probe-x", x);
  $("panels").style.setProperty("--probe-y", y);
  $("panels").classList.add("is-probing");
  const label = ids.columns[1][place];
  for (const p of panels.slice(1)) {
    const k = ids.columns[p.column][place];
    const isWrong = p.column >= 2 && label !== IGNORE && k !== label;
    p.probe.replaceChildren(swatch(k === IGNORE ? [0, 0, 0] : data.classes[k].rgb), (k === IGNORE ? "ignored" : data.classes[k].name) + (isWrong ? " ✗" : ""));
    p.probe.classList.toggle("is-wrong", isWrong);
  }
}

function unprobe() {
  $("panels").classList.remove("is-probing");
  tell(data.images[order[state.at]]);
}
