// The sections of one trial: coefficients and answers.

function drawTrial(place) {
  const number = view.picked,
    at = trials.at.get(number);
  if (at === undefined) return false;
  const found = details.get(number),
    odd = trials.odd.get(number);
  const facts = [
    ["proposed by", originName(trials.origin[at])],
    odd && [odd[0], odd[1]],
    head.constraints.length && ["constraints", keeps(at) ? "kept" : `breaks ${trials.broken.get(number).join("; ")}`],
    ...head.objectives.map((o, i) => [o.name, fixed(trials.objectives[at]?.[i], 4)]),
    found?.recipe && ["recipe", found.recipe],
    found?.fingerprint && ["weights", found.fingerprint],
    found && [
      "cost",
      `${count(found.items, "item")}, ${count(found.tokens, "token")}, ${trials.seconds[at].toFixed(1)} s`,
    ],
  ];
  fill(
    place,
    h(
      "h2",
      {},
      `${number === winner() ? "The winner" : number === head.best ? "The best so far" : "Picked"}: trial ${number}`,
    ),
    h(
      "dl",
      { class: "facts" },
      facts.filter(fact => fact && fact[1]).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
    found
      ? coefficients(found.table)
      : h("p", {}, `Its recipe is in the journal: crossbreed show RUN --trial ${number}`),
    typeof head.publish === "string" && trials.objectives[at] && found?.recipe && publishing(number),
    !view.followsBest &&
      h(
        "p",
        {},
        h(
          "button",
          { type: "button", "data-key": "back", click: () => pick(winner() ?? head.best, true) },
          winner() === null ? "Back to the best so far" : "Back to the winner",
        ),
      ),
  );
  return true;
}

/** The command that publishes a trial, with a button that copies it. */
function publishing(number) {
  const which = number === winner() ? "" : ` --trial ${number}`;
  const command = `crossbreed publish ${quoted(folderOfRun())}${which}${head.publish} --out MODEL`;
  const copy = event =>
    navigator.clipboard.writeText(command).then(
      () => (event.target.textContent = "Copied"),
      () => getSelection().selectAllChildren(event.target.previousElementSibling),
    );
  return h("p", { class: "command" }, h("code", {}, command), h("button", { type: "button", "data-key": "copy", click: copy }, "Copy"));
}

/** The run's folder: of a live page as the driver's machine has it, of a file where the reader keeps it. */
const folderOfRun = () =>
  head.folder ?? (location.protocol === "file:" ? decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "") : "RUN");

const quoted = path => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);

function coefficients(found) {
  if (!found || !found.groups.length) return h("p", {}, "No coefficients: these are the base's own weights.");
  const params = Object.entries(found.values),
    settings = Object.entries(found.settings);
  const areAlike = new Set(found.operators).size === 1;
  const most = Object.fromEntries(
    params.map(([param, rows]) => [param, Math.max(...rows.flat().map(value => Math.abs(value ?? 0)), 1e-9)]),
  );
  const heads = [
    "",
    !areAlike && "operator",
    ...params.flatMap(([param]) => found.sources.map(source => h("th", { scope: "col" }, source, small(param)))),
    ...settings.map(([param]) => param),
  ];
  const lines = found.groups.map((group, i) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, group),
      !areAlike && h("td", {}, found.operators[i]),
      params.flatMap(([param, rows]) => rows[i].map(value => heatCell(value, most[param]))),
      settings.map(([, column]) => h("td", {}, settingText(column[i]))),
    ),
  );
  const box = table(
    heads.filter(Boolean).length === heads.length ? heads : ["", ...heads.slice(1).filter(Boolean)],
    lines,
    { class: "heat", label: "Coefficients by group of tensors" },
  );
  if (found.groups.length > 14) box.classList.add("tall");
  return h("div", {}, h("h3", {}, `Coefficients by layer${areAlike ? `, ${found.operators[0]}` : ""}`), box);
}

const settingText = value =>
  value === null ? "" : typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);

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
  const marks = (right, value) =>
    right === null ? ["", fixed(value)] : right ? ["right", "\u2713"] : ["wrong", "\u2717"];
  const only = { all: () => true, differ: row => new Set(row.values).size > 1, wrong: row => row.right[0] !== true };
  const chosen = found.trials.length < 2 && view.only === "differ" ? "all" : view.only;
  const tasks = [...new Set(found.rows.map(row => row.task))];
  const rows = found.rows.filter(row => only[chosen](row) && (!view.task || row.task === view.task));
  view.answersPage = Math.min(view.answersPage, Math.max(0, Math.ceil(rows.length / PAGE) - 1));
  const set = (key, value) => {
    view[key] = value;
    view.answersPage = 0;
    drawAnswers(place);
  };
  const lines = rows.slice(view.answersPage * PAGE, (view.answersPage + 1) * PAGE).map(row =>
    h(
      "tr",
      {},
      h("td", {}, row.task, small(row.id)),
      h("td", {}, said(row.question, "not at hand")),
      h("td", {}, said(row.gold, "")),
      row.answers.map((answer, i) => {
        const [name, mark] = marks(row.right[i], row.values[i]);
        return h(
          "td",
          { class: name },
          h(
            "div",
            { class: "judged" },
            h("span", { class: "mark", role: "img", title: name, "aria-label": name }, mark),
            said(answer, "no text"),
          ),
        );
      }),
    ),
  );
  const splits = details.get(view.picked)?.splits ?? [];
  const who = found.trials.map(nameOf).join(" beside ");
  const rest = found.left_out ? `; ${count(found.left_out, "more item")} are left out of this file` : "";
  fill(
    place,
    h("h2", {}, "Answers"),
    h("p", {}, `${found.split[0].toUpperCase()}${found.split.slice(1)} items, ${who}${rest}.`),
    h(
      "div",
      { class: "controls" },
      choice(
        "Which answers",
        "only",
        [
          ["differ", "they differ"],
          ["wrong", "wrong"],
          ["all", "all"],
        ],
        chosen,
        value => set("only", value),
      ),
      tasks.length > 1 &&
        select("Task", "task", [["", "all"], ...tasks.map(task => [task, task])], view.task, value =>
          set("task", value),
        ),
      head.live &&
        splits.length > 1 &&
        select(
          "Items",
          "split",
          splits.map(split => [split, split]),
          found.split,
          value => {
            view.split = value;
            askAnswers();
          },
        ),
      head.live &&
        select("Beside", "beside", besideOptions(), view.beside ?? "", value => {
          view.beside = value === "" ? null : Number(value);
          askAnswers();
        }),
    ),
    rows.length
      ? table(["task", "question", "gold", ...found.trials.map(nameOf)], lines, { class: "answers", label: "Answers" })
      : h("p", { class: "empty" }, "None."),
    rows.length > PAGE &&
      pager("Answers", "answers", view.answersPage, PAGE, rows.length, page => {
        view.answersPage = page;
        drawAnswers(place);
      }),
  );
  return true;
}

const said = (text, otherwise) =>
  text === null || text === undefined ? h("span", { class: "empty" }, otherwise) : h("span", { class: "said" }, text);

function besideOptions() {
  const base = bestBaseline();
  const others = scored()
    .filter(at => isGiven(at))
    .map(at => [trials.number[at], originName(trials.origin[at])]);
  return [["", base === null ? "nothing" : `the best baseline, ${nameOf(trials.number[base])}`], ...others];
}
