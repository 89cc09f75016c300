// The picture with its masks: numbered, lit by pointing at them, switched, before and after, zoom. Runs inside a gr.HTML
// whose value is what dashboard/viewer.py makes; everything of it is set as text or attribute, never parsed as HTML.
const SVG = "http://www.w3.org/2000/svg";
const STEP = 1.5, MOST = 16, KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP };
const make = (name, attributes = {}, ...children) => {
  const drawn = /^(svg|image|g|path|rect|line|circle|text|defs|clipPath)$/.test(name);
  const node = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
};

const hidden = new Set(), first = props.value;
let data = null, lit = null, chosen = null, view = null, tool = "look", drag = null, token = null;

const clip = make("rect", { x: 0, y: 0, width: 0, height: 0 });
const divider = make("line", { class: "divider" });
const picture = make("image", { x: 0, y: 0 });
const shapes = make("g", { "clip-path": "url(#viewer-after)" });
const labels = make("g", { "clip-path": "url(#viewer-after)", class: "labels" });
const rubber = make("rect", { class: "rubber", width: 0, height: 0 });
const svg = make("svg", { tabindex: 0, role: "application", "aria-roledescription": "picture" },
  make("defs", {}, make("clipPath", { id: "viewer-after" }, clip)), picture, shapes, divider, labels, rubber);
const verdict = make("p", { class: "verdict", role: "status" });
const empty = make("p", { class: "empty" });
const range = (name, value, title, onMove) => make("label", { class: "range" }, make("span", {}, title),
  make("input", { type: "range", min: 0, max: 100, value, "data-name": name, oninput: onMove }));
const opacity = range("opacity", 45, "Opacity", () => refresh());
const split = range("split", 0, "Before | after", () => refresh());
const zoomButton = (title, sign, act) => make("button", { type: "button", "aria-label": title, title, onclick: act }, sign);
const zooms = make("div", { class: "zooms", role: "group", "aria-label": "Zoom" },
  zoomButton("Zoom in", "+", () => zoom(STEP)), zoomButton("Zoom out", "−", () => zoom(1 / STEP)),
  zoomButton("Whole picture", "⤢", () => whole()));
const tools = make("div", { class: "tools" });
const does = make("p", { class: "does" });
const legend = make("ul", { class: "legend", "aria-label": "Masks" });
const bar = make("div", { class: "bar-of-viewer" }, opacity, split, zooms);
element.append(make("div", { class: "stage" }, svg, verdict, empty), bar, tools, does, legend);

const at = (event) => {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [Math.min(data.width, Math.max(0, point.x)), Math.min(data.height, Math.max(0, point.y))];
};
const percent = (control) => control.querySelector("input").valueAsNumber / 100;
const maskOf = (event) => event.target.closest?.("[data-target]")?.dataset.target ?? null;

// --- drawing --------------------------------------------------------------------------------------------------------

function draw() {
  const before = token;
  data = props.value ? JSON.parse(props.value) : null;
  token = data && data.token;
  const has = Boolean(data && data.image);
  for (const part of [svg, bar, legend]) part.toggleAttribute("hidden", !has);
  verdict.hidden = !(data && data.verdict);
  verdict.textContent = (data && data.verdict) || "";
  empty.hidden = has;
  empty.textContent = (data && data.hint) || "";
  shapes.replaceChildren();
  labels.replaceChildren();
  legend.replaceChildren();
  if (!has) return drawTools();
  for (const part of [opacity, split]) part.hidden = data.masks.length === 0;
  if (picture.getAttribute("href") !== data.image) {
    // Where the columns are below each other, what was chosen far below is brought to where one looks.
    if (props.value !== first && innerWidth < 900 && token === null) element.scrollIntoView({ block: "start", behavior: "smooth" });
    picture.setAttribute("href", data.image);
    for (const part of [picture, clip]) {
      part.setAttribute("width", data.width);
      part.setAttribute("height", data.height);
    }
    svg.style.aspectRatio = `${data.width} / ${data.height}`;
    view = null;
  }
  if (before !== token) {
    hidden.clear();
    lit = chosen = null;
    split.querySelector("input").value = 0;
  }
  if (!data.masks.some((mask) => mask.number === chosen)) chosen = null;
  svg.setAttribute("aria-label", data.description);
  for (const mask of data.masks) {
    const mine = { "data-target": mask.number };
    shapes.append(make("g", mine, make("path", { d: mask.path, class: "under" }), make("path", { d: mask.path, class: "over" }),
      make("path", { d: mask.path, class: "fill", fill: mask.colour })));
    if (mask.at) {
      labels.append(make("g", mine, make("circle", { fill: mask.colour }),
        make("text", { fill: mask.ink, "text-anchor": "middle", "dominant-baseline": "central" }, String(mask.number))));
    }
    legend.append(row(mask));
  }
  if (view === null) whole();
  drawTools();
  refresh();
}

function row(mask) {
  const mine = { "data-target": mask.number };
  const box = make("input", {
    type: "checkbox", "aria-label": `Show mask ${mask.number}`, checked: !hidden.has(mask.number),
    onchange: (event) => { hidden[event.target.checked ? "delete" : "add"](mask.number); refresh(); },
  });
  const swatch = make("span", { class: "swatch" }, String(mask.number));
  swatch.style.background = mask.colour;
  swatch.style.color = mask.ink;
  const facts = mask.facts.map(([before, value, after]) => (
    make("span", { class: "fact" }, `${before} `, make("b", {}, value), ` ${after}`)));
  const name = make("button", {
    type: "button", class: "pick", "aria-pressed": "false", "aria-label": `Mask ${mask.number}: light and choose it`,
    onclick: () => { chosen = chosen === mask.number ? null : mask.number; drawTools(); refresh(); },
  }, swatch, ...facts);
  return make("li", mine, box, name);
}

function drawTools() {
  const offered = (data && data.image && data.tools) || [];
  if (!offered.some((each) => each.name === tool)) tool = "look";
  tools.hidden = does.hidden = offered.length === 0;
  const group = make("div", { role: "group", "aria-label": "What a click on the picture does" });
  for (const each of offered) {
    group.append(make("button", {
      type: "button", "data-tool": each.name, "aria-pressed": String(each.name === tool),
      onclick: () => { tool = each.name; drawTools(); refresh(); },
    }, each.title));
  }
  if (data && data.undo) group.append(make("button", { type: "button", onclick: () => trigger("input", { tool: "undo", token }) }, "Undo"));
  tools.replaceChildren(group);
  const how = offered.find((each) => each.name === tool);
  does.textContent = how ? (chosen === null ? how.asks : how.corrects.replace("#", chosen)) : "";
  svg.dataset.tool = tool;
}

function refresh() {
  if (!data || !data.image || !view) return;
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  const edge = view.x + percent(split) * view.width;
  clip.setAttribute("x", edge);
  clip.setAttribute("width", Math.max(0, data.width - edge));
  for (const [name, value] of [["x1", edge], ["x2", edge], ["y1", view.y], ["y2", view.y + view.height]]) divider.setAttribute(name, value);
  divider.style.display = percent(split) > 0 ? "" : "none";
  const bright = lit ?? chosen;
  for (const node of element.querySelectorAll(".stage [data-target]")) {
    const number = Number(node.dataset.target);
    node.style.display = hidden.has(number) ? "none" : "";
    node.classList.toggle("lit", number === bright);
    node.classList.toggle("faint", bright !== null && number !== bright);
    const fill = node.querySelector(".fill");
    if (fill) fill.style.fillOpacity = number === bright ? Math.min(1, percent(opacity) + 0.2) : percent(opacity);
  }
  for (const node of legend.children) {
    const number = Number(node.dataset.target);
    node.classList.toggle("lit", number === bright);
    node.querySelector(".pick").setAttribute("aria-pressed", String(number === chosen));
  }
  for (const badge of document.querySelectorAll("#ground-talk .shown .seg[data-target]")) {
    badge.classList.toggle("lit", Number(badge.dataset.target) === bright);
  }
  const scale = Math.min(svg.clientWidth / view.width, svg.clientHeight / view.height) || 1;
  const radius = 11 / scale;
  const byNumber = new Map(data.masks.map((mask) => [mask.number, mask]));
  for (const label of labels.children) {
    const [x, y] = byNumber.get(Number(label.dataset.target)).at;
    const place = [Math.min(data.width - radius, Math.max(radius, x)), Math.min(data.height - radius, Math.max(radius, y))];
    label.setAttribute("transform", `translate(${place[0]} ${place[1]})`);
    label.querySelector("circle").setAttribute("r", radius);
    label.querySelector("text").setAttribute("font-size", 13 / scale);
  }
}

// --- zoom and pan ---------------------------------------------------------------------------------------------------

function look(x, y, width) {
  const wide = Math.min(data.width, Math.max(data.width / MOST, width)), high = wide * data.height / data.width;
  view = {
    x: Math.min(data.width - wide, Math.max(0, x)), y: Math.min(data.height - high, Math.max(0, y)), width: wide, height: high,
  };
  refresh();
}
function whole() { look(0, 0, data.width); }
function zoom(factor, centre = [view.x + view.width / 2, view.y + view.height / 2]) {
  const wide = Math.min(data.width, Math.max(data.width / MOST, view.width / factor)), by = wide / view.width;
  look(centre[0] - (centre[0] - view.x) * by, centre[1] - (centre[1] - view.y) * by, wide);
}

svg.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return;  // a plain wheel scrolls the page; pinching a touchpad arrives with ctrl
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, at(event));
}, { passive: false });
svg.addEventListener("dblclick", (event) => tool === "look" && zoom(2, at(event)));
svg.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (KEYS[event.key]) zoom(KEYS[event.key]);
  else if (event.key === "0") whole();
  else if (moves && view.width < data.width) look(view.x + moves[0] * view.width / 8, view.y + moves[1] * view.height / 8, view.width);
  else return;
  event.preventDefault();
});

// --- pointing -------------------------------------------------------------------------------------------------------

svg.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  drag = { from: at(event), start: [event.clientX, event.clientY], view: { ...view }, target: maskOf(event), moved: false };
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (!drag) {
    const over = maskOf(event);
    if (String(lit) !== String(over)) { lit = over === null ? null : Number(over); refresh(); }
    return;
  }
  drag.moved ||= Math.hypot(event.clientX - drag.start[0], event.clientY - drag.start[1]) > 4;
  if (!drag.moved) return;
  if (tool === "look") {
    const scale = Math.min(svg.clientWidth / view.width, svg.clientHeight / view.height);
    look(drag.view.x - (event.clientX - drag.start[0]) / scale, drag.view.y - (event.clientY - drag.start[1]) / scale, view.width);
  } else if (tool === "box") {
    const [x, y] = at(event), [a, b] = drag.from;
    for (const [name, value] of [["x", Math.min(a, x)], ["y", Math.min(b, y)], ["width", Math.abs(a - x)], ["height", Math.abs(b - y)]]) rubber.setAttribute(name, value);
  }
});
svg.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { from, moved, target } = drag, to = at(event);
  drag = null;
  rubber.setAttribute("width", 0);
  rubber.setAttribute("height", 0);
  if (tool === "look") {
    if (!moved) { chosen = target === null || chosen === Number(target) ? null : Number(target); drawTools(); refresh(); }
  } else if (tool !== "box" || moved) {
    const share = ([x, y]) => [x / data.width, y / data.height];
    trigger("input", { tool, target: chosen, token, from: share(from), to: share(to) });
  }
});
svg.addEventListener("pointercancel", () => { drag = null; });
svg.addEventListener("pointerleave", () => { if (!drag && lit !== null) { lit = null; refresh(); } });
for (const [name, reach] of [["pointerover", maskOf], ["pointerout", () => null], ["focusin", maskOf], ["focusout", () => null]]) {
  legend.addEventListener(name, (event) => { const over = reach(event); lit = over === null ? null : Number(over); refresh(); });
}
document.addEventListener("pointerover", (event) => {
  if (!data || !event.target.closest?.("#ground-talk .shown")) return;
  const over = maskOf(event);
  if (String(lit) !== String(over)) { lit = over === null ? null : Number(over); refresh(); }
});

new ResizeObserver(() => refresh()).observe(svg);
watch("value", draw);
draw();
