// What the page knows of the run: taken from the documents of data, whole or what is new.

const first = JSON.parse(document.getElementById("data").textContent);
const trials = { number: [], origin: [], objectives: [], tasks: [], seconds: [], odd: new Map(), broken: new Map(), at: new Map() };
const details = new Map();
const view = {
  picked: null,
  followsBest: true,
  objective: 0,
  axes: [0, 1],
  answers: null,
  split: null,
  beside: null,
  only: "differ",
  task: "",
  answersPage: 0,
  trialsPage: 0,
  sort: "number",
  isDown: true,
  kind: "all",
};
const PAGE = 25;
let head = first,
  isReached = true,
  problem = "";

/** Takes a document of data, whole or what is new. */
function take(data) {
  if (data.since === 0) {
    for (const column of ["number", "origin", "objectives", "tasks", "seconds"]) trials[column] = [];
    trials.odd.clear();
    trials.broken.clear();
    trials.at.clear();
    details.clear();
  }
  const { number, origins, origin, objectives, tasks, seconds, odd, broken } = data.trials;
  number.forEach((n, i) => {
    const at = trials.at.get(n) ?? trials.number.length;
    trials.at.set(n, at);
    trials.number[at] = n;
    trials.origin[at] = origins[origin[i]];
    trials.objectives[at] = objectives[i];
    trials.tasks[at] = tasks[i];
    trials.seconds[at] = seconds[i];
    trials.odd.delete(n);
    trials.broken.delete(n);
  });
  for (const [n, names] of Object.entries(broken)) trials.broken.set(Number(n), names);
  for (const [n, found] of Object.entries(odd)) trials.odd.set(Number(n), found);
  for (const found of data.shown) details.set(found.number, found);
  head = data;
  head.frontSet = new Set(data.front);
  head.current = currentReport();
  if (view.followsBest || !trials.at.has(view.picked)) view.picked = winner() ?? data.best;
}

/** Returns the report, if it is of all trials that there are: a search that went on, or goes on, outdates it. */
function currentReport() {
  const found = head.report;
  if (!found?.winner || !Array.isArray(found.baselines) || head.state === "running") return null;
  const counted = Object.values(found.trials ?? {}).reduce((sum, n) => sum + n, 0);
  return counted === 0 || counted === trials.number.length ? found : null;
}

const report = () => head.current;
const winner = () => report()?.winner.number ?? null;
const isGiven = at => /^(baseline|warm_start|made):/.test(trials.origin[at]);
const kindOf = at =>
  trials.number[at] === (winner() ?? head.best)
    ? "winner"
    : isGiven(at)
      ? "baseline"
      : head.frontSet.has(trials.number[at])
        ? "front"
        : "bred";
const scored = () =>
  trials.number
    .map((_, at) => at)
    .filter(at => trials.objectives[at])
    .sort((a, b) => trials.number[a] - trials.number[b]);
const keeps = at => !trials.broken.has(trials.number[at]);
/** Returns the places of the tasks that are no objective by themselves: the others have a column already. */
const furtherTasks = () =>
  head.tasks
    .map((_, i) => i)
    .filter(i => !head.objectives.some(o => o.tasks.length === 1 && o.tasks[0] === head.tasks[i]));
const isBetter = (value, than, minimize) => (minimize ? value < than : value > than);
const nameOf = number => {
  const at = trials.at.get(number);
  if (at === undefined) return `trial ${number}`;
  return isGiven(at)
    ? originName(trials.origin[at])
    : number === winner()
      ? `the winner, trial ${number}`
      : `trial ${number}`;
};
const valueText = at => head.objectives.map((o, i) => `${o.name} ${fixed(trials.objectives[at]?.[i], 4)}`).join("\n");
const tipOf = at => `trial ${trials.number[at]} \u00b7 ${originName(trials.origin[at])}\n${valueText(at)}`;

/** Returns the best of base, experts and average: on the report items, or by the first objective on search items. */
function bestBaseline() {
  const found = report(),
    name = found?.difference_to_best_baseline?.name;
  const row = name === undefined ? null : found.baselines.find(row => row.name === name);
  return row ? (trials.at.get(row.number) ?? null) : bestSearched();
}

function bestSearched() {
  const given = scored().filter(
    at => trials.origin[at].startsWith("baseline:") && !trials.origin[at].startsWith("baseline:tuned_scalar"),
  );
  const found = given.some(keeps) ? given.filter(keeps) : given;
  return found.reduce(
    (best, at) =>
      best === null || isBetter(trials.objectives[at][0], trials.objectives[best][0], head.objectives[0].minimize)
        ? at
        : best,
    null,
  );
}
