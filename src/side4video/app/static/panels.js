// What is in the tabs of a video: classes, timeline, what mattered, search within.

import { askJson, clock, el, percent, sentence } from "./dom.js";

const WINDOWS = [0.5, 1, 2, 4, 8, 16];
const COLOURS = 10;

export function drawClasses(runs) {
  return runs.map(({ run, predictions }) =>
    el(
      "section",
      { class: "run", "aria-label": run },
      runs.length > 1 ? el("h3", {}, run) : null,
      el("ol", { class: "bars" }, ...predictions.map(({ label, score }) => bar(label, score))),
    ),
  );
}

function bar(label, score, text = percent(score)) {
  const fill = el("div", { class: "fill" });
  fill.style.width = `${Math.max(0.5, 100 * score)}%`;
  return el(
    "li",
    {},
    el("span", { class: "label" }, label),
    el("span", { class: "value" }, text),
    el("div", { class: "track", "aria-hidden": "true" }, fill),
  );
}

// -- timeline

export function drawTimeline(value, viewer, busy) {
  const choice = el(
    "select",
    {
      id: "window",
      disabled: busy,
      onchange: (event) =>
        viewer.onChange("timeline", { window_seconds: Number(event.target.value) }, event.target),
    },
    ...windowChoices(value.window_seconds),
  );
  return [
    el("div", { class: "row-form" }, el("label", { for: "window" }, "A window lasts"), choice),
    ...value.runs.map((run, number) => timelineOfRun(run, value.runs.length > 1, number, viewer)),
    thumbnails(value.thumbnails, viewer),
  ];
}

function windowChoices(current) {
  const all = [...new Set([...WINDOWS, current])].sort((a, b) => a - b);
  return all.map((seconds) =>
    el("option", { value: seconds, selected: seconds === current }, `${Number(seconds.toFixed(2))} s`),
  );
}

function timelineOfRun({ run, seconds, labels, colours, segments, times, curves }, isNamed, number, viewer) {
  const colour = (label) => `c${colours[labels.indexOf(label)] % COLOURS}`;
  const position = (time) => `${(100 * Math.min(1, Math.max(0, time / seconds))).toFixed(3)}%`;
  const strip = el("div", { class: "strip" });
  for (const segment of segments) {
    const button = el(
      "button",
      {
        type: "button",
        class: `segment ${colour(segment.label)}`,
        title: describe(segment),
        "aria-label": `${describe(segment)}: play from here`,
        onclick: () => viewer.seek(segment.start),
      },
      el("span", {}, segment.label),
    );
    button.style.left = position(segment.start);
    button.style.width = position(segment.end - segment.start);
    strip.append(button);
  }
  const cursor = el("div", { class: "cursor", "aria-hidden": "true" });
  viewer.follow((now) => (cursor.style.left = position(now)));
  strip.append(cursor);
  strip.addEventListener("click", (event) => {
    if (event.target !== strip) return;
    const box = strip.getBoundingClientRect();
    viewer.seek((seconds * (event.clientX - box.left)) / box.width);
  });
  return el(
    "section",
    { class: "run", "aria-label": `Timeline, ${run}` },
    isNamed ? el("h3", {}, run) : null,
    strip,
    el("div", { class: "ends" }, el("span", {}, clock(0)), el("span", {}, clock(seconds))),
    plot(times, curves, colours, seconds),
    el(
      "ul",
      { class: "legend" },
      ...labels.map((label) => el("li", {}, el("span", { class: `dot ${colour(label)}`, "aria-hidden": "true" }), label)),
    ),
    segments.length
      ? table(segments, colour, viewer)
      : el("p", { class: "hint" }, "No class is likelier than one half for long enough. A longer window may help."),
  );
}

const describe = ({ label, start, end, score }) => `${label}, ${clock(start)} to ${clock(end)}, ${percent(score)}`;

function plot(times, curves, colours, seconds) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 1000 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "curves");
  svg.setAttribute("aria-hidden", "true");
  curves.forEach((values, place) => {
    const line = document.createElementNS(ns, "polyline");
    const points = values.map((value, i) => `${(1000 * times[i]) / seconds},${98 - 96 * value}`);
    // the last frame lasts to the end
    if (values.length) points.push(`1000,${98 - 96 * values[values.length - 1]}`);
    line.setAttribute("points", points.join(" "));
    line.setAttribute("class", `line c${colours[place] % COLOURS}`);
    svg.append(line);
  });
  return svg;
}

function table(segments, colour, viewer) {
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...["When", "What", "Score"].map((text) => el("th", { scope: "col" }, text)))),
      el(
        "tbody",
        {},
        ...segments.map((segment) =>
          el(
            "tr",
            {},
            el(
              "td",
              {},
              el(
                "button",
                { type: "button", class: "link", onclick: () => viewer.seek(segment.start, segment.end) },
                `▶ ${clock(segment.start)} – ${clock(segment.end)}`,
              ),
            ),
            el("td", {}, el("span", { class: `dot ${colour(segment.label)}`, "aria-hidden": "true" }), segment.label),
            el("td", { class: "value" }, percent(segment.score)),
          ),
        ),
      ),
    ),
  );
}

function thumbnails(pictures, viewer) {
  return el(
    "div",
    { class: "film", role: "group", "aria-label": "Pictures of the video" },
    ...pictures.map(({ seconds, picture }) =>
      el(
        "button",
        { type: "button", title: clock(seconds), "aria-label": `Go to ${clock(seconds)}`, onclick: () => viewer.seek(seconds) },
        el("img", { src: `/api/videos/${viewer.id}/pictures/${picture}`, alt: "", loading: "lazy" }),
        el("span", { class: "time" }, clock(seconds)),
      ),
    ),
  );
}

// -- what mattered

export function drawExplain(runs, viewer, busy) {
  const hint =
    "Bright places spoke for the class; grey ones did not matter. The darkest rim is not looked at. " +
    "The bars say how much of it each moment holds.";
  return [
    el("p", { class: "hint" }, hint),
    ...runs.map((value, number) => explainOfRun(value, runs.length > 1, number, viewer, busy)),
  ];
}

function explainOfRun({ run, label, score, frames, taps }, isNamed, number, viewer, busy) {
  const classes = viewer.server.runs.find((known) => known.name === run)?.classes ?? [label];
  const most = Math.max(...frames.map((frame) => frame.share), 1e-9);
  const choice = el(
    "select",
    {
      id: `class-${number}`,
      disabled: busy,
      onchange: (event) => viewer.onChange("explain", { run, label: event.target.value }, event.target),
    },
    ...classes.map((name) => el("option", { value: name, selected: name === label }, name)),
  );
  return el(
    "section",
    { class: "run", "aria-label": `What mattered, ${run}` },
    isNamed ? el("h3", {}, run) : null,
    el(
      "div",
      { class: "row-form" },
      el("label", { for: `class-${number}` }, "What spoke for"),
      choice,
      el("span", { class: "hint" }, `${percent(score)} in these frames`),
    ),
    el(
      "div",
      { class: "film large", role: "group", "aria-label": `Frames and what mattered in them, ${run}` },
      ...frames.map(({ seconds, share, picture }) => {
        const fill = el("span", { class: "level-fill" });
        fill.style.height = `${Math.max(2, (100 * share) / most)}%`;
        return el(
          "button",
          {
            type: "button",
            "aria-label": `${clock(seconds)}, ${percent(share)} of what mattered: go there`,
            onclick: () => viewer.seek(seconds),
          },
          el("span", { class: "level", "aria-hidden": "true" }, fill),
          el("img", { src: `/api/videos/${viewer.id}/pictures/${picture}`, alt: "" }),
          el("span", { class: "time" }, `${clock(seconds)} · ${Math.round(100 * share)} %`),
        );
      }),
    ),
    el(
      "details",
      {},
      el("summary", {}, "Which depths of the image model it came from"),
      el("ol", { class: "bars small" }, ...taps.map(({ name, share }) => bar(name, share))),
    ),
  );
}

// -- search within

export function drawFind(_value, viewer) {
  const found = el("div", { "aria-live": "polite" });
  const field = el("input", { type: "search", id: "find-text", maxlength: 500, required: true, autocomplete: "off" });
  const button = el("button", { type: "submit", class: "primary" }, "Find");
  const form = el(
    "form",
    {
      class: "search-form",
      onsubmit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        try {
          const { moments } = await askJson(`/api/videos/${viewer.id}/search`, { text: field.value });
          found.replaceChildren(momentList(moments, viewer));
        } catch (error) {
          found.replaceChildren(el("p", { class: "error", role: "alert" }, sentence(error.message)));
        }
        button.disabled = false;
      },
    },
    el("label", { for: "find-text" }, "What happens in it?"),
    el("div", { class: "field" }, field, button),
  );
  return [form, found];
}

function momentList(moments, viewer) {
  return el(
    "ol",
    { class: "moments" },
    ...moments.map(({ start, end, score }) =>
      el(
        "li",
        {},
        el(
          "button",
          { type: "button", onclick: () => viewer.seek(start, end) },
          `▶ ${clock(start)} – ${clock(end)}`,
          el("span", { class: "hint" }, ` score ${score.toFixed(3)}`),
        ),
      ),
    ),
  );
}
