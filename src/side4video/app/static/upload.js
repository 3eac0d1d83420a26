// One upload: checked before it starts as far as the browser can tell, sent with progress, cancelled when asked.

import { ask, byId, el, sentence } from "./dom.js";

// how long the browser thinks a file plays; null when it cannot tell
function lengthOf(file) {
  return new Promise((resolve) => {
    const video = document.createElement("video");
    const url = URL.createObjectURL(file);
    const done = (value) => {
      clearTimeout(timer);
      URL.revokeObjectURL(url);
      video.removeAttribute("src");
      resolve(value);
    };
    const timer = setTimeout(() => done(null), 3000);
    video.preload = "metadata";
    video.onloadedmetadata = () => done(Number.isFinite(video.duration) ? video.duration : null);
    video.onerror = () => done(null);
    video.src = url;
  });
}

async function refusal(file, limits) {
  if (file.size === 0) return "This file is empty.";
  if (file.size > limits.bytes)
    return `This file is too large: ${(file.size / 1e6).toFixed(1)} MB, and at most ${limits.bytes_text} are taken.`;
  const seconds = await lengthOf(file);
  if (seconds !== null && seconds > limits.seconds + 1)
    return `This video is too long: ${Math.round(seconds)} s, and at most ${limits.seconds_text} are taken.`;
  return (await ask("/api/state")).refusal;
}

// half of a letter, which some systems allow in names, cannot be encoded
function inHeader(name) {
  try {
    return encodeURIComponent(name);
  } catch {
    return "video";
  }
}

export async function upload(file, limits, onDone) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
  const state = el("p", { class: "hint" }, "checking …");
  const cancel = el("button", { type: "button", class: "quiet" }, "Cancel");
  const card = el(
    "div",
    { class: "upload card" },
    el("div", { class: "row" }, el("strong", { class: "one-line" }, file.name), cancel),
    bar,
    state,
  );
  byId("uploads").append(card);
  let request = null;
  const close = () => card.remove();
  const fail = (message) => {
    bar.remove();
    state.className = "error";
    state.setAttribute("role", "alert");
    state.textContent = message;
    cancel.textContent = "Close";
    cancel.onclick = close;
  };
  let isCancelled = false;
  // not crypto.randomUUID: browsers have it on secure pages only
  const name = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  cancel.onclick = () => {
    isCancelled = true;
    close();
    if (!request) return;
    request.abort();
    // the server may have all of the file already, with its answer on the way
    ask(`/api/uploads/${name}`, { method: "DELETE", keepalive: true }).catch(() => {});
  };
  let reason;
  try {
    reason = await refusal(file, limits);
  } catch (error) {
    reason = error.message;
  }
  if (isCancelled) return;
  if (reason) return fail(sentence(reason));
  request = new XMLHttpRequest();
  request.open("POST", "/api/videos");
  request.setRequestHeader("X-File-Name", inHeader(file.name));
  request.setRequestHeader("X-Upload", name);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.onprogress = (event) => {
    bar.value = event.loaded / event.total;
    const all = event.loaded === event.total;
    state.textContent = all ? "looking at the file …" : `${Math.floor((100 * event.loaded) / event.total)} % sent`;
  };
  request.onload = () => {
    let value = {};
    try {
      value = JSON.parse(request.responseText);
    } catch {
      // an answer of something between us and the server
    }
    if (request.status === 401) location.href = "/login";
    else if (request.status === 201) {
      close();
      onDone(value);
    } else fail(sentence(value.error || `The server refused the upload (${request.status})`));
  };
  request.onerror = () => fail("The upload was cut off. Is the server still running, and the file not too large?");
  request.send(file);
}
