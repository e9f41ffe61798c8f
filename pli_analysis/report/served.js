"use strict";
// Reload a page that is served while a run trains when there is a newer version, and keep the reading position.

const POLL = 2000; // milliseconds
const KEPT = "pli-reading";
const own = document.querySelector('meta[name="version"]').content;

function keep() {
  const open = [...document.querySelectorAll("details[open]")].map((each) => each.closest("figure").id);
  sessionStorage.setItem(KEPT, JSON.stringify({ y: scrollY, open, theme: root.dataset.theme }));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  sessionStorage.removeItem(KEPT);
  if (!kept) return;
  if (kept.theme !== root.dataset.theme) theme(kept.theme === "dark");
  for (const id of kept.open) {
    const details = document.getElementById(id)?.querySelector("details");
    if (details) details.open = true;
  }
  scrollTo(0, kept.y);
}

async function poll() {
  try {
    const answer = await fetch("/version", { cache: "no-store" });
    if (answer.ok && (await answer.text()) !== own) {
      keep();
      location.reload();
      return;
    }
  } catch {
    // The server has ended; a later one at the same address continues.
  }
  setTimeout(poll, POLL);
}

history.scrollRestoration = "manual";
restore();
setTimeout(poll, POLL);
