// The sections of charts: search, Pareto front, tasks.

const charts = {};

/** Returns a chart that is kept from one drawing to the next, with its focus. */
function chart(id, options) {
  charts[id] ??= new Chart({ title: id, pick, ...options });
  return charts[id];
}

function bestSoFar(order, valueAt, minimize) {
  const line = [];
  let best = null;
  for (const at of order.some(keeps) ? order.filter(keeps) : order) {
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
const trialAxis = order => ({
  label: "trial",
  isCount: true,
  range: [-0.02 * order.length - 0.5, Math.max(8, trials.number[order[order.length - 1]] ?? 0) * 1.02],
});
const pointOf = (at, x, y) => ({ x, y, kind: kindOf(at), number: trials.number[at], text: tipOf(at) });

function drawSearch(place) {
  const order = scored();
  if (!order.length) return false;
  const i = Math.min(view.objective, head.objectives.length - 1),
    { name, minimize } = head.objectives[i];
  const values = order.map(at => trials.objectives[at][i]);
  const found = chart("search", { height: 340 });
  const change = value => {
    view.objective = Number(value);
    drawSearch(place);
  };
  if (!place.contains(found.box) || head.objectives.length > 1) {
    fill(
      place,
      h("h2", {}, "Search"),
      h(
        "p",
        {},
        "Every trial on its search items, as it was asked. Click one, or press the arrow keys, to see its " +
          "coefficients and answers. The worst twentieth may lie outside.",
      ),
      head.objectives.length > 1 &&
        h(
          "div",
          { class: "controls" },
          select(
            "Objective",
            "objective",
            head.objectives.map((o, k) => [k, o.name]),
            i,
            change,
          ),
        ),
      found.box,
      h("div", { class: "legend-place" }),
    );
  }
  fill(place.querySelector(".legend-place"), legend(kindsOf(order), "best so far", kindNames()));
  const line = bestSoFar(order, at => trials.objectives[at][i], minimize);
  found.show({
    points: order.map((at, k) => pointOf(at, trials.number[at], values[k])),
    lines: [{ points: line, name: "front" }],
    axes: { x: trialAxis(order), y: { label: name, range: axisRange(values, { minimize }) } },
    label:
      `${name} of ${count(order.length, "trial")}; the best is ${fixed(line.at(-1)[1], 4)}. ` +
      "Arrow keys go through the trials.",
    picked: view.picked,
  });
  return true;
}

const valuesOf = (order, k) => order.map(at => trials.objectives[at]?.[k]);

function drawFront(place) {
  if (head.objectives.length < 2) return false;
  const order = scored();
  if (!order.length) return false;
  const [i, j] = view.axes,
    objectives = head.objectives;
  const found = chart("front", { height: 400 });
  const options = objectives.map((o, k) => [k, o.name]);
  const change = side => value => {
    view.axes[side] = Number(value);
    drawFront(place);
  };
  fill(
    place,
    h("h2", {}, "Pareto front"),
    h("p", {}, `No trial beats these ${head.front.length} on every objective; on search items.`),
    objectives.length > 2 &&
      h(
        "div",
        { class: "controls" },
        select("Across", "across", options, i, change(0)),
        select("Up", "up", options, j, change(1)),
      ),
    found.box,
    legend(kindsOf(order), null, kindNames()),
  );
  const edge = head.front
    .map(n => trials.objectives[trials.at.get(n)])
    .filter(Boolean)
    .map(values => [values[i], values[j]])
    .sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  const steps = edge.flatMap((point, k) =>
    k ? [objectives[i].minimize ? [point[0], edge[k - 1][1]] : [edge[k - 1][0], point[1]], point] : [point],
  );
  const onFront = head.front.map(n => trials.at.get(n));
  const axis = k => {
    const { name, minimize } = objectives[k];
    const [low, high] = axisRange(valuesOf(order, k), { minimize });
    const [first, last] = axisRange(valuesOf(onFront, k), { whole: true });
    const label = `${name}${minimize ? " (less is better)" : ""}`;
    return { label, range: [Math.min(low, first), Math.max(high, last)] };
  };
  found.show({
    points: order.map(at => pointOf(at, trials.objectives[at][i], trials.objectives[at][j])),
    lines: objectives.length === 2 ? [{ points: steps, name: "front" }] : [],
    axes: { x: axis(i), y: axis(j) },
    label:
      `${objectives[i].name} against ${objectives[j].name}; ` +
      `${head.front.length} of ${count(order.length, "trial")} are on the front.`,
    picked: view.picked,
  });
  return true;
}

function drawTasks(place) {
  const order = scored(),
    { minimize } = head.objectives[0];
  if (!order.length || head.tasks.length < 2) return false;
  const boxes = head.tasks.map((task, k) => {
    const found = chart(`task-${k}`, { height: 170, compact: true });
    const measured = order.filter(at => isNumber(trials.tasks[at][k]));
    const line = bestLine(measured, k, minimize);
    found.show({
      points: measured.map(at => ({
        ...pointOf(at, trials.number[at], trials.tasks[at][k]),
        text: `trial ${trials.number[at]}\n${task} ${fixed(trials.tasks[at][k], 4)}`,
      })),
      lines: line.length ? [{ points: line, name: "front" }] : [],
      axes: {
        x: trialAxis(order),
        y: {
          label: task,
          range: axisRange(
            measured.map(at => trials.tasks[at][k]),
            { whole: true },
          ),
        },
      },
      label: `${task} of ${count(measured.length, "trial")}; the best so far has ${fixed(line.at(-1)?.[1], 4)}.`,
      picked: view.picked,
    });
    return h("div", {}, h("h3", {}, task), found.box);
  });
  if (place.querySelectorAll(".chart").length !== boxes.length) {
    fill(
      place,
      h("h2", {}, "Task by task"),
      h("p", {}, `The line is the task's mean of the trial that was the best by ${head.objectives[0].name} so far.`),
      h("div", { class: "small-charts" }, boxes),
    );
    for (const box of Object.values(charts)) box.draw();
  }
  return true;
}

/** Returns the mean of a task of whichever trial was the best so far by the first objective. */
function bestLine(order, task, minimize) {
  const line = [];
  let best = null;
  for (const at of order.some(keeps) ? order.filter(keeps) : order) {
    if (best !== null && !isBetter(trials.objectives[at][0], trials.objectives[best][0], minimize)) continue;
    if (best !== null) line.push([trials.number[at], trials.tasks[best][task]]);
    best = at;
    line.push([trials.number[at], trials.tasks[at][task]]);
  }
  if (best !== null) line.push([trials.number[order[order.length - 1]], trials.tasks[best][task]]);
  return line;
}
