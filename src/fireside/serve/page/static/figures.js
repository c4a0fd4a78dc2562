/** What happened and why it took so long: figures of a request, and the time before its first sound by stage. */

import { t } from "./strings.js";

const STAGES = ["queue", "front_end", "lm_prefill", "lm_decode", "flow", "vocoder", "waiting", "encode", "write"];

/** Show figures: [key, text] pairs. */
export function showFigures(list, figures) {
  list.replaceChildren(
    ...figures.flatMap(([key, text]) => {
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = t(key);
      value.textContent = text;
      const pair = document.createElement("div");
      pair.append(term, value);
      return pair;
    }),
  );
}

/** Show what the server remarks on a recording, in its own words. */
export function showNotes(list, notes) {
  list.hidden = !notes.length;
  list.replaceChildren(
    ...notes.map((note) => {
      const item = document.createElement("li");
      item.textContent = note;
      return item;
    }),
  );
}

/** Show the milliseconds of every stage as a bar and as a list. */
export function showStages(bar, list, split) {
  const stages = STAGES.filter((stage) => split[stage] > 0);
  bar.replaceChildren(
    ...stages.map((stage) => {
      const part = document.createElement("span");
      part.className = classOf(stage);
      part.style.flexGrow = split[stage];
      return part;
    }),
  );
  list.replaceChildren(
    ...stages.map((stage) => {
      const [item, swatch, name, value] = ["li", "span", "span", "span"].map((tag) => document.createElement(tag));
      swatch.className = `swatch ${classOf(stage)}`;
      name.textContent = t(stage);
      value.textContent = milliseconds(split[stage]);
      item.append(swatch, name, value);
      return item;
    }),
  );
}

/** A time in ms, as finely as it matters. */
export function milliseconds(value) {
  return t("milliseconds", { n: value < 10 ? value.toFixed(1) : Math.round(value) });
}

function classOf(stage) {
  return `stage-${STAGES.indexOf(stage) + 1}`;
}
