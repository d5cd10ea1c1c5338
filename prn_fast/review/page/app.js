"use strict";
// Goes through what the server lists, worst first. Pictures, maps and masks have one size, that of the shown picture.

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas"), pen = canvas.getContext("2d");
const MASK = "#00d5ff", LONGEST_LIST = 400, MOST_STROKES = 10, MARKS = ["good", "defect", "unclear"];

let items = [], current = -1, tool = "", busy = false;
// What is shown of the current item: {picture, heat, outline}, and its mask, painted in one colour.
let shown = null, mask = document.createElement("canvas"), strokes = [];
// Place of the picture on the canvas, in its pixels; null fits it.
let view = null, drag = null, pointer = null;
// For tests and for the curious.
window.prn = { shown: -1, decisions: 0, maskPixels: () => maskPixels() };

// -- asking the server -------------------------------------------------------------------------------------------

async function ask(path, content) {
  const options = content === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  };
  const answer = await fetch(path, options), text = await answer.text();
  let found = null;
  try { found = JSON.parse(text); } catch { throw new Error(text || answer.statusText); }
  if (!answer.ok) throw new Error(found.error ?? text);
  return found;
}

function load(path) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = path;
  });
}

async function start() {
  const found = await ask("items");
  items = found.items.map((one, number) => ({ ...one, number }));
  document.title = byId("title").textContent = `prn-review · ${found.title}`;
  byId("output").textContent = found.output;
  byId("kind").value = found.kind;
  const first = items.find((one) => !one.mark && !one.reason) ?? items[0];
  await show(first.number);
}

// -- one image ---------------------------------------------------------------------------------------------------

async function show(number) {
  current = number;
  view = null; drag = null; shown = null; strokes = [];
  const item = items[number];
  byId("name").textContent = item.name;
  byId("place").textContent = `${number + 1} of ${items.length}`;
  byId("score").textContent = item.score === null ? "–" : item.score.toFixed(3);
  byId("verdict").textContent = item.verdict || "–";
  byId("nothing").hidden = true;
  if (item.mark === "defect") byId("kind").value = item.kind;
  tellDecided();
  list();
  const [picture, heat, outlines] = item.reason ? [null, null, []] : await Promise.all(
    [load(`picture/${number}`), load(`heat/${number}`), ask(`outlines/${number}`).catch(() => [])]);
  if (current !== number) return;
  if (!picture) {
    byId("nothing").hidden = false;
    byId("nothing").textContent = item.reason || "the picture cannot be read";
    draw();
    window.prn.shown = number;
    return;
  }
  shown = { picture, heat: item.has_map ? heat : null, outline: path(outlines) };
  mask.width = picture.naturalWidth; mask.height = picture.naturalHeight;
  await propose();
  if (current !== number) return;
  draw();
  window.prn.shown = number;
  const after = items.slice(number + 1).find(eligible);
  if (after) load(`picture/${after.number}`);
}

// Closed lines through the middles of pixels.
function path(outlines) {
  const found = new Path2D();
  for (const points of outlines) {
    found.moveTo(points[0] + 0.5, points[1] + 0.5);
    for (let i = 2; i < points.length; i += 2) found.lineTo(points[i] + 0.5, points[i + 1] + 0.5);
    found.closePath();
  }
  return found;
}

// The mask as it was painted before, or as the prediction proposes it.
async function propose() {
  const number = current, image = await load(`mask/${number}`);
  if (current !== number || !image) return;
  const brush = mask.getContext("2d", { willReadFrequently: true });
  brush.globalCompositeOperation = "source-over";
  brush.clearRect(0, 0, mask.width, mask.height);
  brush.drawImage(image, 0, 0, mask.width, mask.height);
  const pixels = brush.getImageData(0, 0, mask.width, mask.height), values = pixels.data;
  for (let i = 0; i < values.length; i += 4) {
    values[i + 3] = values[i] >= 128 ? 255 : 0;
    values[i] = 0; values[i + 1] = 213; values[i + 2] = 255;
  }
  brush.putImageData(pixels, 0, 0);
}

function maskPixels() {
  const values = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height).data;
  let count = 0;
  for (let i = 3; i < values.length; i += 4) if (values[i] >= 128) count++;
  return count;
}

// White on black, as a data URL.
function maskAsPNG() {
  const sent = document.createElement("canvas");
  sent.width = mask.width; sent.height = mask.height;
  const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height), values = pixels.data;
  for (let i = 0; i < values.length; i += 4) {
    values[i] = values[i + 1] = values[i + 2] = values[i + 3] >= 128 ? 255 : 0;
    values[i + 3] = 255;
  }
  sent.getContext("2d").putImageData(pixels, 0, 0);
  return sent.toDataURL("image/png");
}

// -- deciding ----------------------------------------------------------------------------------------------------

async function decide(mark) {
  if (busy || current < 0) return;
  const item = items[current], content = { number: String(current), mark, kind: byId("kind").value.trim() };
  if (mark === "defect") {
    if (!shown) return;
    if (!maskPixels()) {
      if (tool !== "box") choose("brush");
      tell("Mark where the defect is, with the brush or a box, and press D again", true);
      return;
    }
    content.mask = maskAsPNG();
  }
  busy = true;
  try {
    Object.assign(item, await ask("decide", content));
    window.prn.decisions++;
    tell(`${item.name}: ${item.mark === "defect" ? item.kind : item.mark}`);
    const next = [...items.slice(current + 1), ...items.slice(0, current)].find((one) => !one.mark && !one.reason);
    if (next) await show(next.number); else { tellDecided(); list(); tell("Everything is decided"); }
  } catch (error) { tell(error.message, true); } finally { busy = false; }
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    const found = await ask("undo", {});
    if (found.number === null) { tell(`${found.name}: taken back`); return; }
    Object.assign(items[found.number], { mark: found.mark, kind: found.kind });
    tell(`${items[found.number].name}: taken back`);
    await show(found.number);
  } catch (error) { tell(error.message, true); } finally { busy = false; }
}

const eligible = (one) => !byId("undecided").checked || !one.mark;

function go(step) {
  for (let number = current + step; number >= 0 && number < items.length; number += step)
    if (eligible(items[number])) { show(number); return; }
  tell(step > 0 ? "This is the last one" : "This is the first one");
}

// -- telling -----------------------------------------------------------------------------------------------------

let silence = 0;
function tell(text, wrong = false) {
  const message = byId("message");
  message.textContent = text; message.className = wrong ? "wrong" : ""; message.hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { message.hidden = true; }, wrong ? 5000 : 1500);
}

function tellDecided() {
  const item = items[current], counts = MARKS.map((mark) => items.filter((one) => one.mark === mark).length);
  const total = counts.reduce((sum, count) => sum + count, 0), word = document.createElement("b");
  byId("done").textContent = `${total} of ${items.length} decided`;
  MARKS.forEach((mark, index) => {
    byId("progress").children[index].style.width = `${100 * counts[index] / items.length}%`;
    byId(mark).classList.toggle("chosen", item.mark === mark);
  });
  word.textContent = item.mark === "defect" ? item.kind : item.mark;
  word.className = item.mark;
  byId("decided").replaceChildren(word);
  const kinds = new Set(items.filter((one) => one.kind).map((one) => one.kind));
  byId("kinds").replaceChildren(...[...kinds].map((kind) => Object.assign(document.createElement("option"), { value: kind })));
}

function list() {
  const wanted = items.filter((one) => eligible(one) || one.number === current);
  byId("listed").textContent = `${wanted.length} · worst first`;
  const place = wanted.findIndex((one) => one.number === current);
  const first = Math.max(0, Math.min(place - LONGEST_LIST / 2, wanted.length - LONGEST_LIST));
  byId("items").replaceChildren(...wanted.slice(first, first + LONGEST_LIST).map(listed));
  byId("items").querySelector(".current")?.scrollIntoView({ block: "nearest" });
}

// Made once: a thumbnail is fetched when it comes into sight.
function listed(item) {
  if (!item.element) {
    const element = document.createElement("li"), frame = document.createElement("div"), text = document.createElement("div");
    const image = document.createElement("img"), name = document.createElement("span"), figures = document.createElement("small");
    frame.className = "thumbnail"; text.className = "text";
    image.loading = "lazy"; image.alt = "";
    if (!item.reason) image.src = `thumbnail/${item.number}`;
    // Names are cut at their beginning; a mark keeps their own direction.
    name.textContent = `‎${item.name}`; name.title = item.name;
    frame.append(image); text.append(name, figures); element.append(frame, text);
    element.onclick = () => show(item.number);
    item.element = element;
  }
  item.element.className = `${item.mark} ${item.number === current ? "current" : ""}`;
  const figures = item.element.querySelector("small"), word = document.createElement("b");
  figures.textContent = [item.score === null ? "" : item.score.toFixed(3), item.reason ? "unreadable" : item.verdict, ""].filter(Boolean).join(" · ");
  if (item.mark) {
    word.textContent = item.mark === "defect" ? item.kind : item.mark;
    figures.append(" · ", word);
  }
  return item.element;
}

// -- the stage ---------------------------------------------------------------------------------------------------

function place() {
  const ratio = window.devicePixelRatio, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
  if (canvas.width !== Math.round(width) || canvas.height !== Math.round(height)) {
    canvas.width = Math.round(width); canvas.height = Math.round(height);
  }
  if (view || !shown) return view;
  const edge = 24 * ratio;
  const zoom = Math.min((width - 2 * edge) / mask.width, (height - 2 * edge) / mask.height, 8 * ratio);
  return { zoom, left: (width - mask.width * zoom) / 2, top: (height - mask.height * zoom) / 2 };
}

function draw() {
  const where = place();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown) return;
  pen.setTransform(where.zoom, 0, 0, where.zoom, where.left, where.top);
  pen.imageSmoothingEnabled = where.zoom < 3;
  pen.drawImage(shown.picture, 0, 0);
  if (byId("show-heat").checked && shown.heat) pen.drawImage(shown.heat, 0, 0, mask.width, mask.height);
  if (byId("show-outline").checked) drawOutline(where.zoom);
  if (byId("show-mask").checked) {
    pen.globalAlpha = 0.45;
    pen.drawImage(mask, 0, 0);
    pen.globalAlpha = 1;
  }
  pen.lineWidth = 1.5 * window.devicePixelRatio / where.zoom;
  pen.strokeStyle = MASK;
  if (drag?.box) pen.strokeRect(drag.x, drag.y, pointer.x - drag.x, pointer.y - drag.y);
  else if (pointer && (tool === "brush" || tool === "eraser")) {
    pen.beginPath(); pen.arc(pointer.x, pointer.y, brushSize() / 2, 0, 2 * Math.PI); pen.stroke();
  }
  byId("hint").textContent = `${mask.width} × ${mask.height} px shown, ${Math.round(100 * where.zoom / window.devicePixelRatio)} %`;
}

// A dark line below the bright one keeps it visible on any surface.
function drawOutline(zoom) {
  for (const [width, colour] of [[4, "#000b"], [1.8, "#00ffc8"]]) {
    pen.lineWidth = width * window.devicePixelRatio / zoom; pen.lineJoin = "round"; pen.strokeStyle = colour;
    pen.stroke(shown.outline);
  }
}

const brushSize = () => Number(byId("size").value);

function at(event) {
  const where = place(), box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio;
  return { x: ((event.clientX - box.left) * ratio - where.left) / where.zoom, y: ((event.clientY - box.top) * ratio - where.top) / where.zoom };
}

function keepStroke() {
  const copy = document.createElement("canvas");
  copy.width = mask.width; copy.height = mask.height;
  copy.getContext("2d").drawImage(mask, 0, 0);
  strokes.push(copy);
  if (strokes.length > MOST_STROKES) strokes.shift();
}

function takeStrokeBack() {
  const before = strokes.pop();
  if (!before) return;
  const brush = mask.getContext("2d");
  brush.globalCompositeOperation = "copy";
  brush.drawImage(before, 0, 0);
  draw();
}

function stroke(from, to) {
  const brush = mask.getContext("2d");
  brush.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  brush.strokeStyle = MASK; brush.lineWidth = brushSize(); brush.lineCap = brush.lineJoin = "round";
  brush.beginPath(); brush.moveTo(from.x, from.y); brush.lineTo(to.x + 0.01, to.y); brush.stroke();
}

canvas.onpointerdown = (event) => {
  if (!shown) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  pointer = at(event);
  if (event.button !== 0 || !tool) drag = { move: place(), clientX: event.clientX, clientY: event.clientY };
  else {
    keepStroke();
    drag = { ...pointer, box: tool === "box" };
    if (tool !== "box") stroke(pointer, pointer);
  }
  draw();
};

canvas.onpointermove = (event) => {
  if (!shown) return;
  const before = pointer;
  pointer = at(event);
  if (drag?.move) {
    const ratio = window.devicePixelRatio;
    view = { zoom: drag.move.zoom, left: drag.move.left + (event.clientX - drag.clientX) * ratio, top: drag.move.top + (event.clientY - drag.clientY) * ratio };
  } else if (drag && !drag.box) stroke(before, pointer);
  draw();
};

canvas.onpointerup = canvas.onpointercancel = (event) => {
  if (drag?.box && event.type === "pointerup") {
    const end = at(event), brush = mask.getContext("2d");
    const left = Math.round(Math.min(drag.x, end.x)), top = Math.round(Math.min(drag.y, end.y));
    const right = Math.round(Math.max(drag.x, end.x)), bottom = Math.round(Math.max(drag.y, end.y));
    brush.globalCompositeOperation = "source-over";
    brush.fillStyle = MASK;
    brush.fillRect(left, top, right - left, bottom - top);
  }
  drag = null;
  draw();
};
canvas.onpointerleave = () => { if (!drag) { pointer = null; draw(); } };
canvas.oncontextmenu = (event) => event.preventDefault();
canvas.addEventListener("wheel", (event) => {
  if (!shown) return;
  event.preventDefault();
  const where = place(), before = at(event), zoom = Math.min(40, Math.max(0.05, where.zoom * Math.exp(-event.deltaY / 400)));
  view = { zoom, left: where.left + before.x * (where.zoom - zoom), top: where.top + before.y * (where.zoom - zoom) };
  draw();
}, { passive: false });

// -- keys and buttons --------------------------------------------------------------------------------------------

function choose(name) {
  tool = tool === name ? "" : name;
  for (const one of ["brush", "box", "eraser"]) byId(one).classList.toggle("chosen", tool === one);
  if (tool) byId("show-mask").checked = true;
  canvas.style.cursor = tool ? "crosshair" : "";
  draw();
}

function resize(factor) {
  byId("size").value = Math.round(brushSize() * factor + (factor > 1 ? 1 : -1));
  byId("size-shown").textContent = byId("size").value;
  draw();
}

function clearMask() {
  if (!shown) return;
  keepStroke();
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  byId("show-mask").checked = true;
  draw();
}

async function proposeAgain() {
  if (!shown) return;
  keepStroke();
  await propose();
  byId("show-mask").checked = true;
  draw();
}

const toggle = (id) => { byId(id).checked = !byId(id).checked; byId(id).dispatchEvent(new Event("change")); };
const KEYS = {
  g: () => decide("good"), d: () => decide("defect"), u: () => decide("unclear"), z: undo,
  ArrowRight: () => go(1), ArrowLeft: () => go(-1), j: () => go(1), k: () => go(-1),
  h: () => toggle("show-heat"), o: () => toggle("show-outline"), m: () => toggle("show-mask"),
  b: () => choose("brush"), x: () => choose("box"), e: () => choose("eraser"),
  "[": () => resize(1 / 1.25), "]": () => resize(1.25), c: clearMask, p: proposeAgain, f: () => { view = null; draw(); },
  Escape: () => { if (tool) choose(tool); },
};
document.addEventListener("keydown", (event) => {
  if (event.target.id === "kind") {
    if (["Enter", "Escape"].includes(event.key)) event.target.blur();
    return;
  }
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); takeStrokeBack(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!act || (event.target.id === "size" && event.key.startsWith("Arrow"))) return;
  event.preventDefault();
  act();
});
const BUTTONS = {
  good: "g", defect: "d", unclear: "u", undo: "z", previous: "ArrowLeft", next: "ArrowRight", brush: "b", box: "x", eraser: "e",
  clear: "c", propose: "p", fit: "f",
};
for (const [id, key] of Object.entries(BUTTONS)) byId(id).onclick = (event) => { event.currentTarget.blur(); KEYS[key](); };
for (const id of ["show-heat", "show-outline", "show-mask"]) byId(id).onchange = (event) => { event.target.blur?.(); draw(); };
byId("undecided").onchange = (event) => { event.target.blur(); list(); };
byId("size").oninput = () => { byId("size-shown").textContent = byId("size").value; draw(); };
byId("size-shown").textContent = byId("size").value;
new ResizeObserver(draw).observe(canvas);
start().catch((error) => tell(error.message, true));
