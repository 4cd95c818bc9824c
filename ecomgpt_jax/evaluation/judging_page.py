"""The page on which one annotator judges pairs of answers: one self-contained HTML file with keyboard control.

Texts of users and models are JSON in a data block and are shown as text; the page's policy blocks every other script
and every external address.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #d5d9e0; --paper: #fff; --back: #f6f7f9;
  --accent: #b4541a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #303846; --paper: #171c25;
  --back: #10141b; --accent: #f0a063; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1.2rem; background: var(--back); color: var(--ink);
  line-height: 1.5; font-family: system-ui, -apple-system, "Segoe UI", "PingFang SC", "Noto Sans CJK SC", sans-serif; }
h1 { font-size: 1.2rem; margin: 0; } h2 { font-size: .85rem; color: var(--soft); margin: 0 0 .3rem; }
header, footer { display: flex; gap: 1rem; align-items: center; flex-wrap: wrap; margin-bottom: .6rem; }
progress { flex: 1; min-width: 8rem; accent-color: var(--accent); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 45vh; overflow-y: auto; }
.card { background: var(--paper); border: 2px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin: 1rem 0; }
.chosen { border-color: var(--accent); }
button { font: inherit; padding: .45rem .9rem; border: 1px solid var(--line); border-radius: 6px; cursor: pointer;
  background: var(--paper); color: inherit; } button.chosen { border-width: 2px; font-weight: 600; }
.soft { color: var(--soft); font-size: .88rem; }
"""

_BODY = """
<header><h1>Which answer is better?</h1><progress id="bar" value="0"></progress><span id="count"></span></header>
<p class="soft">Keys: 1 or &#8592; left is better, 2 or &#8594; right is better, 0 or &#8595; a tie; Backspace or
&#8593; back, N next, S save. Your judgements stay in this browser until you save them to a file.</p>
<p id="note" role="status" class="soft"></p>
<main id="item">
<div class="card"><h2 id="task"></h2><div class="text" id="prompt"></div></div>
<div class="pair">
<div class="card" id="left-card"><h2>Left</h2><div class="text" id="left"></div></div>
<div class="card" id="right-card"><h2>Right</h2><div class="text" id="right"></div></div>
</div>
</main>
<footer>
<button id="choose-left">1 Left</button><button id="choose-tie">0 Tie</button><button id="choose-right">2 Right</button>
<button id="back">Back</button><button id="next">Next</button><button id="save">Save</button>
</footer>
"""

_SCRIPT = """
"use strict";
const sheet = JSON.parse(document.getElementById("data").textContent);
const choices = ["left", "tie", "right"];
const place = "preference:" + sheet.study + ":" + sheet.annotator;
const at = (id) => document.getElementById(id);
const ids = new Set(sheet.items.map((item) => item.id));
let state = { position: 0, judgements: {} };

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(place));
    if (!kept) return;
    for (const [id, choice] of Object.entries(kept.judgements))
      if (ids.has(id) && choices.includes(choice)) state.judgements[id] = choice;
    if (Number.isInteger(kept.position)) state.position = Math.max(0, kept.position);
  } catch (error) {
    at("note").textContent = "Nothing could be read from this browser's storage.";
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch (error) {
    at("note").textContent = "This browser keeps nothing: save to a file before you close the page.";
  }
}

function show() {
  const total = sheet.items.length, judged = Object.keys(state.judgements).length;
  state.position = Math.min(Math.max(0, state.position), total - 1);
  const item = sheet.items[state.position], choice = state.judgements[item.id];
  for (const part of ["task", "prompt", "left", "right"]) {
    at(part).textContent = item[part] === "" ? "(empty)" : item[part];
    at(part).scrollTop = 0;
  }
  for (const name of choices) {
    at("choose-" + name).classList.toggle("chosen", choice === name);
    if (name !== "tie") at(name + "-card").classList.toggle("chosen", choice === name);
  }
  at("bar").max = total;
  at("bar").value = judged;
  at("count").textContent = "Item " + (state.position + 1) + " of " + total + ", " + judged + " judged";
}

function move(step) {
  state.position += step;
  show();
  keep();
}

function choose(name) {
  state.judgements[sheet.items[state.position].id] = name;
  at("note").textContent = "";
  move(1);
  if (Object.keys(state.judgements).length === sheet.items.length)
    at("note").textContent = "All items are judged. Press S to save the file, and hand it in.";
}

function save() {
  const content = { study: sheet.study, annotator: sheet.annotator, judgements: state.judgements };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = "judgements-" + sheet.annotator + ".json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  at("note").textContent = "Saved as " + link.download + ".";
}

const actions = {
  1: () => choose("left"), ArrowLeft: () => choose("left"), 2: () => choose("right"),
  ArrowRight: () => choose("right"), 0: () => choose("tie"), ArrowDown: () => choose("tie"),
  Backspace: () => move(-1), ArrowUp: () => move(-1), n: () => move(1), s: save,
};
document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !Object.hasOwn(actions, key)) return;
  event.preventDefault();
  actions[key]();
});
for (const name of choices) at("choose-" + name).addEventListener("click", () => choose(name));
at("back").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("save").addEventListener("click", save);
restore();
show();
keep();
"""


def render_sheet(sheet: Mapping[str, Any]) -> str:
    """Returns the page of one annotator.

    "Save" downloads {"study", "annotator", "judgements": {id: "left" | "right" | "tie"}} without the items that are not
    judged.

    Args:
      sheet: {"study", "annotator", "items": [{"id", "task", "prompt", "left", "right"}, ...]}, at least one item.
    """
    data = json.dumps(sheet, ensure_ascii=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Which answer is better?</title>\n<style>{_STYLE}</style>\n</head>\n<body>{_BODY}"
        f'<script type="application/json" id="data">{data}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n'
    )
