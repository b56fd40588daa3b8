// The sections of one trial, of all of them, and of the run; then the start.

function drawTrial(place) {
  const number = view.picked, at = trials.at.get(number);
  if (at === undefined) return false;
  const found = details.get(number), odd = trials.odd.get(number);
  const facts = [
    ["proposed by", originName(trials.origin[at])], odd && [odd[0], odd[1]],
    ...head.objectives.map((o, i) => [o.name, fixed(trials.objectives[at]?.[i], 4)]), found?.recipe && ["recipe", found.recipe],
    found?.fingerprint && ["weights", found.fingerprint],
    found && ["cost", `${count(found.items, "item")}, ${count(found.tokens, "token")}, ${trials.seconds[at].toFixed(1)} s`],
  ];
  fill(place, h("h2", {}, `${number === winner() ? "The winner" : number === head.best ? "The best so far" : "Picked"}: trial ${number}`),
    h("dl", { class: "facts" }, facts.filter(fact => fact && fact[1]).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    found ? coefficients(found.table) : h("p", {}, `Its recipe is in the journal: crossbreed show RUN --trial ${number}`),
    !view.followsBest && h("p", {}, h("button", { type: "button", "data-key": "back", click: () => pick(winner() ?? head.best, true) }, winner() === null ? "Back to the best so far" : "Back to the winner")));
  return true;
}

function coefficients(found) {
  if (!found || !found.groups.length) return h("p", {}, "No coefficients: these are the base's own weights.");
  const params = Object.entries(found.values), settings = Object.entries(found.settings);
  const areAlike = new Set(found.operators).size === 1;
  const most = Object.fromEntries(params.map(([param, rows]) => [param, Math.max(...rows.flat().map(value => Math.abs(value ?? 0)), 1e-9)]));
  const heads = ["", !areAlike && "operator", ...params.flatMap(([param]) => found.sources.map(source => h("th", { scope: "col" }, source, small(param)))), ...settings.map(([param]) => param)];
  const lines = found.groups.map((group, i) =>
    h("tr", {}, h("th", { scope: "row" }, group), !areAlike && h("td", {}, found.operators[i]),
      params.flatMap(([param, rows]) => rows[i].map(value => heatCell(value, most[param]))), settings.map(([, column]) => h("td", {}, settingText(column[i])))));
  const box = table(heads.filter(Boolean).length === heads.length ? heads : ["", ...heads.slice(1).filter(Boolean)], lines, { class: "heat", label: "Coefficients by group of tensors" });
  if (found.groups.length > 14) box.classList.add("tall");
  return h("div", {}, h("h3", {}, `Coefficients by layer${areAlike ? `, ${found.operators[0]}` : ""}`), box);
}

const settingText = value => (value === null ? "" : typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));

function heatCell(value, most) {
  if (value === null) return h("td", {}, "");
  const cell = h("td", { class: "cell" }, fixed(value));
  cell.style.setProperty("--tone", `var(--${value < 0 ? "minus" : "plus"})`);
  cell.style.setProperty("--share", `${Math.round((62 * Math.abs(value)) / most)}%`);
  return cell;
}

function drawAnswers(place) {
  const found = view.answers;
  if (!found || (!head.live && !found.rows.length)) return false;
  const marks = (right, value) => (right === null ? ["", fixed(value)] : right ? ["right", "\u2713"] : ["wrong", "\u2717"]);
  const only = { all: () => true, differ: row => new Set(row.values).size > 1, wrong: row => row.right[0] !== true };
  const chosen = found.trials.length < 2 && view.only === "differ" ? "all" : view.only;
  const tasks = [...new Set(found.rows.map(row => row.task))];
  const rows = found.rows.filter(row => only[chosen](row) && (!view.task || row.task === view.task));
  view.answersPage = Math.min(view.answersPage, Math.max(0, Math.ceil(rows.length / PAGE) - 1));
  const set = (key, value) => { view[key] = value; view.answersPage = 0; drawAnswers(place); };
  const lines = rows.slice(view.answersPage * PAGE, (view.answersPage + 1) * PAGE).map(row =>
    h("tr", {}, h("td", {}, row.task, small(row.id)), h("td", {}, said(row.question, "not at hand")), h("td", {}, said(row.gold, "")),
      row.answers.map((answer, i) => {
        const [name, mark] = marks(row.right[i], row.values[i]);
        return h("td", { class: name }, h("div", { class: "judged" }, h("span", { class: "mark", role: "img", title: name, "aria-label": name }, mark), said(answer, "no text")));
      })));
  const splits = details.get(view.picked)?.splits ?? [];
  fill(place, h("h2", {}, "Answers"),
    h("p", {}, `${found.split[0].toUpperCase()}${found.split.slice(1)} items, ${found.trials.map(nameOf).join(" beside ")}${found.left_out ? `; ${found.left_out} more were answered alike or are left out of this file` : ""}.`),
    h("div", { class: "controls" },
      choice("Which answers", "only", [["differ", "they differ"], ["wrong", "wrong"], ["all", "all"]], chosen, value => set("only", value)),
      tasks.length > 1 && select("Task", "task", [["", "all"], ...tasks.map(task => [task, task])], view.task, value => set("task", value)),
      head.live && splits.length > 1 && select("Items", "split", splits.map(split => [split, split]), found.split, value => { view.split = value; askAnswers(); }),
      head.live && select("Beside", "beside", besideOptions(), view.beside ?? "", value => { view.beside = value === "" ? null : Number(value); askAnswers(); })),
    rows.length ? table(["task", "question", "gold", ...found.trials.map(nameOf)], lines, { class: "answers", label: "Answers" }) : h("p", { class: "empty" }, "None."),
    rows.length > PAGE && pager("Answers", "answers", view.answersPage, PAGE, rows.length, page => { view.answersPage = page; drawAnswers(place); }));
  return true;
}

const said = (text, otherwise) => (text === null || text === undefined ? h("span", { class: "empty" }, otherwise) : h("span", { class: "said" }, text));

function besideOptions() {
  const base = bestBaseline();
  const others = scored().filter(at => isBaseline(at)).map(at => [trials.number[at], originName(trials.origin[at])]);
  return [["", base === null ? "nothing" : `the best baseline, ${nameOf(trials.number[base])}`], ...others];
}

const COLUMNS = {
  number: at => trials.number[at],
  origin: at => originName(trials.origin[at]),
  seconds: at => trials.seconds[at],
};

function drawTrials(place) {
  if (!trials.number.length) return false;
  const columns = [["number", "trial"], ["origin", "proposed by"], ...head.objectives.map((o, i) => [`o${i}`, o.name]), ...head.tasks.map((task, i) => [`t${i}`, task]), ["seconds", "s"]];
  const valueOf = COLUMNS[view.sort] ?? (view.sort[0] === "o" ? at => trials.objectives[at]?.[Number(view.sort.slice(1))] : at => trials.tasks[at][Number(view.sort.slice(1))]);
  const kept = trials.number.map((_, at) => at).filter({
    all: () => true, bred: at => !isBaseline(at), baseline: isBaseline, front: at => head.frontSet.has(trials.number[at]), odd: at => trials.odd.has(trials.number[at]),
  }[view.kind]);
  const sign = view.isDown ? -1 : 1;
  const compared = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x === y) return trials.number[a] - trials.number[b];
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : 1) * sign;
  };
  kept.sort(compared);
  view.trialsPage = Math.min(view.trialsPage, Math.max(0, Math.ceil(kept.length / PAGE) - 1));
  const sortBy = key => { view.isDown = view.sort === key ? !view.isDown : key !== "origin"; view.sort = key; view.trialsPage = 0; drawTrials(place); };
  const heads = columns.map(([key, name]) =>
    h("th", { scope: "col", "aria-sort": view.sort === key ? (view.isDown ? "descending" : "ascending") : false },
      h("button", { type: "button", "data-key": `sort-${key}`, click: () => sortBy(key) }, `${name}${view.sort === key ? (view.isDown ? " \u2193" : " \u2191") : ""}`)));
  const lines = kept.slice(view.trialsPage * PAGE, (view.trialsPage + 1) * PAGE).map(at => {
    const number = trials.number[at], odd = trials.odd.get(number);
    return h("tr", { "aria-current": number === view.picked ? "true" : false },
      h("td", {}, h("button", { type: "button", "data-key": `pick-${number}`, "aria-label": `Show trial ${number}`, click: () => pick(number) }, String(number))),
      h("td", {}, originName(trials.origin[at]), number === winner() ? " \u2605" : head.frontSet.has(number) ? " \u2022" : "", odd && h("small", { class: "odd" }, odd.join(": "))),
      head.objectives.map((_, i) => h("td", {}, fixed(trials.objectives[at]?.[i], 4))), trials.tasks[at].map(value => h("td", {}, fixed(value))), h("td", {}, trials.seconds[at].toFixed(1)));
  });
  const kinds = [["all", "all"], ["bred", "bred"], ["baseline", "given"], head.front.length && ["front", "front"], trials.odd.size && ["odd", "not OK"]].filter(Boolean);
  fill(place, h("h2", {}, "All trials"),
    h("div", { class: "controls" }, choice("Which trials", "kind", kinds, view.kind, value => { view.kind = value; view.trialsPage = 0; drawTrials(place); })),
    table(heads, lines, { class: "trials", label: "Trials" }),
    pager("Trials", "trials", view.trialsPage, PAGE, kept.length, page => { view.trialsPage = page; drawTrials(place); }));
  return true;
}

function drawSettings(place) {
  const rows = (found, label) => table([label, ""], Object.entries(found).map(([key, value]) => h("tr", {}, h("td", {}, key), h("td", {}, value))), { class: "settings", label });
  const items = Object.fromEntries(Object.entries(head.items).map(([split, tasks]) => [`${split} items`, Object.entries(tasks).map(([task, n]) => `${task} ${n}`).join(", ")]));
  const isOpen = [...place.querySelectorAll("details")].map(found => found.open);
  fill(place, h("h2", {}, "Settings"),
    [["Spec", { ...head.settings, ...items }], ["Sources, by the hash of their tensors", head.sources], ["Versions", head.versions]].map(([name, found], i) =>
      h("details", { open: isOpen[i] ?? false }, h("summary", { "data-key": name }, name), rows(found, name))));
  return true;
}

function drawLog(place) {
  if (!head.log.length) return false;
  const old = place.querySelector("pre"), isAtEnd = !old || old.scrollTop + old.clientHeight > old.scrollHeight - 8;
  if (!old) fill(place, h("h2", {}, "Log"), h("pre", { tabindex: 0, "aria-label": "The last lines of log.txt" }));
  const pre = place.querySelector("pre");
  pre.textContent = head.log.join("\n");
  if (isAtEnd) pre.scrollTop = pre.scrollHeight;
  return true;
}

// ---- picking a trial, asking for more

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
  const number = view.picked, splits = details.get(number)?.splits ?? [];
  const split = splits.includes(view.split) ? view.split : splits.includes("report") ? "report" : "search";
  const base = bestBaseline(), beside = view.beside ?? (base === null ? null : trials.number[base]);
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

async function poll() {
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
  setTimeout(poll, head.state === "running" ? 1500 : 4000);
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
  if (nav.childElementCount !== shown.length) fill(nav, shown.map(([id, [name]]) => h("a", { href: `#${id}` }, name)));
}

function start() {
  document.getElementById("main").append(...Object.keys(sections).map(id => h("section", { id })));
  take(first);
  view.answers = first.answers;
  draw(Object.keys(sections));
  const won = report()?.winner;
  document.getElementById("footer").textContent = won
    ? `crossbreed \u00b7 trial ${won.number} \u00b7 recipe ${won.recipe_id ?? ""} \u00b7 weights ${(won.fingerprint ?? "").slice(0, 16)} ${won.weights ?? ""}`
    : "crossbreed \u00b7 a read-only page of this machine";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.values(charts).forEach(found => found.draw()));
  performance.mark("drawn");
  if (!head.live) return;
  askTrial();
  setTimeout(poll, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || drawState());
}

start();
