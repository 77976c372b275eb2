// The one script of the pages: keys, the clock of a question, no second click, and marking words. Every page but word marking works without it.
"use strict";

const SETTLE_MS = 350;  // the second half of a double click must not answer the next question

const writes = (node) => node && (node.tagName === "TEXTAREA" || node.tagName === "SELECT" || (node.tagName === "INPUT" && node.type !== "checkbox"));

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey) return;
  const inText = writes(document.activeElement);
  if (event.key === "Escape" && inText) { document.activeElement.blur(); return; }
  if (event.key === "Enter") {
    const send = document.querySelector("[data-anywhere]");
    if (send && event.ctrlKey) { event.preventDefault(); send.click(); }
    return;
  }
  if (event.ctrlKey || inText || event.repeat) return;
  if (event.key === "r") {
    const why = document.querySelector("details.why");
    if (why) { event.preventDefault(); why.open = true; why.querySelector("input, textarea").focus(); }
    return;
  }
  for (const node of document.querySelectorAll("[data-key]")) {
    if (node.dataset.key === event.key) { event.preventDefault(); node.click(); return; }
  }
});

for (const form of document.querySelectorAll("form")) {
  const began = performance.now();
  let sent = false;
  form.addEventListener("submit", (event) => {
    const early = "clock" in form.dataset && performance.now() - began < SETTLE_MS;
    if (sent || early) { event.preventDefault(); return; }
    sent = true;
    if (form.elements.seconds) form.elements.seconds.value = ((performance.now() - began) / 1000).toFixed(1);
  });
  window.addEventListener("pageshow", () => { sent = false; });
}

const enter = document.getElementById("enter");
if (enter && location.hash.startsWith("#token=")) {
  enter.elements.token.value = decodeURIComponent(location.hash.slice(7));
  history.replaceState(null, "", location.pathname);
  enter.requestSubmit();
}

const box = document.getElementById("words");
if (box) {
  const area = document.getElementById("spans");
  const words = [...box.querySelectorAll(".word")];
  let from = 0, to = 0;
  let spans = [];

  const read = () => {
    spans = [];
    for (const line of area.value.split("\n")) {
      const found = /^\s*(\d+)(?:-(\d+))?\s+(.+?)\s*$/.exec(line);
      if (found) spans.push([Number(found[1]), Number(found[2] || found[1]), found[3]]);
    }
  };
  const show = () => {
    words.forEach((word, at) => {
      const span = spans.find(([first, last]) => first <= at + 1 && at + 1 <= last);
      if (span) word.dataset.as = span[2]; else delete word.dataset.as;
      word.classList.toggle("ends", Boolean(span) && span[1] === at + 1);
      word.classList.toggle("here", at === to);
      word.classList.toggle("chosen", Math.min(from, to) <= at && at <= Math.max(from, to));
    });
  };
  const give = (label) => {
    const first = Math.min(from, to) + 1, last = Math.max(from, to) + 1;
    spans = spans.filter(([a, b]) => b < first || a > last);
    if (label) spans.push([first, last, label]);
    spans.sort((a, b) => a[0] - b[0]);
    area.value = spans.map(([a, b, name]) => `${a}-${b} ${name}`).join("\n");
    from = to;
    show();
  };
  const go = (at, extend) => {
    to = Math.max(0, Math.min(words.length - 1, at));
    if (!extend) from = to;
    show();
  };
  let tapped = false;  // a tap chooses a word, a second one the words up to there
  words.forEach((word, at) => word.addEventListener("click", (event) => {
    go(at, event.shiftKey || tapped);
    tapped = !tapped;
    box.focus();
  }));
  document.getElementById("labels").addEventListener("click", (event) => {
    const button = event.target.closest("[data-label]");
    if (button) { tapped = false; give(button.dataset.label); box.focus(); }
  });
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); tapped = false; go(to + step, event.shiftKey); return; }
    if (event.key === "Backspace" || event.key === "Delete") { event.preventDefault(); give(""); return; }
    const button = document.querySelector(`[data-digit="${CSS.escape(event.key)}"]`);
    if (button && /^\d$/.test(event.key)) { event.preventDefault(); event.stopPropagation(); give(button.dataset.label); }
  });
  area.addEventListener("input", () => { read(); show(); });
  read();
  show();
  box.focus();
}
