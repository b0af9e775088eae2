"use strict";
// Functions that all scripts share, and the switch between light and dark. Nothing is ever fetched.
const data = JSON.parse(document.getElementById("payload").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function swatch(rgb) {
  const square = make("span", { className: "swatch" });
  square.style.background = `rgb(${rgb.join(" ")})`;
  return square;
}

function percent(fraction) { return fraction === null ? "–" : `${(100 * fraction).toFixed(1)} %`; }

(function setUpTheme() {
  const root = document.documentElement;
  const linked = new URLSearchParams(location.hash.slice(1)).get("theme");
  let stored = null;
  try { stored = localStorage.getItem("segnl-theme"); } catch { /* a file may have no storage */ }
  if (linked || stored) root.dataset.theme = linked || stored;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("segnl-theme", root.dataset.theme); } catch { /* as above */ }
  });
})();
