// The libraries: search by a text or a video, pictures of what was found, and a player for the moment.

import { ask, askJson, clock, el, sentence } from "./dom.js";

export class LibraryView {
  constructor(root, libraries, videosOf) {
    this.videosOf = videosOf;
    this.libraries = libraries;
    this.stopAt = null;
    this.choice = el(
      "select",
      { id: "library-choice", onchange: () => this.adapt() },
      ...libraries.map(({ name, videos }, i) => el("option", { value: i }, `${name} (${videos} videos)`)),
    );
    this.text = el("input", { type: "search", id: "library-text", maxlength: 500, autocomplete: "off" });
    this.button = el("button", { type: "submit", class: "primary" }, "Search");
    this.like = el("div", { class: "row-form" });
    this.textPart = el(
      "div",
      { class: "search-part" },
      el("label", { for: "library-text" }, "What happens in the moment you look for?"),
      el("div", { class: "field" }, this.text, this.button),
    );
    const form = el(
      "form",
      {
        class: "search-form card",
        onsubmit: (event) => {
          event.preventDefault();
          this.search({ text: this.text.value });
        },
      },
      libraries.length > 1
        ? el("div", { class: "row-form" }, el("label", { for: "library-choice" }, "Library"), this.choice)
        : null,
      this.textPart,
      this.like,
    );
    this.playing = el("section", { class: "playing", "aria-label": "The moment", hidden: true });
    this.found = el("div", { class: "found", "aria-live": "polite" });
    root.replaceChildren(form, this.playing, this.found);
    this.adapt();
  }

  get library() {
    return this.libraries[Number(this.choice.value) || 0];
  }

  adapt() {
    this.textPart.hidden = !this.library.knows_text;
    this.drawLike();
  }

  // "like your video": there is something to choose only when something was uploaded
  drawLike() {
    const videos = this.videosOf();
    if (!videos.length) {
      const text = this.library.knows_text ? "" : "The model of this library knows no text. Upload a video, and search by it.";
      this.like.replaceChildren(el("p", { class: "hint" }, text));
      this.like.hidden = !text;
      return;
    }
    const choice = el("select", { id: "like" }, ...videos.map(({ id, name }) => el("option", { value: id }, name)));
    this.like.hidden = false;
    this.like.replaceChildren(
      el("label", { for: "like" }, "or what looks like"),
      choice,
      el("button", { type: "button", onclick: () => this.search({ video: choice.value }) }, "Find similar"),
    );
  }

  async search(question) {
    this.button.disabled = true;
    this.found.replaceChildren(el("p", { class: "hint" }, "searching …"));
    this.playing.hidden = true;
    this.playing.replaceChildren();
    try {
      const { moments } = await askJson(`/api/libraries/${Number(this.choice.value) || 0}/search`, question);
      this.found.replaceChildren(
        moments.length
          ? el("ol", { class: "cards" }, ...moments.map((moment, rank) => this.card(moment, rank)))
          : el("p", { class: "hint" }, "Nothing was found: the library is empty."),
      );
    } catch (error) {
      this.found.replaceChildren(el("p", { class: "error", role: "alert" }, sentence(error.message)));
    }
    this.button.disabled = false;
  }

  card(moment, rank) {
    const span = `${clock(moment.start)} – ${clock(moment.end)}`;
    const picture = el("img", { src: `/api/moments/${moment.id}/picture`, alt: "", loading: rank < 6 ? null : "lazy" });
    picture.addEventListener("error", () => picture.replaceWith(el("span", { class: "no-picture" }, "no picture")));
    return el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          class: "moment card",
          "aria-label": `Play ${moment.video}, ${span}, score ${moment.score.toFixed(3)}`,
          onclick: () => this.play(moment),
        },
        picture,
        el("span", { class: "span" }, `▶ ${span}`),
        el("span", { class: "hint" }, `score ${moment.score.toFixed(3)}`),
        el("span", { class: "hint one-line", title: moment.video }, moment.video),
      ),
    );
  }

  async play(moment) {
    this.playing.hidden = false;
    this.playing.replaceChildren(el("p", { class: "hint" }, "loading …"));
    try {
      const { media, start, end } = await ask(`/api/moments/${moment.id}`);
      const player = el("video", {
        controls: true,
        playsinline: true,
        preload: "auto",
        src: media,
        "aria-label": `${moment.video} from ${clock(moment.start)}`,
      });
      player.muted = true;
      let stopAt = end;
      player.addEventListener("loadedmetadata", () => {
        player.currentTime = start;
        player.play().catch(() => {});
      });
      player.addEventListener("timeupdate", () => {
        if (stopAt !== null && player.currentTime >= stopAt - 0.02) {
          stopAt = null;
          player.pause();
        }
      });
      const error = el("p", { class: "error", role: "alert", hidden: true });
      player.addEventListener("error", () => {
        error.hidden = false;
        error.textContent = "This browser cannot play the file.";
      });
      const again = () => {
        stopAt = end;
        player.currentTime = start;
        player.play().catch(() => {});
      };
      this.playing.replaceChildren(
        el("h2", {}, `${moment.video}, ${clock(moment.start)} – ${clock(moment.end)}`),
        el("div", { class: "screen" }, player),
        error,
        el(
          "div",
          { class: "row-form" },
          el("button", { type: "button", onclick: again }, "Play the moment again"),
          el("button", { type: "button", class: "quiet", onclick: () => this.close() }, "Close"),
        ),
      );
      this.playing.scrollIntoView({ block: "nearest" });
    } catch (error) {
      this.playing.replaceChildren(el("p", { class: "error", role: "alert" }, sentence(error.message)));
    }
  }

  close() {
    this.playing.hidden = true;
    this.playing.replaceChildren();
  }
}
