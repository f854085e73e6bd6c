"use strict";
const SVG = "http://www.w3.org/2000/svg";

function say(text) {
  document.getElementById("said").textContent = text;
}

/* An element with attributes and children; texts become text nodes, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/* Sorting: the header of each column becomes a button. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.classList.contains("unsorted")) return;
    const button = make("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => sort(table, heads, column));
    head.replaceChildren(button);
  });
}

function sort(table, heads, column) {
  const head = heads[column];
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const other = first === "descending" ? "ascending" : "descending";
  const direction = head.getAttribute("aria-sort") === first ? other : first;
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  say(`Sorted by ${head.textContent}, ${direction}`);
}

/* What a cell is sorted by; null for a missing number, which comes last in either direction. */
function key(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.classList.contains("number") ? null : cell.textContent;
}

/* Filtering: words that are all there; commas separate alternatives. */
function matcher(text) {
  const words = (part) => part.split(/\s+/).filter(Boolean);
  const alternatives = text.toLowerCase().split(",").map(words).filter((some) => some.length);
  return (target) => {
    const lower = target.toLowerCase();
    return !alternatives.length || alternatives.some((some) => some.every((w) => lower.includes(w)));
  };
}

function connectFilter(input, items, nameOf, what) {
  input.addEventListener("input", () => {
    const matches = matcher(input.value);
    const all = items();
    all.forEach((item) => { item.hidden = !matches(nameOf(item)); });
    const text = `${all.filter((item) => !item.hidden).length} of ${all.length} ${what} shown`;
    document.getElementById(input.getAttribute("aria-describedby")).textContent = text;
  });
}

/* Curves: lines over steps; scale is the largest value on the vertical axis. */
function chart(lines, steps, scale, width, describe, label) {
  const [left, right, top, bottom] = [30, 8, 8, 16];
  const height = 92;
  const last = Math.max(steps[steps.length - 1], 1);
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (value) => height - bottom - (value / scale) * (height - top - bottom);
  const svg = make("svg:svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": describe,
  });
  for (const value of [0, scale / 2, scale]) {
    svg.append(make("svg:line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(make("svg:text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, label(value)));
  }
  svg.append(make("svg:text", { x: left, y: height - 4 }, "0"));
  svg.append(make("svg:text", { x: width - right, y: height - 4, "text-anchor": "end" }, `step ${last}`));
  for (const [name, values] of lines) {
    const points = steps.map((step, i) => [step, values[i]]).filter(([, v]) => v !== null);
    const path = points.map(([step, v]) => `${x(step).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    svg.append(make("svg:polyline", { class: `line ${name}`, points: path }));
    if (points.length < 12) {
      points.forEach(([step, v]) =>
        svg.append(make("svg:circle", { class: `dot ${name}`, cx: x(step), cy: y(v), r: 2.2 })));
    }
  }
  return svg;
}

const ends = (values) => {
  const there = values.filter((v) => v !== null);
  return there.length ? `from ${there[0]} to ${there[there.length - 1]}` : "not recorded";
};

function charts(curve) {
  const [steps, val, test, loss] = curve;
  if (steps.length < 2) return "one record";
  const box = make("div", { class: "charts" });
  const said = `Accuracy in percent over ${steps[steps.length - 1]} steps: validation ${ends(val)}, test ${ends(test)}`;
  box.append(chart([["val", val], ["test", test]], steps, 100, 180, said, (v) => String(v)));
  const losses = loss.filter((v) => v !== null && v >= 0);
  if (losses.length) {
    const top = Math.max(...losses) || 1;
    const shown = loss.map((v) => (v === null || v < 0 ? null : v));
    box.append(chart([["loss", shown]], steps, top, 120, `Loss ${ends(loss)}`, (v) => v.toPrecision(2)));
  }
  return box;
}

/* Names and values of what differs between the runs of a group. */
function hparams(names, values) {
  const parts = names.map((name, i) => [name, values[i]]).filter(([, value]) => value !== null);
  if (!parts.length) return null;
  const spans = parts.map(([name, value]) => make("span", {}, `${name} ${value}`));
  return make("span", {}, ...spans.flatMap((span, i) => (i ? [", ", span] : [span])));
}

/* A group's runs, read and drawn when it is first opened. */
function drawGroup(details) {
  const group = JSON.parse(document.getElementById(`group-${details.dataset.group}`).textContent);
  const columns = [
    ["Run", (run) => make("a", { href: run.href, class: "run" }, run.name)],
    ["Test domain", (run) => run.env],
    ["Trial", (run) => run.trial, true],
    ["Seed", (run) => run.seed, true],
    ["Hparams", (run) => hparams(group.hparams, run.hparams)],
    ["Made from", (run) => run.from],
    ["Validation %", (run) => run.val, true, 1],
    ["Test %", (run) => run.test, true, 1],
    ["Seconds", (run) => run.seconds, true, 1],
    ["State", (run) => (run.chosen ? `${run.state}, selected` : run.state)],
    ["Curves", (run) => charts(run.curve)],
  ];
  const missing = (value) => value === null || value === "";
  const used = columns.filter(([, get]) => !group.runs.every((run) => missing(get(run))));
  const heads = used.map(([name, , isNumber]) => make("th", {
    scope: "col", class: name === "Curves" ? "unsorted" : isNumber ? "number" : "",
  }, name));
  const body = make("tbody");
  for (const run of group.runs) {
    const row = make("tr", run.chosen ? { class: "chosen" } : {});
    used.forEach(([name, get, isNumber, digits], i) => {
      const value = get(run);
      const attributes = i ? { "data-label": name } : { scope: "row" };
      if (isNumber) attributes.class = "number";
      if (typeof value === "number") attributes["data-value"] = value;
      if (name === "Curves") attributes.class = "drawn";
      if (name === "Hparams") attributes.class = "hparams";
      const shown = digits === undefined || value === null ? value : value.toFixed(digits);
      row.append(make(i ? "td" : "th", attributes, missing(value) ? "" : shown));
    });
    body.append(row);
  }
  const caption = make("caption", { class: "unseen" }, group.title);
  const table = make("table", { class: "sortable" }, caption, make("thead", {}, make("tr", {}, ...heads)), body);
  makeSortable(table);
  details.append(make("div", { class: "wide" }, table));
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("details.group").forEach((details) => {
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("table")) drawGroup(details);
  });
});
document.querySelectorAll(".needs-script").forEach((element) => { element.hidden = false; });

const boardFilter = document.getElementById("filter-board");
if (boardFilter) {
  const rows = () => [...document.querySelectorAll("#leaderboard tbody tr")];
  connectFilter(boardFilter, rows, (row) => row.cells[0].textContent, "rows");
  const toggle = document.getElementById("show-published");
  toggle?.addEventListener("change", () => {
    document.querySelectorAll(".published").forEach((each) => { each.hidden = !toggle.checked; });
  });
}
const runFilter = document.getElementById("filter-runs");
if (runFilter) {
  const groups = () => [...document.querySelectorAll("details.group")];
  connectFilter(runFilter, groups, (group) => group.querySelector("summary").textContent, "groups");
  document.getElementById("open-all").addEventListener("click", () => {
    const shown = groups().filter((group) => !group.hidden);
    const open = shown.some((group) => !group.open);
    shown.forEach((group) => { group.open = open; });
  });
}
