// Attention: a pixel is chosen in any picture, and each head's picture shows where it looks.
// Rows are stored as bytes (reports/attention.py): sqrt(weight / largest of its row), for a grid of queries.
const looks = data.images.map((image, i) => ({ image, i })).filter(({ image }) => image.attention);
const look = { place: 0, y: 0.5, x: 0.5, measure: data.heads.map(() => 0), panels: [], rows: new Map() };

if (looks.length && $("look")) startLook();

async function startLook() {
  $("look").hidden = false;
  look.panels = [null, ...data.heads.keys()].map(makeLookPanel);
  $("look-panels").append(...look.panels.map((panel) => panel.figure));
  $("look-panels").dataset.heads = data.heads.length;
  $("look-previous").addEventListener("click", () => showLook(look.place - 1));
  $("look-next").addEventListener("click", () => showLook(look.place + 1));
  $("attention").addEventListener("keydown", moveByKey);
  await showLook(0);
  document.body.dataset.looks = "yes";
}

function makeLookPanel(head) {            // head: null for the photo
  const photo = make("img", { alt: "", draggable: false }), canvas = make("canvas");
  const stage = make("div", { className: "stage" }, photo, ...(head === null ? [] : [canvas]));
  const frame = make("div", { className: `frame ${head === null ? "" : "looking"}` }, stage, make("span", { className: "cross" }));
  // One stop of the Tab key; a click in another picture gives that one the arrow keys.
  frame.tabIndex = head === null ? 0 : -1;
  frame.setAttribute("role", head === null ? "application" : "img");
  if (head === null) {
    frame.setAttribute("aria-label", "Choose a pixel with the arrow keys");
    frame.setAttribute("aria-describedby", "look-how");
  }
  const numbers = make("span", { className: "numbers" }), measure = make("span", { className: "measure" });
  const name = head === null ? make("span", { textContent: "Image" }) : named(head + 2);
  const caption = make("figcaption", {}, make("span", { className: "first" }, name, measure), numbers);
  frame.addEventListener("pointerdown", (event) => { if (event.button === 0) pointAt(event, frame); });
  frame.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse" && event.buttons & 1) pointAt(event, frame); });
  return { head, photo, canvas, frame, numbers, measure, figure: make("figure", { className: `panel ${head === null ? "source" : "head"}` }, frame, caption) };
}

function pointAt(event, frame) {
  const box = frame.getBoundingClientRect();
  choosePixel((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
}

function choosePixel(y, x) {
  [look.y, look.x] = [y, x].map((value) => Math.min(0.9999, Math.max(0, value)));
  return paintLook();
}

function moveByKey(event) {               // one step of the finest grid of this image
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step || event.target.closest("select, .scroll") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();                // elsewhere the arrows go through the images
  const { rows, columns } = finest();
  const far = event.shiftKey ? 5 : 1;
  const at = [nearest(rows, look.y) + far * step[0], nearest(columns, look.x) + far * step[1]];
  const clamp = (index, list) => list[Math.min(list.length - 1, Math.max(0, index))];
  choosePixel(clamp(at[0], rows), clamp(at[1], columns));
}

function measuresOf(head) { return looks[look.place].image.attention.heads[head]; }
function finest() {
  return data.heads.flatMap((_, head) => measuresOf(head)).reduce((a, b) => (b.rows.length * b.columns.length > a.rows.length * a.columns.length ? b : a));
}
function nearest(places, value) {
  return places.reduce((best, place, i) => (Math.abs(place - value) < Math.abs(places[best] - value) ? i : best), 0);
}

async function showLook(place) {
  look.place = (place + looks.length) % looks.length;
  const { image } = looks[look.place];
  look.rows.clear();
  $("look-place").textContent = `${look.place + 1} / ${looks.length}`;
  $("look-previous").disabled = $("look-next").disabled = looks.length === 1;
  for (const panel of look.panels) {
    panel.photo.src = image.photo;
    [panel.photo.height, panel.photo.width] = image.hw;
    if (panel.head === null) continue;
    const measures = measuresOf(panel.head);
    look.measure[panel.head] = Math.min(look.measure[panel.head], measures.length - 1);
    if (measures.length === 1) panel.measure.textContent = nameOf(measures[0]);
    else {
      const choice = make("select", {}, ...measures.map((measure, i) => make("option", { value: i, textContent: nameOf(measure) })));
      choice.value = look.measure[panel.head];
      choice.setAttribute("aria-label", `Measure of ${data.heads[panel.head]}`);
      choice.addEventListener("change", () => { look.measure[panel.head] = Number(choice.value); paintLook(); });
      panel.measure.replaceChildren(choice);
    }
  }
  [look.y, look.x] = image.attention.start;
  await paintLook();
}

function nameOf(measure) { return measure.kind === "gradient" ? "effective receptive field" : measure.name; }

/** The unpacked rows of a measure: codes, bytes of all queries; numbers, four floats a query. */
function unpacked(measure) {
  if (!look.rows.has(measure)) {
    look.rows.set(measure, Promise.all([unpack(measure.codes), unpack(measure.numbers)]).then(([codes, numbers]) => ({ codes, numbers: new Float32Array(numbers.buffer) })));
  }
  return look.rows.get(measure);
}

/** The row of the query nearest to (y, x): codes of its cells, its place, largest weight, entropy, distance, share. */
async function rowAt(measure, y, x) {
  const { codes, numbers } = await unpacked(measure);
  const row = nearest(measure.rows, y), column = nearest(measure.columns, x);
  const query = row * measure.columns.length + column, size = measure.hw[0] * measure.hw[1];
  const [largest, entropy, distance, own] = numbers.subarray(4 * query, 4 * query + 4);
  const bytes = codes.subarray(size * query, size * (query + 1));
  return { codes: measure.kind === "signed" ? new Int8Array(bytes.buffer, bytes.byteOffset, size) : bytes, y: measure.rows[row], x: measure.columns[column], largest, entropy, distance, own };
}

/** The weights of a row, decoded. */
function weightsOf(measure, { codes, largest }) {
  const steps = measure.kind === "signed" ? 127 : 255;
  return Array.from(codes, (code) => Math.sign(code) * (code / steps) ** 2 * largest);
}

async function paintLook() {
  const { image, i } = looks[look.place], { y, x, place } = look;
  const chosen = data.heads.map((_, head) => measuresOf(head)[look.measure[head]]);
  const [ids, ...rows] = await Promise.all([idsOf(i), ...chosen.map((measure) => rowAt(measure, y, x))]);
  if (place !== look.place || y !== look.y || x !== look.x) return;      // the reader has moved on meanwhile
  const [height, width] = image.hw;
  const pixel = Math.floor(y * height) * width + Math.floor(x * width);
  const className = (k) => (k === IGNORE ? "ignored" : data.classes[k].name);
  const colour = (k) => swatch(k === IGNORE ? [0, 0, 0] : data.classes[k].rgb);
  const label = ids.columns[1][pixel];
  $("look-pixel").replaceChildren("This pixel is ", colour(label), ` ${className(label)}`);
  for (const panel of look.panels) {
    const row = panel.head === null ? { y, x } : rows[panel.head];
    panel.frame.style.setProperty("--at-y", row.y);
    panel.frame.style.setProperty("--at-x", row.x);
    if (panel.head === null) {
      panel.numbers.textContent = image.id;
      continue;
    }
    const measure = chosen[panel.head];
    paintRow(panel.canvas, measure, row);
    const cells = measure.map[0] * measure.map[1], k = ids.columns[panel.head + 2][pixel];
    const isWrong = label !== IGNORE && k !== label;
    const far = Number.isNaN(row.distance) ? "reaches nothing" : `${Math.round(row.distance)} px away on average`;
    const wide = Number.isNaN(row.entropy) ? "" : `${row.entropy.toFixed(1)} bits: as wide as ${Math.round(2 ** row.entropy)} of ${cells} positions`;
    const own = Number.isNaN(row.own) ? "" : `${Math.round(100 * row.own)} % on ${className(label)}`;
    panel.numbers.replaceChildren(make("b", { textContent: [own, far].filter(Boolean).join(", ") }), make("br"), wide, make("br"), "predicts ", colour(k), ` ${className(k)}${isWrong ? " ✗" : ""}`);
    const isCoarse = measure.rows.length * measure.columns.length < cells;
    panel.numbers.title = isCoarse ? `computed at ${measure.rows.length} x ${measure.columns.length} of the ${measure.map[0]} x ${measure.map[1]} positions` : "";
    panel.frame.setAttribute("aria-label", `${data.heads[panel.head]}, ${nameOf(measure)}: ${panel.numbers.innerText}`);
  }
  explain(chosen);
}

function paintRow(canvas, measure, { codes }) {
  const [height, width] = measure.hw;
  canvas.height = height;
  canvas.width = width;
  canvas.style.height = `${100 * measure.extent[0]}%`;
  canvas.style.width = `${100 * measure.extent[1]}%`;
  const isSigned = measure.kind === "signed", colours = scaleColours(isSigned);
  const pixels = new ImageData(width, height), out = new Uint32Array(pixels.data.buffer);
  for (let j = 0; j < codes.length; j++) out[j] = colours[isSigned ? codes[j] + 128 : codes[j]];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** 256 colours between the stops of the scale; of the diverging one, 128 is a weight of 0. */
function scaleColours(isSigned) {
  const stops = isSigned ? data.scales.diverging : data.scales.sequential;
  return Uint32Array.from({ length: 256 }, (_, code) => {
    const at = (isSigned ? Math.max(0, (code - 1) / 254) : code / 255) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at)), t = at - low;
    const mix = (a, b) => a + t * (b - a);
    const [[alpha, from], [nextAlpha, to]] = [stops[low], stops[low + 1]];
    return abgr(from.map((value, c) => Math.round(mix(value, to[c]))), Math.round(255 * mix(alpha, nextAlpha)));
  });
}

function explain(chosen) {
  const kinds = new Set(chosen.map((measure) => measure.kind));
  const bars = [];
  if (kinds.has("softmax") || kinds.has("gradient")) bars.push(scaleBar(false, ["0", "¼ of the row's largest", "largest"]));
  if (kinds.has("signed")) bars.push(scaleBar(true, ["− largest", "0", "+ largest"]));
  $("look-keys").replaceChildren(...bars);
  const meanings = {
    softmax: "Attention: the weights of the head's own attention, which sum to 1; all hops: the product of the hops. They say where a head looks, not how much it uses what it sees.",
    signed: "Signed attention (dot product, concatenation): weights of any sign, which need not sum to 1; the numbers use absolute values.",
    gradient: "Effective receptive field: the absolute gradient of the pixel's highest logit with respect to the features, mean over channels. It is not attention; it is all there is for heads that do not attend.",
  };
  const coarse = chosen.map((measure, head) => [measure, data.heads[head]]).filter(([measure]) => measure.rows.length * measure.columns.length < measure.map[0] * measure.map[1])
    .map(([measure, name]) => `${name} at ${measure.rows.length} × ${measure.columns.length} of ${measure.map[0]} × ${measure.map[1]}`);
  const grids = coarse.length ? ` To bound time and size, rows were computed for a grid of pixels: ${coarse.join(", ")}; the ring marks the nearest one.` : "";
  $("look-meaning").textContent = `${Object.keys(meanings).filter((kind) => kinds.has(kind)).map((kind) => meanings[kind]).join(" ")}${grids}`;
}

function scaleBar(isSigned, texts) {
  const stops = isSigned ? data.scales.diverging : data.scales.sequential;
  const bar = make("span", { className: "bar-of-scale" });
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.map(([alpha, rgb]) => `rgb(${rgb.join(" ")} / ${alpha})`).join(", ")})`;
  return make("div", { className: "look-key" }, bar, make("span", { className: "ends" }, ...texts.map((textContent) => make("span", { textContent }))));
}
