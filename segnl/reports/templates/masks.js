// Masks: zlib streams of class indices, 255 ignored. The script paints them, because it may not read an image's pixels.
const IGNORE = 255;
const MAX_DECODED = 12;                  // images whose masks stay in memory, a few hundred kB per head
const decoded = new Map();

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Image i of the payload: { columns: [null, label, ...masks], ambiguous or null }, each ids row by row. */
async function idsOf(i) {
  if (!decoded.has(i)) {
    const image = data.images[i];
    const packed = [image.label, ...image.masks, ...(image.ambiguous ? [image.ambiguous] : [])];
    decoded.set(i, Promise.all(packed.map(unpack)));
    if (decoded.size > MAX_DECODED) decoded.delete(decoded.keys().next().value);
  }
  const maps = await decoded.get(i);
  const count = 1 + data.heads.length;
  return { columns: [null, ...maps.slice(0, count)], ambiguous: maps[count] || null };
}

function abgr([r, g, b], alpha) { return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0; }   // as little-endian pixels lie

/** Paints ids on the canvas, nothing if ids is null. view: mask, overlay or error. hidden: a set of classes. */
function paint(canvas, ids, label, view, hidden, [height, width]) {
  canvas.width = width;
  canvas.height = height;
  if (!ids) return;
  const pixels = new ImageData(width, height);
  const out = new Uint32Array(pixels.data.buffer);
  if (view === "error") {
    const wrong = abgr(data.wrong, 255), ignored = abgr(data.ignored, 255);
    for (let i = 0; i < ids.length; i++) {
      if (label[i] === IGNORE) out[i] = ignored;
      else if (ids[i] !== label[i] && !(hidden.has(label[i]) && hidden.has(ids[i]))) out[i] = wrong;
    }
  } else {
    const colours = new Uint32Array(256);
    data.classes.forEach(({ rgb }, k) => { colours[k] = abgr(rgb, view === "overlay" ? 150 : 255); });
    colours[IGNORE] = abgr([0, 0, 0], view === "overlay" ? 90 : 255);
    for (const k of hidden) colours[k] = 0;
    for (let i = 0; i < ids.length; i++) out[i] = colours[ids[i]];
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A white line with a black edge around each region of ids that is not 0; null for none. */
function paintOutline(canvas, ids, [height, width]) {
  canvas.width = width;
  canvas.height = height;
  if (!ids) return;
  const pixels = new ImageData(width, height);
  const out = new Uint32Array(pixels.data.buffer);
  const put = (y, x, colour) => { if (y >= 0 && x >= 0 && y < height && x < width) out[y * width + x] = colour; };
  const edges = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = ids[y * width + x];
      if (!here) continue;
      const isEdge = [[0, 1], [0, -1], [1, 0], [-1, 0]].some(([dy, dx]) =>
        y + dy < 0 || x + dx < 0 || y + dy >= height || x + dx >= width || ids[(y + dy) * width + x + dx] !== here);
      if (isEdge) edges.push([y, x]);
    }
  }
  for (const [y, x] of edges) for (let dy = -2; dy <= 2; dy++) for (let dx = -2; dx <= 2; dx++) put(y + dy, x + dx, 0xff000000);
  for (const [y, x] of edges) for (let dy = -1; dy <= 0; dy++) for (let dx = -1; dx <= 0; dx++) put(y + dy, x + dx, 0xffffffff);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
