// One video: the player, how far the server is with it, and what it found, in tabs.

import { clock, el, percent, sentence } from "./dom.js";

export class Viewer {
  constructor(root) {
    this.root = root;
    this.id = null;
  }

  show(video, server) {
    if (this.id !== video.id) this.begin(video, server);
    this.video = video;
    this.drawHead();
    this.drawScreen();
    this.drawStatus();
    this.drawTabs();
  }

  begin(video, server) {
    this.id = video.id;
    this.server = server;
    this.tab = "classes";
    this.drawn = new Map();
    this.head = el("div", { class: "viewer-head" });
    this.screen = el("div", { class: "screen" });
    this.status = el("div", { class: "status", role: "status" });
    this.tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "What was found" });
    this.panel = el("div", { class: "panel", role: "tabpanel", tabindex: 0 });
    this.player = null;
    this.root.replaceChildren(this.head, this.screen, this.status, this.tabs, this.panel);
  }

  drawHead() {
    const { name, info } = this.video;
    const text = `${clock(info.seconds || 0)} · ${info.width}×${info.height} · ${info.frames} frames`;
    this.replaceIfNew("head", [name, text], this.head, () => [el("h2", {}, name), el("p", { class: "hint" }, text)]);
  }

  drawScreen() {
    const ready = this.video.results.playback;
    const problem = this.video.problems.playback;
    const kind = ready ? "video" : problem || "waiting";
    this.replaceIfNew("screen", kind, this.screen, () => {
      if (!ready) return [el("p", {}, problem ? sentence(problem) : "The player comes when the video is ready for it.")];
      this.player = el("video", {
        controls: true,
        preload: "metadata",
        playsinline: true,
        muted: true,
        src: `/api/videos/${this.id}/media`,
        "aria-label": this.video.name,
      });
      return [this.player];
    });
  }

  drawStatus() {
    const { state, stage, progress, position, error, is_pending } = this.video;
    this.replaceIfNew("status", [state, stage, progress, position, error], this.status, () => {
      if (state === "failed") return [el("p", { class: "error", role: "alert" }, sentence(error))];
      if (state === "waiting" && is_pending)
        return [el("p", {}, position ? `Waiting: ${position} ${position === 1 ? "video is" : "videos are"} before yours.` : "Yours is next.")];
      if (state === "done") return [];
      return [
        el("p", { class: "hint" }, `${sentence(stage).slice(0, -1)} …`),
        el("progress", { max: 1, value: state === "running" ? progress : null, "aria-label": stage }),
      ];
    });
  }

  available() {
    const { results, problems } = this.video;
    const tabs = [["classes", "Classes"]];
    return tabs.filter(([name]) => results[name] || problems[name]);
  }

  drawTabs() {
    const tabs = this.available();
    if (!tabs.some(([name]) => name === this.tab) && tabs.length) this.tab = tabs[0][0];
    this.tabs.hidden = !tabs.length;
    this.panel.hidden = !tabs.length;
    this.replaceIfNew("tabs", [tabs, this.tab], this.tabs, () =>
      tabs.map(([name, label]) =>
        el(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${name}`,
            "aria-selected": String(name === this.tab),
            "aria-controls": "panel",
            tabindex: name === this.tab ? 0 : -1,
            onclick: () => this.open(name),
            onkeydown: (event) => this.move(event, tabs),
          },
          label,
        ),
      ),
    );
    this.panel.id = "panel";
    this.panel.setAttribute("aria-labelledby", `tab-${this.tab}`);
    const value = this.video.results[this.tab];
    const problem = this.video.problems[this.tab];
    if (!value && !problem) return;
    this.replaceIfNew("panel", [this.tab, value, problem], this.panel, () => {
      if (!value) return [el("p", { class: "error" }, sentence(problem))];
      return { classes: drawClasses }[this.tab](value, this);
    });
  }

  open(name) {
    this.tab = name;
    this.drawTabs();
    this.tabs.querySelector("[aria-selected=true]")?.focus();
  }

  move(event, tabs) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex(([name]) => name === this.tab);
    this.open(tabs[(at + step + tabs.length) % tabs.length][0]);
  }

  // nothing is drawn anew that is as it was: focus, scrolling and the player stay
  replaceIfNew(key, value, node, make) {
    const text = JSON.stringify(value);
    if (this.drawn.get(key) === text) return;
    this.drawn.set(key, text);
    node.replaceChildren(...make());
  }
}

function drawClasses(runs, viewer) {
  return runs.map(({ run, predictions }) =>
    el(
      "section",
      { class: "run", "aria-label": run },
      runs.length > 1 || viewer.server.runs.length > 1 ? el("h3", {}, run) : null,
      el("ol", { class: "bars" }, ...predictions.map(bar)),
    ),
  );
}

function bar({ label, score }) {
  const fill = el("div", { class: "fill" });
  fill.style.width = `${Math.max(0.5, 100 * score)}%`;
  return el(
    "li",
    {},
    el("span", { class: "label" }, label),
    el("span", { class: "value" }, percent(score)),
    el("div", { class: "track", "aria-hidden": "true" }, fill),
  );
}
