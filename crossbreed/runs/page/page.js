// The page: what it knows of the run, its sections, and, where it is live, the questions for more.

const first = JSON.parse(document.getElementById("data").textContent);
const trials = { number: [], origin: [], objectives: [], tasks: [], seconds: [], odd: new Map(), at: new Map() };
const details = new Map();
const view = {
  picked: null, followsBest: true, objective: 0, axes: [0, 1], answers: null, split: null, beside: null, only: "differ",
  task: "", answersPage: 0, trialsPage: 0, sort: "number", isDown: true, kind: "all",
};
const PAGE = 25;
let head = first, isReached = true, problem = "";

/** Takes a document of data, whole or what is new. */
function take(data) {
  if (data.since === 0) {
    for (const column of ["number", "origin", "objectives", "tasks", "seconds"]) trials[column] = [];
    trials.odd.clear();
    trials.at.clear();
    details.clear();
  }
  const { number, origins, origin, objectives, tasks, seconds, odd } = data.trials;
  number.forEach((n, i) => {
    const at = trials.at.get(n) ?? trials.number.length;
    trials.at.set(n, at);
    trials.number[at] = n;
    trials.origin[at] = origins[origin[i]];
    trials.objectives[at] = objectives[i];
    trials.tasks[at] = tasks[i];
    trials.seconds[at] = seconds[i];
    trials.odd.delete(n);
  });
  for (const [n, found] of Object.entries(odd)) trials.odd.set(Number(n), found);
  for (const found of data.shown) details.set(found.number, found);
  head = data;
  head.frontSet = new Set(data.front);
  if (view.followsBest || !trials.at.has(view.picked)) view.picked = winner() ?? data.best;
}

const report = () => head.report?.winner && Array.isArray(head.report.baselines) ? head.report : null;
const winner = () => report()?.winner.number ?? null;
const isBaseline = at => trials.origin[at].startsWith("baseline:") || trials.origin[at].startsWith("warm_start:");
const kindOf = at =>
  trials.number[at] === (winner() ?? head.best) ? "winner" : isBaseline(at) ? "baseline" : head.frontSet.has(trials.number[at]) ? "front" : "bred";
const scored = () => trials.number.map((_, at) => at).filter(at => trials.objectives[at]).sort((a, b) => trials.number[a] - trials.number[b]);
const isBetter = (value, than, minimize) => (minimize ? value < than : value > than);
const nameOf = number => {
  const at = trials.at.get(number);
  if (at === undefined) return `trial ${number}`;
  return isBaseline(at) ? originName(trials.origin[at]) : number === winner() ? `the winner, trial ${number}` : `trial ${number}`;
};
const valueText = at =>
  head.objectives.map((o, i) => `${o.name} ${fixed(trials.objectives[at]?.[i], 4)}`).join("\n");
const tipOf = at => `trial ${trials.number[at]} \u00b7 ${originName(trials.origin[at])}\n${valueText(at)}`;

/** Returns the best of base, experts and average: on the report items, or by the first objective on search items. */
function bestBaseline() {
  const found = report(), name = found?.difference_to_best_baseline?.name;
  const row = name === undefined ? null : found.baselines.find(row => row.name === name);
  return row ? (trials.at.get(row.number) ?? null) : bestSearched();
}

function bestSearched() {
  const found = scored().filter(at => isBaseline(at) && !trials.origin[at].includes("tuned_scalar") && !trials.origin[at].startsWith("warm"));
  return found.reduce((best, at) => (best === null || isBetter(trials.objectives[at][0], trials.objectives[best][0], head.objectives[0].minimize) ? at : best), null);
}

// ---- sections: id -> [name in the navigation, function that fills it; false: nothing to show]

const sections = {
  lead: ["Result", drawLead],
  models: ["Models", drawModels],
  search: ["Search", drawSearch],
  front: ["Pareto front", drawFront],
  tasks: ["Tasks", drawTasks],
  trial: ["Coefficients", drawTrial],
  answers: ["Answers", drawAnswers],
  trials: ["Trials", drawTrials],
  settings: ["Settings", drawSettings],
  log: ["Log", drawLog],
};

function drawState() {
  const state = !isReached ? "offline" : problem ? "unreadable" : head.state;
  const done = head.wanted ? `${trials.number.length.toLocaleString("en")} of ${count(head.wanted, "trial")}` : count(trials.number.length, "trial");
  const parts = [
    head.state === "running" ? done : count(trials.number.length, "trial"),
    head.failed && `${head.failed} FAILED (not measured)`, head.elapsed_s && `${duration(head.elapsed_s)} of search`,
    head.objectives.map(o => `${o.name}${o.minimize ? " (less is better)" : ""}`).join("; "),
  ];
  const text = problem && isReached ? problem : isReached ? parts.filter(Boolean).join(" \u00b7 ") : "`crossbreed dashboard` has ended: this is what it served last";
  fill(document.getElementById("state"), h("span", { class: `pill ${state}` }, state), text);
}

function drawLead(place) {
  const found = report(), verdict = found?.verdict, at = head.best === null ? null : trials.at.get(head.best);
  const children = [];
  if (verdict) children.push(h("p", { class: `verdict ${verdict.kind}` }, verdict.line), h("p", { class: "why" }, verdict.why));
  else if (at === null || at === undefined) children.push(h("p", { class: "verdict" }, "Nothing measured yet."));
  else {
    const lead = { running: "Searching.", interrupted: "Interrupted: the same command goes on.", finished: "Searched, not reported yet." }[head.state];
    const best = head.front.length ? `${count(head.front.length, "trial")} on the Pareto front.` : `Best so far: ${nameOf(head.best)}, ${fixed(trials.objectives[at][0])}.`;
    children.push(h("p", { class: "verdict" }, `${lead} ${best}`),
      h("p", { class: "why" }, "On search items, where the best of many is also the luckiest: the report measures on items of its own."));
  }
  children.push(h("dl", { class: "tiles" }, found ? reportTiles(found) : searchTiles(at)));
  if (head.state === "running" && head.wanted) {
    const bar = h("i");
    bar.style.width = `${Math.min(100, (100 * trials.number.length) / head.wanted)}%`;
    children.push(h("div", { class: "progress", role: "progressbar", "aria-label": "Trials", "aria-valuemin": 0, "aria-valuemax": head.wanted, "aria-valuenow": trials.number.length }, bar));
  }
  if (head.state === "running" && head.log.length) children.push(h("p", { class: "note" }, head.log[head.log.length - 1].replace(/^\S+Z\s+/, "")));
  fill(place, children);
}

const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && small(note)));
const judged = by => (by.low > 0 ? "better" : by.high < 0 ? "worse" : "not told apart");

function reportTiles(found) {
  const { winner: won, difference_to_best_baseline: best, difference_to_tuned_scalar: tuned, ideal } = found;
  return [
    tile(`Winner, trial ${won.number}`, fixed(won.mean), bounds(won)),
    best && tile(`Against ${rowName(best.name)}, the best without tuning`, signed(best.mean), `${judged(best)} ${bounds(best)}`),
    tuned && tile("Against the tuned scalar", signed(tuned.mean), `${judged(tuned)} ${bounds(tuned)}`),
    ideal && ideal.gap.mean >= 0 && tile("Gap to the ideal", fixed(ideal.gap.mean), bounds(ideal.gap)),
  ];
}

function searchTiles(at) {
  if (at === null || at === undefined) return [];
  const base = bestSearched(), { minimize } = head.objectives[0];
  const gain = base === null ? null : (trials.objectives[at][0] - trials.objectives[base][0]) * (minimize ? -1 : 1);
  const perTrial = Object.values(head.seconds).reduce((sum, s) => sum + s, 0);
  return [
    tile(`Best ${head.front.length ? `by ${head.objectives[0].name}` : "so far"}, ${nameOf(head.best)}`, fixed(trials.objectives[at][0]), "on search items"),
    base !== null && tile(`Against ${nameOf(trials.number[base])}, the best without tuning`, signed(gain), "on search items"),
    perTrial > 0 && tile("Seconds a trial", perTrial < 10 ? perTrial.toFixed(2) : perTrial.toFixed(0),
      Object.entries(head.seconds).filter(([, s]) => s / perTrial > 0.02).map(([phase, s]) => `${phase} ${Math.round((100 * s) / perTrial)} %`).join(", ")),
  ];
}

function drawModels(place) {
  const found = report();
  if (!found) return drawSearchModels(place);
  const tasks = Object.keys(found.winner.tasks), rows = [...found.baselines, found.winner];
  const low = Math.min(...rows.map(row => row.low)), high = Math.max(...rows.map(row => row.high));
  const cells = row => [
    h("td", {}, interval(row, low, high)),
    h("td", {}, fixed(row.mean), small(bounds(row))),
    tasks.map(task => h("td", {}, fixed(row.tasks[task]?.mean), small(bounds(row.tasks[task])))),
  ];
  const lines = rows.map(row =>
    h("tr", { class: row === found.winner ? "winner" : "" }, h("th", { scope: "row" }, rowName(row.name), small(`trial ${row.number}`)), cells(row)));
  if (found.ideal) lines.push(h("tr", { class: "ideal" }, h("th", { scope: "row" }, "ideal", small("best at every task")), cells(found.ideal)));
  const notes = [...(found.caveats ?? []), ...(found.notes ?? [])];
  fill(place, h("h2", {}, "On the report items"),
    h("p", {}, found.measured ?? "Items that the search never used."),
    table(["", "", found.scalar.name, ...tasks.map(task => h("th", { scope: "col" }, task, small(`n = ${found.winner.tasks[task].n}`)))], lines, { label: "Models on the report items" }),
    notes.length && h("ul", { class: "notes" }, notes.map(note => h("li", {}, note))));
}

function drawSearchModels(place) {
  const best = trials.at.get(head.best), shown = scored().filter(isBaseline);
  if (!shown.length) return false;
  if (best !== undefined && !shown.includes(best)) shown.push(best);
  const lines = shown.map(at =>
    h("tr", { class: at === best ? "winner" : "" }, h("th", { scope: "row" }, isBaseline(at) ? originName(trials.origin[at]) : "best so far", small(`trial ${trials.number[at]}`)),
      head.objectives.map((_, i) => h("td", {}, fixed(trials.objectives[at][i]))), trials.tasks[at].map(value => h("td", {}, fixed(value)))));
  fill(place, h("h2", {}, "On the search items"), h("p", {}, "Baselines need no search; the report will measure them on items of their own."),
    table(["", ...head.objectives.map(o => o.name), ...head.tasks], lines, { label: "Models on the search items" }));
  return true;
}

function interval(row, low, high) {
  const x = value => 4 + (136 * (value - low)) / (high - low || 1);
  const found = svg("svg", { class: "interval", viewBox: "0 0 144 18", role: "img", "aria-label": `${fixed(row.mean)} ${bounds(row)}` },
    svg("line", { x1: x(row.low), x2: x(row.high), y1: 9, y2: 9 }), svg("circle", { cx: x(row.mean), cy: 9, r: 4 }));
  return isNumber(row.low) && row.low >= low && row.high <= high ? found : "";
}

// ---- charts

const charts = {};

/** Returns a chart that is kept from one drawing to the next, with its focus. */
function chart(id, options) {
  charts[id] ??= new Chart({ title: id, pick, ...options });
  return charts[id];
}

function bestSoFar(order, valueAt, minimize) {
  const line = [];
  let best = null;
  for (const at of order) {
    if (best === null || isBetter(valueAt(at), best, minimize)) {
      if (best !== null) line.push([trials.number[at], best]);
      best = valueAt(at);
      line.push([trials.number[at], best]);
    }
  }
  if (order.length) line.push([trials.number[order[order.length - 1]], best]);
  return line;
}

const kindNames = () => (winner() === null ? { winner: "best" } : {});
const kindsOf = order => KINDS.filter(kind => order.some(at => kindOf(at) === kind));
const trialAxis = order => ({ label: "trial", isCount: true, range: [-0.02 * order.length - 0.5, Math.max(8, trials.number[order[order.length - 1]] ?? 0) * 1.02] });
const pointOf = (at, x, y) => ({ x, y, kind: kindOf(at), number: trials.number[at], text: tipOf(at) });

function drawSearch(place) {
  const order = scored();
  if (!order.length) return false;
  const i = Math.min(view.objective, head.objectives.length - 1), { name, minimize } = head.objectives[i];
  const values = order.map(at => trials.objectives[at][i]);
  const found = chart("search", { height: 340 });
  const change = value => { view.objective = Number(value); drawSearch(place); };
  if (!place.contains(found.box) || head.objectives.length > 1) {
    fill(place, h("h2", {}, "Search"), h("p", {}, "Every trial on its search items, as it was asked. Click one, or press the arrow keys, to see its coefficients and answers. The worst twentieth may lie outside."),
      head.objectives.length > 1 && h("div", { class: "controls" }, select("Objective", "objective", head.objectives.map((o, k) => [k, o.name]), i, change)),
      found.box, h("div", { class: "legend-place" }));
  }
  fill(place.querySelector(".legend-place"), legend(kindsOf(order), "best so far", kindNames()));
  const line = bestSoFar(order, at => trials.objectives[at][i], minimize);
  found.show({
    points: order.map((at, k) => pointOf(at, trials.number[at], values[k])),
    lines: [{ points: line, name: "front" }],
    axes: { x: trialAxis(order), y: { label: name, range: axisRange(values, { minimize }) } },
    label: `${name} of ${count(order.length, "trial")}; the best is ${fixed(line.at(-1)[1], 4)}. Arrow keys go through the trials.`,
    picked: view.picked,
  });
  return true;
}

function drawFront(place) {
  if (head.objectives.length < 2) return false;
  const order = scored();
  if (!order.length) return false;
  const [i, j] = view.axes, objectives = head.objectives;
  const found = chart("front", { height: 400 });
  const options = objectives.map((o, k) => [k, o.name]);
  const change = side => value => { view.axes[side] = Number(value); drawFront(place); };
  fill(place, h("h2", {}, "Pareto front"), h("p", {}, `No trial beats these ${head.front.length} on every objective; on search items.`),
    objectives.length > 2 && h("div", { class: "controls" }, select("Across", "across", options, i, change(0)), select("Up", "up", options, j, change(1))),
    found.box, legend(kindsOf(order), null, kindNames()));
  const edge = head.front.map(n => trials.objectives[trials.at.get(n)]).filter(Boolean).map(values => [values[i], values[j]]).sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  const steps = edge.flatMap((point, k) => (k ? [objectives[i].minimize ? [point[0], edge[k - 1][1]] : [edge[k - 1][0], point[1]], point] : [point]));
  const axis = k => ({ label: `${objectives[k].name}${objectives[k].minimize ? " (less is better)" : ""}`, range: axisRange(order.map(at => trials.objectives[at][k]), { minimize: objectives[k].minimize }) });
  found.show({
    points: order.map(at => pointOf(at, trials.objectives[at][i], trials.objectives[at][j])),
    lines: objectives.length === 2 ? [{ points: steps, name: "front" }] : [],
    axes: { x: axis(i), y: axis(j) },
    label: `${objectives[i].name} against ${objectives[j].name}; ${head.front.length} of ${count(order.length, "trial")} are on the front.`,
    picked: view.picked,
  });
  return true;
}

function drawTasks(place) {
  const order = scored(), { minimize } = head.objectives[0];
  if (!order.length || head.tasks.length < 2) return false;
  const boxes = head.tasks.map((task, k) => {
    const found = chart(`task-${k}`, { height: 170, compact: true });
    const measured = order.filter(at => isNumber(trials.tasks[at][k]));
    const line = bestLine(measured, k, minimize);
    found.show({
      points: measured.map(at => ({ ...pointOf(at, trials.number[at], trials.tasks[at][k]), text: `trial ${trials.number[at]}\n${task} ${fixed(trials.tasks[at][k], 4)}` })),
      lines: line.length ? [{ points: line, name: "front" }] : [],
      axes: { x: trialAxis(order), y: { label: task, range: axisRange(measured.map(at => trials.tasks[at][k]), { whole: true }) } },
      label: `${task} of ${count(measured.length, "trial")}; the best so far has ${fixed(line.at(-1)?.[1], 4)}.`,
      picked: view.picked,
    });
    return h("div", {}, h("h3", {}, task), found.box);
  });
  if (place.querySelectorAll(".chart").length !== boxes.length) {
    fill(place, h("h2", {}, "Task by task"), h("p", {}, `The line is the task's mean of the trial that was the best by ${head.objectives[0].name} so far.`), h("div", { class: "small-charts" }, boxes));
    for (const box of Object.values(charts)) box.draw();
  }
  return true;
}

/** Returns the mean of a task of whichever trial was the best so far by the first objective. */
function bestLine(order, task, minimize) {
  const line = [];
  let best = null;
  for (const at of order) {
    if (best !== null && !isBetter(trials.objectives[at][0], trials.objectives[best][0], minimize)) continue;
    if (best !== null) line.push([trials.number[at], trials.tasks[best][task]]);
    best = at;
    line.push([trials.number[at], trials.tasks[at][task]]);
  }
  if (best !== null) line.push([trials.number[order[order.length - 1]], trials.tasks[best][task]]);
  return line;
}
