// The page: its sections, picking a trial, and, where it is live, asking for more.

/** Section -> its name in the navigation, and what fills it; false: there is nothing to show. */
const sections = {
  lead: ["Result", drawLead],
  models: ["Models", drawModels],
  stages: ["Stages", drawStages],
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
  const done = head.wanted
    ? `${trials.number.length.toLocaleString("en")} of ${count(head.wanted, "trial")}`
    : count(trials.number.length, "trial");
  const parts = [
    head.state === "running" ? done : count(trials.number.length, "trial"),
    head.failed && `${head.failed} FAILED (not measured)`,
    head.state === "running" && head.stage,
    head.workers,
    head.elapsed_s && `${duration(head.elapsed_s)} of search`,
    head.state === "running" && isNumber(head.left_s) && `about ${duration(head.left_s)} left`,
    head.objectives.map(o => `${o.name}${o.minimize ? " (less is better)" : ""}`).join("; "),
  ];
  const text =
    problem && isReached
      ? problem
      : isReached
        ? parts.filter(Boolean).join(" \u00b7 ")
        : "`crossbreed dashboard` has ended: this is what it served last";
  fill(document.getElementById("state"), h("span", { class: `pill ${state}` }, state), text);
}

function pick(number, followsBest = false) {
  view.picked = number;
  view.followsBest = followsBest;
  for (const found of Object.values(charts)) found.mark(number);
  draw(["trial", "trials"]);
  if (head.live) askTrial();
}

async function askTrial() {
  const number = view.picked;
  if (number === null) return;
  if (!details.has(number)) {
    const found = await ask(`trial.json?number=${number}`);
    if (found) details.set(number, found);
    draw(["trial"]);
  }
  await askAnswers();
}

async function askAnswers() {
  const number = view.picked,
    splits = details.get(number)?.splits ?? [];
  const split = splits.includes(view.split) ? view.split : splits.includes("report") ? "report" : "search";
  const base = bestBaseline(),
    beside = view.beside ?? (base === null ? null : trials.number[base]);
  const wanted = [...new Set([number, beside])].filter(n => n !== null);
  const found = await ask(`answers.json?split=${split}&${wanted.map(n => `trial=${n}`).join("&")}`);
  if (found && number === view.picked) {
    view.answers = found;
    draw(["answers"]);
  }
}

async function ask(path) {
  try {
    const answer = await fetch(path, { cache: "no-store" });
    const found = await answer.json();
    isReached = true;
    problem = answer.ok ? "" : found.error;
    return answer.ok ? found : null;
  } catch {
    isReached = false;
    return null;
  }
}

let seen = "";

/** Asks for what is new, and again later: the longer an answer took, the later, so that watching slows no run. */
async function poll() {
  const began = performance.now();
  if (!document.hidden) {
    const before = [winner() ?? head.best, head.state].join();
    const data = await ask(`data.json?since=${head.told}`);
    const said = data && JSON.stringify(data);
    if (data && (said !== seen || data.trials.number.length)) {
      seen = said;
      take(data);
      draw(Object.keys(sections));
      if (view.followsBest && before !== [winner() ?? head.best, head.state].join()) askTrial();
    }
    drawState();
  }
  setTimeout(poll, Math.max(head.state === "running" ? 1500 : 4000, 10 * (performance.now() - began)));
}

function draw(ids) {
  drawState();
  for (const id of ids) {
    const place = document.getElementById(id);
    try {
      place.hidden = sections[id][1](place) === false;
    } catch (error) {
      place.hidden = false;
      fill(place, h("p", { class: "note" }, `${sections[id][0]} cannot be drawn: ${error.message}`));
    }
  }
  const shown = Object.entries(sections).filter(([id]) => !document.getElementById(id).hidden);
  const nav = document.getElementById("nav");
  if (nav.childElementCount !== shown.length)
    fill(
      nav,
      shown.map(([id, [name]]) => h("a", { href: `#${id}` }, name)),
    );
}

function start() {
  document.getElementById("main").append(...Object.keys(sections).map(id => h("section", { id })));
  take(first);
  view.answers = first.answers;
  draw(Object.keys(sections));
  const won = report()?.winner;
  const weights = won && `weights ${(won.fingerprint ?? "").slice(0, 16)} ${won.weights ?? ""}`;
  const facts = won
    ? [`trial ${won.number}`, `recipe ${won.recipe_id ?? ""}`, weights]
    : ["a read-only page of this machine"];
  document.getElementById("footer").textContent = ["crossbreed", ...facts].join(" \u00b7 ");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    Object.values(charts).forEach(found => found.draw()),
  );
  performance.mark("drawn");
  if (!head.live) return;
  askTrial();
  setTimeout(poll, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || drawState());
}

requestAnimationFrame(() => setTimeout(start)); // the name is painted before 10,000 trials are drawn
