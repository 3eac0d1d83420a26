// The page: which part is shown, the visitor's videos, and asking the server how far they are.

import { ask, askJson, byId, clock, el } from "./dom.js";
import { LibraryView } from "./library.js";
import { upload } from "./upload.js";
import { Viewer } from "./viewer.js";

const state = { server: null, videos: new Map(), selected: null };
const viewer = new Viewer(byId("viewer"), change);
let library = null;
let timer = null;

function fail(error) {
  byId("banner").textContent = error.message;
  byId("banner").hidden = false;
}

// the visitor wants a stage done again, in another way
async function change(stage, wish, control) {
  control.disabled = true;
  try {
    const fresh = await askJson(`/api/videos/${state.selected}/${stage}`, wish);
    state.videos.set(fresh.id, fresh);
    draw();
    wait();
  } catch (error) {
    fail(error);
    control.disabled = false;
  }
}

function show() {
  const part = library && location.hash === "#library" ? "library" : "video";
  if (part === "library") library.drawLike();
  byId("view-video").hidden = part !== "video";
  byId("view-library").hidden = part !== "library";
  for (const name of ["video", "library"]) {
    const link = byId(`nav-${name}`);
    if (name === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function stateText(video) {
  if (video.state === "waiting" && video.is_pending)
    return video.position ? `waiting, ${video.position} before it` : "next";
  if (video.state === "waiting" || video.state === "running") return `${video.stage} …`;
  if (video.state === "failed") return "could not be read";
  return clock(video.info.seconds || 0, false);
}

function drawList() {
  const list = byId("list");
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  list.replaceChildren(
    ...[...state.videos.values()].reverse().map((video) =>
      el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            class: "pick",
            "data-key": `pick-${video.id}`,
            "aria-current": video.id === state.selected ? "true" : null,
            onclick: () => select(video.id),
          },
          el("span", { class: "name" }, video.name),
          el("span", { class: "sub" }, stateText(video)),
        ),
        el(
          "button",
          {
            type: "button",
            class: "quiet",
            "data-key": `remove-${video.id}`,
            "aria-label": `Remove ${video.name}`,
            title: "Remove",
            onclick: () => remove(video.id),
          },
          "✕",
        ),
      ),
    ),
  );
  byId("list-part").hidden = state.videos.size === 0;
  if (focused) list.querySelector(`[data-key="${focused}"]`)?.focus();
}

function draw() {
  drawList();
  const video = state.videos.get(state.selected);
  byId("empty").hidden = Boolean(video);
  byId("viewer").hidden = !video;
  if (video) viewer.show(video, state.server);
}

function select(id) {
  state.selected = id;
  draw();
}

async function remove(id) {
  state.videos.delete(id);
  if (state.selected === id) state.selected = [...state.videos.keys()].pop() ?? null;
  draw();
  try {
    await ask(`/api/videos/${id}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) fail(error);
  }
}

const isMoving = (video) => ["waiting", "running"].includes(video.state);

async function poll() {
  timer = null;
  const moving = [...state.videos.values()].filter(isMoving);
  for (const video of moving) {
    try {
      const fresh = await ask(`/api/videos/${video.id}`);
      if (state.videos.has(video.id)) state.videos.set(video.id, fresh);
      byId("banner").hidden = true;
    } catch (error) {
      if (error.status === 404) state.videos.delete(video.id);
      else fail(error);
    }
  }
  draw();
  wait();
}

function wait() {
  const moving = [...state.videos.values()].filter(isMoving);
  if (!moving.length || timer !== null) return;
  // the more videos are before ours, the less often it pays to ask
  const before = Math.min(...moving.map((video) => video.position || 0));
  timer = setTimeout(poll, before > 3 ? 2000 : 600);
}

function take(files) {
  for (const file of files)
    upload(file, state.server.limits, (video) => {
      state.videos.set(video.id, video);
      select(video.id);
      wait();
    });
}

function listen() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
  // a file that misses the field must not replace the page
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => take([...event.dataTransfer.files]));
  window.addEventListener("hashchange", show);
}

async function begin() {
  try {
    state.server = await ask("/api/state");
  } catch (error) {
    fail(error);
    return;
  }
  const { limits, runs, libraries } = state.server;
  byId("limits").textContent = `up to ${limits.bytes_text} and ${limits.seconds_text}; it stays on this server`;
  byId("empty-text").textContent = "Your video will be shown here, with what is done in it and when.";
  byId("about").textContent = [
    ...runs.map((run) => `${run.name}: ${run.classes.length} classes`),
    ...libraries.map(({ name, videos }) => `${name}: ${videos} videos`),
  ].join(" · ");
  if (libraries.length) {
    library = new LibraryView(byId("library"), libraries, () => [...state.videos.values()]);
    byId("nav").hidden = false;
    if (!location.hash && !runs.length) location.hash = "#library";
  }
  for (const video of state.server.videos) state.videos.set(video.id, video);
  state.selected = [...state.videos.keys()].pop() ?? null;
  listen();
  show();
  draw();
  wait();
}

begin();
