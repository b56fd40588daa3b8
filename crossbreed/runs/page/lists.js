// The sections of all trials and of the run: trials, settings, log.

const COLUMNS = {
  number: at => trials.number[at],
  origin: at => originName(trials.origin[at]),
  seconds: at => trials.seconds[at],
};

function drawTrials(place) {
  if (!trials.number.length) return false;
  const columns = [
    ["number", "trial"],
    ["origin", "proposed by"],
    ...head.objectives.map((o, i) => [`o${i}`, o.name]),
    ...furtherTasks().map(i => [`t${i}`, head.tasks[i]]),
    ["seconds", "s"],
  ];
  const valueOf =
    COLUMNS[view.sort] ??
    (view.sort[0] === "o"
      ? at => trials.objectives[at]?.[Number(view.sort.slice(1))]
      : at => trials.tasks[at][Number(view.sort.slice(1))]);
  const kept = trials.number
    .map((_, at) => at)
    .filter(
      {
        all: () => true,
        bred: at => !isGiven(at),
        baseline: isGiven,
        front: at => head.frontSet.has(trials.number[at]),
        odd: at => trials.odd.has(trials.number[at]),
      }[view.kind],
    );
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
  const sortBy = key => {
    view.isDown = view.sort === key ? !view.isDown : key !== "origin";
    view.sort = key;
    view.trialsPage = 0;
    drawTrials(place);
  };
  const heads = columns.map(([key, name]) =>
    h(
      "th",
      { scope: "col", "aria-sort": view.sort === key ? (view.isDown ? "descending" : "ascending") : false },
      h(
        "button",
        { type: "button", "data-key": `sort-${key}`, click: () => sortBy(key) },
        `${name}${view.sort === key ? (view.isDown ? " \u2193" : " \u2191") : ""}`,
      ),
    ),
  );
  const lines = kept.slice(view.trialsPage * PAGE, (view.trialsPage + 1) * PAGE).map(at => {
    const number = trials.number[at],
      odd = trials.odd.get(number);
    return h(
      "tr",
      { "aria-current": number === view.picked ? "true" : false },
      h(
        "td",
        {},
        h(
          "button",
          {
            type: "button",
            "data-key": `pick-${number}`,
            "aria-label": `Show trial ${number}`,
            click: () => pick(number),
          },
          String(number),
        ),
      ),
      h(
        "td",
        {},
        originName(trials.origin[at]),
        number === winner() ? " \u2605" : head.frontSet.has(number) ? " \u2022" : "",
        odd && h("small", { class: "odd" }, odd.join(": ")),
        !keeps(at) && h("small", { class: "odd" }, `breaks ${trials.broken.get(number).join("; ")}`),
      ),
      head.objectives.map((_, i) => h("td", {}, fixed(trials.objectives[at]?.[i], 4))),
      furtherTasks().map(i => h("td", {}, fixed(trials.tasks[at][i]))),
      h("td", {}, trials.seconds[at].toFixed(1)),
    );
  });
  const kinds = [
    ["all", "all"],
    ["bred", "bred"],
    ["baseline", "given"],
    head.front.length && ["front", "front"],
    trials.odd.size && ["odd", "not OK"],
  ].filter(Boolean);
  fill(
    place,
    h("h2", {}, "All trials"),
    h(
      "div",
      { class: "controls" },
      choice("Which trials", "kind", kinds, view.kind, value => {
        view.kind = value;
        view.trialsPage = 0;
        drawTrials(place);
      }),
    ),
    table(heads, lines, { class: "trials", label: "Trials" }),
    pager("Trials", "trials", view.trialsPage, PAGE, kept.length, page => {
      view.trialsPage = page;
      drawTrials(place);
    }),
  );
  return true;
}

function drawSettings(place) {
  const rows = (found, label) =>
    table(
      [label, ""],
      Object.entries(found).map(([key, value]) => h("tr", {}, h("td", {}, key), h("td", {}, value))),
      { class: "settings", label },
    );
  const items = Object.fromEntries(
    Object.entries(head.items).map(([split, tasks]) => [
      `${split} items`,
      Object.entries(tasks)
        .map(([task, n]) => `${task} ${n}`)
        .join(", "),
    ]),
  );
  const isOpen = [...place.querySelectorAll("details")].map(found => found.open);
  fill(
    place,
    h("h2", {}, "Settings"),
    [
      ["Spec", { ...head.settings, ...items }],
      ["Sources, by the hash of their tensors", head.sources],
      ["Versions", head.versions],
    ].map(([name, found], i) =>
      h("details", { open: isOpen[i] ?? false }, h("summary", { "data-key": name }, name), rows(found, name)),
    ),
  );
  return true;
}

function drawLog(place) {
  if (!head.log.length) return false;
  const old = place.querySelector("pre"),
    isAtEnd = !old || old.scrollTop + old.clientHeight > old.scrollHeight - 8;
  if (!old) fill(place, h("h2", {}, "Log"), h("pre", { tabindex: 0, "aria-label": "The last lines of log.txt" }));
  const pre = place.querySelector("pre");
  pre.textContent = head.log.join("\n");
  if (isAtEnd) pre.scrollTop = pre.scrollHeight;
  return true;
}
