// Input of the gallery: buttons, pointers, keys.
const STEP = 0.1;                        // fraction of a panel that a key pans by; half of it for the slider

const actions = {
  ArrowLeft: () => go(state.at - 1), ArrowRight: () => go(state.at + 1),
  "shift ArrowLeft": () => zoom.pan(STEP, 0), "shift ArrowRight": () => zoom.pan(-STEP, 0),
  "shift ArrowUp": () => zoom.pan(0, STEP), "shift ArrowDown": () => zoom.pan(0, -STEP),
  m: () => setView("mask"), o: () => setView("overlay"), e: () => setView(state.view === "error" ? state.before : "error"),
  a: () => data.pairs.length && toggleOutline(),
  "+": () => zoom.by(1.5), "=": () => zoom.by(1.5), "-": () => zoom.by(1 / 1.5), 0: () => zoom.reset(),
  ",": () => moveWipe(wipe.share - STEP / 2), ".": () => moveWipe(wipe.share + STEP / 2),
  x: () => choose(state.right, state.left),
  r: () => nextOrder(),
  c: () => focusInLegend(), v: () => $("all").click(),
  "?": () => $("help").showModal(),
};

function nextOrder() {
  const names = [...$("order").options].filter((option) => !option.disabled).map((option) => option.value);
  setOrder(names[(names.indexOf(state.order) + 1) % names.length]);
}

function listen() {
  const onClick = {
    previous: () => go(state.at - 1), next: () => go(state.at + 1), outline: toggleOutline, swap: actions.x,
    "zoom-in": () => zoom.by(1.5), "zoom-out": () => zoom.by(1 / 1.5), "zoom-reset": zoom.reset, keys: actions["?"],
  };
  for (const [id, act] of Object.entries(onClick)) $(id).addEventListener("click", act);
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => setView(button.dataset.view));
  $("order").addEventListener("change", (event) => setOrder(event.target.value));
  const [left, right] = wipe.choices;
  for (const choice of wipe.choices) choice.addEventListener("change", () => choose(Number(left.value), Number(right.value)));
  wipe.range.addEventListener("input", () => moveWipe(wipe.range.value / 100));
  listenToWipe();
  for (const frame of [wipe.frame, ...panels.map((p) => p.frame)]) {
    zoom.listen(frame, () => frame !== wipe.frame || !wipe.isMoving);
    frame.addEventListener("pointermove", (event) => probe(event, frame));
    frame.addEventListener("pointerdown", (event) => probe(event, frame));
    frame.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") unprobe(); });
  }
  addEventListener("keydown", onKey);
}

function listenToWipe() {                // a drag moves the slider; in a zoomed picture only one that begins at its line
  const share = (event) => {
    const box = wipe.frame.getBoundingClientRect();
    return (event.clientX - box.left) / box.width;
  };
  wipe.frame.addEventListener("pointerdown", (event) => {
    wipe.isMoving = event.isPrimary && event.button === 0 && (zoom.zoom === 1 || Math.abs(share(event) - wipe.share) < 0.03);
    if (!wipe.isMoving) return;
    wipe.frame.setPointerCapture(event.pointerId);
    moveWipe(share(event));
  });
  wipe.frame.addEventListener("pointermove", (event) => { if (wipe.isMoving) moveWipe(share(event)); });
  for (const end of ["pointerup", "pointercancel"]) wipe.frame.addEventListener(end, () => { wipe.isMoving = false; });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, textarea, dialog")) return;
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && event.target.closest("input, .scroll, #legend") && !event.shiftKey) return;      // they are moved by arrows
  const act = actions[isArrow && event.shiftKey ? `shift ${event.key}` : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
