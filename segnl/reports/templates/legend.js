// The legend: a button for each class, which hides it in every panel. One stop of the Tab key; arrows move on from there.
const MANY_CLASSES = 40;                 // above it only the classes of the current image are listed

function buildLegend(hidden, onChange) {
  const legend = $("legend");
  legend.replaceChildren(...data.classes.map(({ name, rgb }, k) => {
    const button = make("button", { type: "button", tabIndex: k ? -1 : 0 }, swatch(rgb), name);
    button.dataset.k = k;
    button.addEventListener("click", (event) => {
      if (event.shiftKey) {
        hidden.clear();
        data.classes.forEach((_, j) => { if (j !== k) hidden.add(j); });
      } else if (!hidden.delete(k)) hidden.add(k);
      onChange();
    });
    return button;
  }));
  legend.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.shiftKey) return;
    const buttons = [...legend.children].filter((button) => !button.hidden);
    const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
    focusInLegend(next);
    event.preventDefault();
  });
  $("all").addEventListener("click", () => { hidden.clear(); onChange(); });
}

function focusInLegend(button = [...$("legend").children].find((other) => !other.hidden)) {
  for (const other of $("legend").children) other.tabIndex = other === button ? 0 : -1;
  button.focus();
}

/** seen: the ids that occur in the panels. */
function showLegend(hidden, seen) {
  for (const button of $("legend").children) {
    const k = Number(button.dataset.k);
    button.setAttribute("aria-pressed", String(!hidden.has(k)));
    button.classList.toggle("is-absent", !seen.has(k));
    button.title = seen.has(k) ? "" : "in none of these panels";
    button.hidden = data.classes.length > MANY_CLASSES && !seen.has(k) && !hidden.has(k);
  }
  const first = [...$("legend").children].find((button) => !button.hidden);
  if (first && ![...$("legend").children].some((button) => !button.hidden && button.tabIndex === 0)) first.tabIndex = 0;
}
