// One video: the player, how far the server is with it, and what it found, in tabs.

import { clock, el, sentence } from "./dom.js";
import { drawClasses, drawExplain, drawFind, drawTimeline } from "./panels.js";

const TABS = [
  ["classes", "Classes", drawClasses],
  ["timeline", "Timeline", drawTimeline],
  ["explain", "What mattered", drawExplain],
  ["find", "Find", drawFind],
];

export class Viewer {
  constructor(root, onChange) {
    this.root = root;
    this.onChange = onChange;
    this.id = null;
    this.tab = "classes";
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
    this.drawn = new Map();
    this.player = null;
    this.moved = [];
    this.stopAt = null;
    this.head = el("div", { class: "viewer-head" });
    this.screen = el("div", { class: "screen" });
    this.status = el("div", { class: "status", role: "status" });
    this.tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "What was found" });
    this.panel = el("div", { class: "panel", role: "tabpanel", id: "panel", tabindex: 0 });
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
    this.replaceIfNew("screen", ready ? "video" : problem || "waiting", this.screen, () => {
      if (!ready) return [el("p", {}, problem ? sentence(problem) : "The player comes as soon as the video is ready for it.")];
      this.player = el("video", {
        controls: true,
        preload: "auto",
        playsinline: true,
        src: `/api/videos/${this.id}/media`,
        "aria-label": this.video.name,
        ontimeupdate: () => this.onTime(),
        onseeked: () => this.onTime(),
      });
      this.player.muted = true;
      return [this.player];
    });
  }

  drawStatus() {
    const { state, stage, progress, position, error, is_pending } = this.video;
    this.replaceIfNew("status", [state, stage, progress, position, error], this.status, () => {
      if (state === "failed") return [el("p", { class: "error", role: "alert" }, sentence(error))];
      if (state === "done") return [];
      if (state === "waiting" && is_pending) {
        const before = position === 1 ? "1 video is" : `${position} videos are`;
        return [el("p", {}, position ? `Waiting: ${before} before yours.` : "Yours is next.")];
      }
      return [
        el("p", { class: "hint" }, `${sentence(stage).slice(0, -1)} …`),
        el("progress", { max: 1, value: state === "running" ? progress : null, "aria-label": stage }),
      ];
    });
  }

  drawTabs() {
    const { results, problems, state } = this.video;
    const tabs = TABS.filter(([name]) => results[name] || problems[name]);
    const current = tabs.some(([name]) => name === this.tab) ? this.tab : tabs.length ? tabs[0][0] : null;
    this.tabs.hidden = this.panel.hidden = current === null;
    this.replaceIfNew("tabs", [tabs.map(([name]) => name), current], this.tabs, () =>
      tabs.map(([name, label]) =>
        el(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${name}`,
            "aria-selected": String(name === current),
            "aria-controls": "panel",
            tabindex: name === current ? 0 : -1,
            onclick: () => this.open(name),
            onkeydown: (event) => this.move(event, tabs, current),
          },
          label,
        ),
      ),
    );
    if (current === null) return;
    this.panel.setAttribute("aria-labelledby", `tab-${current}`);
    const value = results[current];
    const busy = state !== "done" && state !== "failed";
    this.replaceIfNew("panel", [current, value, problems[current], busy], this.panel, () => {
      this.moved = [];
      const problem = problems[current] ? [el("p", { class: "error", role: "alert" }, sentence(problems[current]))] : [];
      return value ? [...problem, ...tabs.find(([name]) => name === current)[2](value, this, busy)] : problem;
    });
    this.onTime();
  }

  open(name) {
    this.tab = name;
    this.drawTabs();
    this.tabs.querySelector("[aria-selected=true]")?.focus();
  }

  move(event, tabs, current) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex(([name]) => name === current);
    this.open(tabs[(at + step + tabs.length) % tabs.length][0]);
  }

  // jump to a time, and with an end play up to it
  seek(start, end = null) {
    if (!this.player) return;
    this.stopAt = end;
    this.player.currentTime = start;
    if (end !== null) this.player.play().catch(() => {});
    this.player.scrollIntoView({ block: "nearest" });
  }

  // what follows the player's time: `tell(seconds)`
  follow(tell) {
    this.moved.push(tell);
  }

  onTime() {
    const now = this.player ? this.player.currentTime : 0;
    if (this.stopAt !== null && now >= this.stopAt - 0.02) {
      this.stopAt = null;
      this.player.pause();
    }
    for (const tell of this.moved) tell(now);
  }

  // nothing is drawn anew that is as it was: focus, scrolling and the player stay
  replaceIfNew(key, value, node, make) {
    const text = JSON.stringify(value);
    if (this.drawn.get(key) === text) return;
    this.drawn.set(key, text);
    const focused = node.contains(document.activeElement) ? document.activeElement.id : "";
    node.replaceChildren(...make());
    if (focused) node.querySelector(`#${CSS.escape(focused)}`)?.focus();
  }
}
