// Charts of many points on a canvas: a grid, lines, points by kind, one that is picked; by pointer and by keyboard.

const KINDS = ["bred", "front", "baseline", "winner"];
const KIND_NAMES = { bred: "bred", front: "on the front", baseline: "given: baseline, warm start, regression", winner: "winner" };

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough) ?? power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step + 0);
  return { step, found };
}

/** Returns the range of values with a margin; without the worst twentieth: one broken merge would flatten the rest. */
function axisRange(values, { minimize = false, whole = false } = {}) {
  const sorted = Float64Array.from(values.filter(isNumber)).sort();
  if (!sorted.length) return [0, 1];
  const cut = whole ? 0 : Math.floor(sorted.length / 20);
  const low = minimize ? sorted[0] : sorted[cut];
  const high = minimize ? sorted[sorted.length - 1 - cut] : sorted[sorted.length - 1];
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.05;
  return [low - margin, high + margin];
}

class Chart {
  /** Makes an empty chart; `pick` is called with the number of a trial. */
  constructor({ title, height, pick, compact = false }) {
    Object.assign(this, { height, pick, compact, points: [], lines: [], numbers: [], range: null });
    this.canvas = h("canvas", { role: "img", tabindex: 0, "data-key": `chart-${title}` });
    this.tip = h("div", { class: "tip", hidden: true });
    this.box = h("div", { class: "chart" }, this.canvas, this.tip);
    this.box.style.height = `${height}px`;
    this.canvas.addEventListener("pointermove", event => this.point(this.nearest(event)));
    this.canvas.addEventListener("pointerleave", () => this.point(-1));
    this.canvas.addEventListener("click", event => this.choose(this.nearest(event)));
    this.canvas.addEventListener("keydown", event => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  /** Takes what to draw: points {x, y, kind, number, text}, lines [[x, y], ...], axes {x, y} with label and range. */
  show({ points, lines = [], axes, label, picked }) {
    Object.assign(this, { points, lines, axes, picked });
    this.order = points
      .map((_, i) => i)
      .sort((a, b) => points[a].x - points[b].x || points[a].number - points[b].number);
    this.canvas.setAttribute("aria-label", label);
    this.draw();
  }

  mark(picked) {
    this.picked = picked;
    this.draw();
  }

  place(x, y) {
    const { left, top, width, height } = this.area;
    const [[x0, x1], [y0, y1]] = [this.axes.x.range, this.axes.y.range];
    return [left + ((x - x0) / (x1 - x0 || 1)) * width, top + (1 - (y - y0) / (y1 - y0 || 1)) * height];
  }

  draw() {
    const width = this.box.clientWidth,
      { height } = this;
    if (!width || !this.axes) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = `${this.compact ? 11 : 12}px system-ui, sans-serif`;
    const sides = { left: this.compact ? 44 : 56, right: 10, top: 8, bottom: this.compact ? 22 : 38 };
    this.area = {
      left: sides.left,
      top: sides.top,
      width: width - sides.left - sides.right,
      height: height - sides.top - sides.bottom,
    };
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(this.area.left - 5, this.area.top - 5, this.area.width + 10, this.area.height + 10);
    context.clip();
    for (const { points, name } of this.lines) this.drawLine(context, points, colour(name));
    for (const kind of KINDS) this.drawKind(context, kind);
    context.restore();
    this.drawPicked(context);
  }

  drawAxes(context) {
    const { left, top, width, height } = this.area,
      { x, y } = this.axes;
    context.strokeStyle = colour("line");
    context.fillStyle = colour("soft");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const rows = ticks(...y.range, height / 48);
    const digits = Math.max(0, -Math.floor(Math.log10(rows.step) + 1e-9));
    for (const value of rows.found) {
      const at = Math.round(this.place(0, value)[1]) + 0.5;
      context.beginPath();
      context.moveTo(left, at);
      context.lineTo(left + width, at);
      context.stroke();
      context.fillText(digits > 6 ? value.toExponential(1) : value.toFixed(digits), left - 8, at);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    const columns = ticks(...x.range, width / (this.compact ? 70 : 90));
    const places = Math.max(0, -Math.floor(Math.log10(columns.step) + 1e-9));
    for (const value of columns.found) {
      if (x.isCount && value % 1) continue;
      context.fillText(
        x.isCount ? value.toLocaleString("en") : value.toFixed(places),
        this.place(value, 0)[0],
        top + height + 7,
      );
    }
    if (this.compact) return;
    context.fillText(x.label, left + width / 2, top + height + 23);
    context.save();
    context.translate(9, top + height / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(y.label, 0, 0, height);
    context.restore();
  }

  drawLine(context, points, stroke) {
    context.strokeStyle = stroke;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](...this.place(x, y)));
    context.stroke();
  }

  drawKind(context, kind) {
    const crowd = this.points.length > 1500;
    const size = { bred: crowd ? 1.6 : 3, front: 4, baseline: this.compact ? 4 : 5.5, winner: this.compact ? 6 : 9 }[
      kind
    ];
    context.fillStyle = colour(kind);
    context.globalAlpha = kind === "bred" ? (crowd ? 0.45 : 0.7) : 1;
    context.beginPath();
    for (const point of this.points) {
      if (point.kind !== kind) continue;
      const [x, y] = this.place(point.x, point.y);
      if (kind === "baseline") diamond(context, x, y, size);
      else if (kind === "winner") star(context, x, y, size);
      else {
        context.moveTo(x + size, y);
        context.arc(x, y, size, 0, 2 * Math.PI);
      }
    }
    context.fill();
    context.globalAlpha = 1;
  }

  drawPicked(context) {
    const point = this.points.find(found => found.number === this.picked);
    if (!point) return;
    context.strokeStyle = colour("ink");
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(...this.place(point.x, point.y), 9, 0, 2 * Math.PI);
    context.stroke();
  }

  nearest(event) {
    if (!this.area) return -1;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = -1,
      least = 24 ** 2;
    this.points.forEach((point, i) => {
      const [px, py] = this.place(point.x, point.y);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  point(i) {
    this.canvas.style.cursor = i < 0 ? "" : "pointer";
    this.tip.hidden = i < 0;
    if (i < 0) return;
    const [x, y] = this.place(this.points[i].x, this.points[i].y);
    this.tip.textContent = this.points[i].text;
    this.tip.style.top = `${y}px`;
    this.tip.style.left = `${x}px`;
    this.tip.classList.toggle("flipped", x > this.box.clientWidth * 0.6);
  }

  choose(i) {
    if (i >= 0) this.pick(this.points[i].number);
  }

  key(event) {
    const at = this.order.findIndex(i => this.points[i].number === this.picked),
      last = this.order.length - 1;
    const next = { ArrowLeft: Math.max(0, at - 1), ArrowRight: Math.min(last, at + 1), Home: 0, End: last }[event.key];
    if (next === undefined || last < 0) return;
    event.preventDefault();
    this.choose(this.order[next]);
    this.point(this.order[next]);
  }
}

function diamond(context, x, y, size) {
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.closePath();
}

function star(context, x, y, size) {
  for (let i = 0; i < 10; i++) {
    const radius = i % 2 ? size * 0.45 : size,
      angle = (Math.PI / 5) * i - Math.PI / 2;
    context[i ? "lineTo" : "moveTo"](x + radius * Math.cos(angle), y + radius * Math.sin(angle));
  }
  context.closePath();
}

function legend(kinds, line, names = {}) {
  return h(
    "p",
    { class: "legend" },
    kinds.map(kind => h("span", { class: `key ${kind}` }, names[kind] ?? KIND_NAMES[kind])),
    line && h("span", { class: "key line" }, line),
  );
}
