// Zoom and pan, the same in all panels: they read the same CSS variables, in fractions of a panel's size.
const MAX_ZOOM = 16;

/** root: the element that gets the variables; onChange is called with the zoom after every change. */
function lockedZoom(root, onChange) {
  const at = { zoom: 1, x: 0, y: 0 };    // x, y: the position of the picture's corner, from 1 - zoom to 0
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function apply() {
    at.x = clamp(at.x, 1 - at.zoom, 0);
    at.y = clamp(at.y, 1 - at.zoom, 0);
    for (const key of ["zoom", "x", "y"]) root.style.setProperty(`--${key}`, at[key]);
    root.classList.toggle("is-zoomed", at.zoom > 1);
    onChange(at.zoom);
  }

  /** Zooms by a factor around the point (x, y), fractions of the panel. */
  function by(factor, x = 0.5, y = 0.5) {
    const zoom = clamp(at.zoom * factor, 1, MAX_ZOOM);
    at.x = x - (x - at.x) * zoom / at.zoom;
    at.y = y - (y - at.y) * zoom / at.zoom;
    at.zoom = zoom;
    apply();
  }

  function pan(dx, dy) {
    at.x += dx;
    at.y += dy;
    apply();
  }

  function reset() { by(1 / MAX_ZOOM); }

  /** Converts a point of a panel into a point of the image, both in fractions. */
  function toImage(x, y) { return [(x - at.x) / at.zoom, (y - at.y) / at.zoom]; }

  /** Drag, pinch, double click and Ctrl with the wheel on a panel's frame; mayPan: whether a drag pans. */
  function listen(frame, mayPan = () => true) {
    const pointers = new Map();
    const spot = (event) => {
      const box = frame.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    const middle = () => [0, 1].map((axis) => [...pointers.values()].reduce((sum, p) => sum + p[axis], 0) / pointers.size);
    const spread = () => { const [[ax, ay], [bx, by]] = pointers.values(); return Math.hypot(ax - bx, ay - by) || 1e-6; };
    frame.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, spot(event));
      if (at.zoom > 1) frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId) || !mayPan()) return;
      const [x, y] = middle(), apart = pointers.size === 2 ? spread() : 0;
      pointers.set(event.pointerId, spot(event));
      const [nextX, nextY] = middle();
      if (apart) by(spread() / apart, nextX, nextY);
      if (at.zoom > 1) pan(nextX - x, nextY - y);
    });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) frame.addEventListener(end, (event) => pointers.delete(event.pointerId));
    frame.addEventListener("dblclick", (event) => by(event.shiftKey ? 0.5 : 2, ...spot(event)));
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;      // otherwise the page could not be scrolled over a picture
      event.preventDefault();
      by(Math.exp(-event.deltaY / 200), ...spot(event));
    }, { passive: false });
  }

  return { by, pan, reset, toImage, listen, get zoom() { return at.zoom; } };
}
