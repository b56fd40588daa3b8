// The first sections: the verdict, and the models that it is about.

function drawLead(place) {
  const found = report(),
    verdict = found?.verdict,
    at = head.best === null ? null : trials.at.get(head.best);
  const children = [];
  if (verdict)
    children.push(h("p", { class: `verdict ${verdict.kind}` }, verdict.line), h("p", { class: "why" }, verdict.why));
  else if (found)
    children.push(
      h("p", { class: "verdict" }, `Reported: trial ${found.winner.number} won, ${fixed(found.winner.mean)}.`),
      h("p", { class: "why" }, "By an older version: `crossbreed report` adds a verdict."),
    );
  else if (at === null || at === undefined) children.push(h("p", { class: "verdict" }, "Nothing measured yet."));
  else {
    const lead = {
      running: "Searching.",
      interrupted: "Interrupted: the same command goes on.",
      finished: "Searched, not reported yet.",
    }[head.state];
    const best = head.front.length
      ? `${count(head.front.length, "trial")} on the Pareto front.`
      : `Best so far: ${nameOf(head.best)}, ${fixed(trials.objectives[at][0])}.`;
    children.push(
      h("p", { class: "verdict" }, `${lead} ${best}`),
      h(
        "p",
        { class: "why" },
        "On search items, where the best of many is also the luckiest: the report measures on items of its own.",
      ),
    );
  }
  if (!found) children.push(...head.constraints.map(line => h("p", { class: "note" }, line)));
  children.push(h("dl", { class: "tiles" }, found ? reportTiles(found) : searchTiles(at)));
  if (head.state === "running" && head.wanted) {
    const bar = h("i");
    bar.style.width = `${Math.min(100, (100 * trials.number.length) / head.wanted)}%`;
    children.push(
      h(
        "div",
        {
          class: "progress",
          role: "progressbar",
          "aria-label": "Trials",
          "aria-valuemin": 0,
          "aria-valuemax": head.wanted,
          "aria-valuenow": trials.number.length,
        },
        bar,
      ),
    );
  }
  if (head.state === "running" && head.log.length)
    children.push(h("p", { class: "note" }, head.log[head.log.length - 1].replace(/^\S+Z\s+/, "")));
  fill(place, children);
}

const tile = (name, value, note) => h("div", {}, h("dt", {}, name), h("dd", {}, value, note && small(note)));
const judged = by => (!isNumber(by.low) ? "no interval is known" : by.low > 0 ? "better" : by.high < 0 ? "worse" : "not told apart");

function reportTiles(found) {
  const { winner: won, difference_to_best_baseline: best, difference_to_tuned_scalar: tuned, ideal } = found;
  const isAnother = by => by && !found.baselines.some(row => row.name === by.name && row.number === won.number);
  return [
    tile(`Winner, trial ${won.number}`, fixed(won.mean), bounds(won)),
    isAnother(best) &&
      tile(
        `Against ${rowName(best.name)}, the best without tuning`,
        signed(best.mean),
        `${judged(best)} ${bounds(best)}`,
      ),
    isAnother(tuned) && tile("Against the tuned scalar", signed(tuned.mean), `${judged(tuned)} ${bounds(tuned)}`),
    ideal && ideal.gap.mean >= 0 && tile("Gap to the ideal", fixed(ideal.gap.mean), bounds(ideal.gap)),
  ];
}

function searchTiles(at) {
  if (at === null || at === undefined) return [];
  const base = bestSearched(),
    { minimize } = head.objectives[0];
  const gain = base === null ? null : (trials.objectives[at][0] - trials.objectives[base][0]) * (minimize ? -1 : 1);
  const spent = Object.values(head.seconds).reduce((sum, s) => sum + s, 0);
  return [
    tile(
      `Best ${head.front.length ? `by ${head.objectives[0].name}` : "so far"}, ${nameOf(head.best)}`,
      fixed(trials.objectives[at][0]),
      "on search items",
    ),
    base !== null &&
      tile(`Against ${nameOf(trials.number[base])}, the best without tuning`, signed(gain), "on search items"),
    head.trial_s > 0 &&
      tile(
        "Seconds a trial",
        head.trial_s < 10 ? head.trial_s.toFixed(2) : head.trial_s.toFixed(0),
        Object.entries(head.seconds)
          .filter(([, s]) => s / spent > 0.02)
          .map(([phase, s]) => `${phase} ${Math.round((100 * s) / spent)} %`)
          .join(", "),
      ),
  ];
}

function drawModels(place) {
  const found = report();
  if (!found) return drawSearchModels(place);
  const tasks = Object.keys(found.winner.tasks),
    rows = [...found.baselines, found.winner];
  const low = Math.min(...rows.map(row => row.low ?? row.mean)),
    high = Math.max(...rows.map(row => row.high ?? row.mean));
  const cells = row => [
    h("td", {}, interval(row, low, high)),
    h("td", {}, fixed(row.mean), small(bounds(row))),
    tasks.map(task => h("td", {}, fixed(row.tasks[task]?.mean), small(bounds(row.tasks[task])))),
  ];
  const lines = rows.map(row =>
    h(
      "tr",
      { class: row === found.winner ? "winner" : "" },
      h("th", { scope: "row" }, rowName(row.name), small(`trial ${row.number}`)),
      cells(row),
    ),
  );
  if (found.ideal)
    lines.push(
      h("tr", { class: "ideal" }, h("th", { scope: "row" }, "ideal", small("best at every task")), cells(found.ideal)),
    );
  const notes = [...(found.caveats ?? []), ...(found.notes ?? [])];
  fill(
    place,
    h("h2", {}, "On the report items"),
    h("p", {}, found.measured ?? "Items that the search never used."),
    table(
      [
        "",
        "",
        found.scalar.name,
        ...tasks.map(task => h("th", { scope: "col" }, task, small(`n = ${found.winner.tasks[task].n}`))),
      ],
      lines,
      { label: "Models on the report items" },
    ),
    notes.length &&
      h(
        "ul",
        { class: "notes" },
        notes.map(note => h("li", {}, note)),
      ),
  );
}

function drawStages(place) {
  const rows = report()?.stages ?? head.stages;
  if (!rows.length) return false;
  const lines = rows.map(row =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, row.stage === null ? row.name : `${row.stage + 1} ${row.name}`),
      h("td", {}, String(row.trials)),
      h("td", {}, duration(row.seconds)),
      h("td", {}, fixed(row.search), row.best !== null && small(`trial ${row.best}`)),
      h("td", {}, fixed(row.select), row.finalist !== null && small(`trial ${row.finalist}`)),
      h("td", {}, fixed(row.report)),
      h("td", {}, isNumber(row.gap) ? signed(row.gap) : ""),
    ),
  );
  fill(
    place,
    h("h2", {}, "What each stage gave"),
    h("p", {}, STAGES_MEAN),
    table(["", "trials", "time", "best on search", "its finalist on select", "on report", "gap"], lines, {
      label: "Stages",
    }),
  );
}

const STAGES_MEAN =
  "The finalist is a stage's best on search and selection items together; the gap is how much better it is on search " +
  "items than on report items, or on selection items where it answered no others.";

function drawSearchModels(place) {
  const best = trials.at.get(head.best),
    shown = scored().filter(isGiven);
  if (!shown.length) return false;
  if (best !== undefined && !shown.includes(best)) shown.push(best);
  const lines = shown.map(at =>
    h(
      "tr",
      { class: at === best ? "winner" : "" },
      h(
        "th",
        { scope: "row" },
        isGiven(at) ? originName(trials.origin[at]) : "best so far",
        small(`trial ${trials.number[at]}`),
      ),
      head.objectives.map((_, i) => h("td", {}, fixed(trials.objectives[at][i]))),
      furtherTasks().map(i => h("td", {}, fixed(trials.tasks[at][i]))),
    ),
  );
  fill(
    place,
    h("h2", {}, "On the search items"),
    h("p", {}, "Baselines need no search; the report will measure them on items of their own."),
    table(["", ...head.objectives.map(o => o.name), ...furtherTasks().map(i => head.tasks[i])], lines, {
      label: "Models on the search items",
    }),
  );
  return true;
}

function interval(row, low, high) {
  const x = value => 4 + (136 * (value - low)) / (high - low || 1);
  const found = svg(
    "svg",
    { class: "interval", viewBox: "0 0 144 18", role: "img", "aria-label": `${fixed(row.mean)} ${bounds(row)}` },
    svg("line", { x1: x(row.low), x2: x(row.high), y1: 9, y2: 9 }),
    svg("circle", { cx: x(row.mean), cy: 9, r: 4 }),
  );
  return isNumber(row.low) && row.low >= low && row.high <= high ? found : "";
}
