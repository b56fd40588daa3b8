// Elements, numbers and names. Every text goes through textContent: nothing in the data is ever markup.

/** Returns an element; attributes that are functions listen, children are elements or texts. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Replaces what an element holds, unless it holds the same: what is read, selected or opened is left alone. Otherwise
 * focus and scrolling stay on what has the same data-key.
 */
function fill(element, ...children) {
  const wanted = children
    .flat(Infinity)
    .filter(Boolean)
    .map(child => (child instanceof Node ? child : document.createTextNode(child)));
  const held = element.childNodes;
  if (wanted.length === held.length && wanted.every((child, i) => child.isEqualNode(held[i]))) return;
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.key;
  const keyed = key => element.querySelector(`[data-key="${CSS.escape(key)}"]`);
  const scrolled = [...element.querySelectorAll("[data-key]")]
    .filter(found => found.scrollLeft || found.scrollTop)
    .map(found => [found.dataset.key, { left: found.scrollLeft, top: found.scrollTop }]);
  element.replaceChildren(...wanted);
  for (const [key, place] of scrolled) keyed(key)?.scrollTo(place);
  if (focused) keyed(focused)?.focus({ preventScroll: true });
}

const isNumber = value => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits = 3) =>
  !isNumber(value)
    ? ""
    : Math.abs(value) < 10
      ? value.toFixed(digits).replace(/^-(?=0\.0*$)/, "")
      : Number(value.toPrecision(4)).toString();
const signed = value => (value > 0 ? "+" : "") + fixed(value).replace("-", "\u2212");
const bounds = found =>
  isNumber(found?.low) && isNumber(found?.high) ? `[${fixed(found.low)}, ${fixed(found.high)}]` : "";
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Returns a time as the terminal shows it: 1:01, 2:02:05. */
function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = value => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Returns the name of what proposed a trial, without the words of the journal. */
function originName(origin) {
  const [first, kind, ...rest] = origin.split(":");
  if (first !== "baseline") return origin.replace("warm_start:", "warm start ").replace(/^made:/, "");
  if (kind === "expert") return rest.join(":");
  return [kind, ...rest].join(" ").replace("tuned_scalar", "tuned scalar");
}

const rowName = name => (name === "tuned_scalar" ? "tuned scalar" : name);

/** Returns a table; cells are texts or elements. */
function table(heads, rows, attributes = {}) {
  return h(
    "div",
    {
      class: "scroll",
      tabindex: 0,
      role: "region",
      "aria-label": attributes.label,
      "data-key": `table-${attributes.label}`,
    },
    h(
      "table",
      { class: attributes.class },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map(head => (head instanceof Element ? head : h("th", { scope: "col" }, head))),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
}

const small = text => h("small", {}, text);

function select(label, key, options, chosen, change) {
  return h(
    "label",
    { class: "pick" },
    `${label} `,
    h(
      "select",
      { "data-key": key, change: event => change(event.target.value) },
      options.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)),
    ),
  );
}

/** Returns buttons of which one is pressed. */
function choice(label, key, options, chosen, change) {
  return h(
    "span",
    { class: "choice", role: "group", "aria-label": label },
    options.map(([value, text]) =>
      h(
        "button",
        {
          type: "button",
          "data-key": `${key}-${value}`,
          "aria-pressed": String(value === chosen),
          click: () => change(value),
        },
        text,
      ),
    ),
  );
}

/** Returns buttons to go through pages of a list. */
function pager(label, key, page, size, total, go) {
  const last = Math.max(0, Math.ceil(total / size) - 1);
  const button = (name, text, target, isOff) =>
    h(
      "button",
      {
        type: "button",
        "data-key": `${key}-${name}`,
        disabled: isOff,
        "aria-label": `${label}: ${name}`,
        click: () => go(target),
      },
      text,
    );
  const text = number => number.toLocaleString("en");
  const end = Math.min(total, (page + 1) * size);
  return h(
    "p",
    { class: "pager" },
    button("first page", "\u00ab", 0, page === 0),
    button("previous page", "\u2039", page - 1, page === 0),
    h("span", {}, total ? `${text(page * size + 1)}\u2013${text(end)} of ${text(total)}` : "none"),
    button("next page", "\u203a", page + 1, page >= last),
    button("last page", "\u00bb", last, page >= last),
  );
}
