"use strict";
// Shows what the server's websocket says: "hello" once, "state" some times a second, frames of the strip in between.

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas"), pen = canvas.getContext("2d");
const number = new Intl.NumberFormat("en");
const LONGEST_LIST = 200, HISTORY_ROWS = 4096, EASE = 0.18;

let hello = null, paused = false, ended = false;
// Pieces of the strip, oldest first: {top, rows, firstLine, lineFactor, picture, heat}; top counts rows since the start.
let pieces = [], bottom = 0, shown = 0, boxes = [];
let earlier = null, holes = false;
// For tests and for the curious.
window.prn = { frames: 0, draws: 0, defects: 0 };

async function takeFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const middle = 4 + length + header.picture_bytes;
  const [picture, heat] = await Promise.all([
    createImageBitmap(new Blob([buffer.slice(4 + length, middle)], { type: "image/jpeg" })),
    createImageBitmap(new Blob([buffer.slice(middle)], { type: "image/png" })),
  ]);
  pieces.push({ top: bottom, rows: header.rows, firstLine: header.first_line, lineFactor: header.line_factor, picture, heat });
  bottom += header.rows;
  while (pieces.length > 1 && pieces[0].top + pieces[0].rows < bottom - HISTORY_ROWS) {
    const old = pieces.shift();
    old.picture.close(); old.heat.close();
  }
  window.prn.frames++;
}

// Row of the strip at which a line is shown; null where it is not shown any more, or was never.
function rowOf(line) {
  for (let i = pieces.length - 1; i >= 0; i--) {
    const piece = pieces[i], row = (line - piece.firstLine) / piece.lineFactor;
    if (row >= 0 && row <= piece.rows) return piece.top + row;
    if (row > piece.rows) return null;
  }
  return null;
}

function draw() {
  requestAnimationFrame(draw);
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  }
  if (!hello || paused) return;
  window.prn.draws++;
  // Strips come at once; the eye wants them to flow.
  shown += (bottom - shown) * EASE;
  if (bottom - shown > HISTORY_ROWS / 2) shown = bottom;
  const zoom = canvas.width / hello.view_width, visible = canvas.height / zoom, first = shown - visible;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(zoom, 0, 0, zoom, 0, -first * zoom);
  for (const piece of pieces) {
    if (piece.top + piece.rows < first || piece.top > shown) continue;
    pen.drawImage(piece.picture, 0, piece.top, hello.view_width, piece.rows);
    if (byId("show-heat").checked) pen.drawImage(piece.heat, 0, piece.top, hello.view_width, piece.rows);
  }
  if (byId("show-boxes").checked) drawBoxes(zoom);
  const piece = pieces[pieces.length - 1];
  if (piece) byId("scale").textContent =
    `line ${number.format(piece.firstLine)} · 1 px = ${hello.factor} × ${piece.lineFactor} (pixels × lines)`
    + (holes ? " · dark blue: no verdict" : "");
}

function drawBoxes(zoom) {
  const style = getComputedStyle(document.documentElement);
  pen.font = `${12 / zoom * window.devicePixelRatio}px system-ui, "DejaVu Sans", sans-serif`;
  pen.lineWidth = 1.5 / zoom * window.devicePixelRatio;
  boxes = boxes.filter((one) => {
    const top = rowOf(one.first_line), end = rowOf(one.first_line + one.lines);
    if (top === null && end === null) return one.tries++ < 120;
    const from = top ?? end, to = end ?? top, margin = 4;
    pen.strokeStyle = pen.fillStyle = style.getPropertyValue(`--${one.severity}`);
    const left = one.left / hello.factor - margin, right = (one.left + one.width) / hello.factor + margin;
    pen.strokeRect(left, from - margin, right - left, to - from + 2 * margin);
    // A dark rim keeps the number readable on any surface.
    pen.save();
    pen.lineWidth *= 2; pen.strokeStyle = "#000b";
    pen.strokeText(`${one.number}`, left, from - margin - 4);
    pen.restore();
    pen.fillText(`${one.number}`, left, from - margin - 4);
    return true;
  });
}

function takeState(state) {
  if (earlier && state.seconds > earlier.seconds) {
    const rate = (state.lines - earlier.lines) / (state.seconds - earlier.seconds);
    byId("rate").textContent = number.format(Math.round(rate));
  }
  if (!earlier || state.seconds - earlier.seconds > 0.9) earlier = state;
  for (const name of ["p50", "p99", "maximum"])
    byId(name).textContent = state.latency_ms ? state.latency_ms[name].toFixed(state.latency_ms[name] < 100 ? 1 : 0) : "–";
  const sum = (counts) => Object.values(counts).reduce((total, one) => total + one, 0);
  const why = (counts) => Object.entries(counts).map(([name, lines]) => `${name.replace("_", " ")} ${number.format(lines)}`).join(", ");
  const shares = { inspected: state.inspected, missing: sum(state.missing), dropped: sum(state.dropped), waiting: state.waiting };
  holes = shares.missing + shares.dropped > 0;
  const parts = byId("bar").children;
  Object.entries(shares).forEach(([name, lines], index) => {
    byId(name).textContent = number.format(lines);
    parts[index].style.width = `${state.lines ? 100 * lines / state.lines : 0}%`;
  });
  byId("lines").textContent = `${number.format(state.lines)} lines`;
  byId("missing-why").textContent = why(state.missing);
  byId("dropped-why").textContent = why(state.dropped);
  const lost = Object.entries(state.sinks).filter(([, sink]) => sink.lost);
  byId("sinks").hidden = !lost.length;
  byId("sinks").textContent = lost.map(([name, sink]) => `${name}: ${number.format(sink.lost)} messages lost`).join(", ");
  showDrift(state.drift);
  byId("counts").textContent = why(state.defects);
  state.new_defects.forEach(addDefect);
  ended = state.ended;
  setStatus(state.error ? "stopped" : ended ? "ended" : "running", state.error ?? "");
}

// How what passes compares with the calibration; nothing where nobody watches.
function showDrift(drift) {
  byId("drift").hidden = !drift;
  if (!drift) return;
  const label = byId("drift-state"), quantities = Object.entries(drift.quantities);
  label.textContent = label.className = drift.state;
  byId("drift-figures").parentElement.hidden = !quantities.length;
  byId("drift-figures").replaceChildren(...quantities.map(([name, one]) => {
    const row = document.createElement("tr"), figure = (value) => value.toFixed(Math.abs(value) < 10 ? 2 : 0);
    row.className = one.state;
    row.title = `against ${one.reference}; act at PSI ${figure(one.psi_limit)}, KS ${figure(one.ks_limit)} or CUSUM ${figure(one.cusum_limit)}`;
    for (const text of [name, ...[one.median, one.reference_median, one.psi, one.ks, one.cusum].map(figure)]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }));
  const told = { learning: drift.reason, watch: "look at the line", act: "calibrate again, or repair the line" };
  byId("drift-why").textContent = told[drift.state] ?? `the last ${number.format(drift.window)} tiles are like the reference`;
}

function addDefect(defect) {
  boxes.push({ ...defect, tries: 0 });
  if (boxes.length > LONGEST_LIST) boxes.shift();
  const item = document.createElement("li"), frame = document.createElement("div"), text = document.createElement("div");
  item.className = defect.severity;
  frame.className = "picture";
  if (defect.picture) { const image = new Image(); image.src = defect.picture; frame.append(image); }
  const title = document.createElement("span"), where = document.createElement("span"), size = document.createElement("small");
  title.className = "name"; where.className = "where";
  title.textContent = `${defect.number} ${defect.severity} `;
  where.textContent = `line ${number.format(defect.first_line)}, x ${number.format(defect.left)}`;
  const extent = defect.mm ? `${defect.mm.length} × ${defect.mm.width} mm, ${defect.mm.area} mm²`
    : `${defect.lines} × ${defect.width} px, ${number.format(defect.area)} px²`;
  size.textContent = `${extent}, peak ${defect.peak.toFixed(2)}${defect.continues ? ", goes on" : ""}`;
  text.append(title, where, size);
  item.append(frame, text);
  byId("defects").prepend(item);
  while (byId("defects").children.length > LONGEST_LIST) byId("defects").lastChild.remove();
  byId("none").hidden = true;
  window.prn.defects++;
}

function setStatus(name, why) {
  const status = byId("status");
  status.className = `status ${name}`;
  status.textContent = why ? `${name}: ${why}` : name;
}

function connect() {
  const socket = new WebSocket(new URL("live", location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  let order = Promise.resolve();
  socket.onmessage = (event) => {
    if (typeof event.data !== "string") { order = order.then(() => takeFrame(event.data)); return; }
    const message = JSON.parse(event.data);
    if (message.type === "state") { takeState(message); return; }
    hello = message;
    document.title = byId("title").textContent = `prn-inspect · ${message.title}`;
    byId("defects").replaceChildren(); boxes = []; earlier = null;
  };
  socket.onclose = () => {
    if (!ended) setStatus("waiting", "no connection");
    setTimeout(connect, 1000);
  };
}

byId("pause").onclick = () => {
  paused = !paused;
  byId("pause").textContent = paused ? "Go on" : "Pause";
};
connect();
requestAnimationFrame(draw);
