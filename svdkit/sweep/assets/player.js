// Clips in step: one clock, every visible clip follows it. No library, nothing loaded from elsewhere.
// Text from outside enters the page by textContent alone.
"use strict";

const el = (tag, props = {}, ...kids) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...kids.filter((kid) => kid != null));
  return node;
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
let words = {};  // English -> the language of the page
const say = (text) => words[text] ?? text;

class Player {
  constructor(root, { clips, columns = 0, autoplay = false, reference = null, texts = {} }) {
    words = texts;
    Object.assign(this, { root, clips, columns, reference: null, playing: false, held: false, loop: true });
    Object.assign(this, { time: 0, speed: 1, zoom: 1, focus: [50, 50], shown: new Map(), last: 0 });
    this.fps = Math.max(1, ...clips.map((clip) => clip.fps || 0));
    this.duration = Math.max(0.01, ...clips.map((clip) => (clip.frames || 1) / (clip.fps || 1)));
    this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.see(entry)), { rootMargin: "120px" });
    this.board = el("div", { class: "board" });
    root.append(this.controls(), this.board);
    root.tabIndex = 0;
    root.addEventListener("keydown", (event) => this.key(event));
    this.suggested = reference;
    requestAnimationFrame((now) => this.tick(now));
    if (autoplay && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
  }

  controls() {
    const button = (text, label, action, more = {}) => el("button", { type: "button", "aria-label": say(label), title: say(label), onclick: action, ...more }, say(text));
    const choice = (label, values, action) => el("label", {}, say(label), el("select", { onchange: (event) => action(event.target.value) },
      ...values.map(([value, text, chosen]) => el("option", { value, selected: chosen }, text))));
    this.toggle = button("▶ Play", "Play or pause (Space)", () => this.playing ? this.pause() : this.play(), { class: "primary" });
    this.scrub = el("input", { type: "range", min: 0, max: Math.round(this.duration * this.fps) - 1, step: 1, value: 0, "aria-label": say("Frame"),
      oninput: () => this.goto(+this.scrub.value) });
    this.count = el("output", { class: "count" });
    this.looper = button("Loop", "Repeat (L)", () => this.setLoop(!this.loop), { "aria-pressed": "true" });
    const name = (clip, i) => [i, clip.label.slice(0, 60)];
    this.chooser = choice("Compare with", [["", say("nothing")], ...this.clips.map(name).filter(([i]) => this.clips[i].src)], (value) => this.compare(value === "" ? null : +value));
    this.splitter = el("label", { class: "split", hidden: true }, say("Split"),
      el("input", { type: "range", min: 0, max: 100, value: 50, oninput: (event) => this.root.style.setProperty("--split", event.target.value + "%") }));
    this.zoomer = el("input", { type: "range", min: 1, max: 6, step: 0.5, value: 1, oninput: () => this.setZoom(+this.zoomer.value) });
    return el("div", { class: "controls", role: "group", "aria-label": say("Playback") },
      this.toggle,
      button("◀", "One frame back (Left arrow)", () => this.step(-1)), button("▶", "One frame on (Right arrow)", () => this.step(1)),
      el("span", { class: "scrub" }, this.scrub, this.count), this.looper,
      choice("Speed", [0.25, 0.5, 1, 2].map((value) => [value, value + "×", value === 1]), (value) => { this.speed = +value; }),
      el("label", {}, say("Zoom"), this.zoomer), this.chooser, this.splitter,
      el("p", { class: "keys" }, say("Keys: Space plays, ← → step, Home and End jump, L repeats, + − zoom; drag a zoomed clip to move it (or Shift with an arrow).")));
  }

  // Lays out figures: `rows` is a list of {title, cells: [[clip index, ...], ...]}, or null for all in a flow.
  show(rows, heads) {
    for (const cell of [...this.shown.values()]) this.unload(cell);
    this.shown.clear();
    this.observer.disconnect();
    const group = (list) => list.map((index) => this.figure(index));
    if (rows) {
      const head = el("tr", {}, el("td"), ...heads.map((text) => el("th", { scope: "col" }, text)));
      const body = rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.title), ...row.cells.map((list) => el("td", {}, ...group(list)))));
      this.board.replaceChildren(el("table", { class: "grid", style: `--columns:${heads.length}` }, el("thead", {}, head), el("tbody", {}, ...body)));
    } else {
      const style = this.columns ? `grid-template-columns:repeat(${this.columns},minmax(0,var(--cell)))` : "";
      this.board.replaceChildren(el("div", { class: "flow", style }, ...group(this.clips.map((_, index) => index))));
    }
  }

  figure(index) {
    const clip = this.clips[index];
    const stage = el("div", { class: "stage", style: `aspect-ratio:${clip.width || 16}/${clip.height || 9}` });
    if (!clip.src) stage.append(el("p", { class: "failed" }, clip.reason || "no clip"));
    else {
      if (clip.poster) stage.append(el("img", { src: clip.poster, loading: "lazy", decoding: "async", alt: "" }));
      stage.cell = { clip, stage, videos: [] };
      stage.addEventListener("pointerdown", (event) => this.drag(event, stage));
      this.observer.observe(stage);
    }
    return el("figure", { class: "cell", "data-index": index }, stage, el("figcaption", {}, this.bare ? "" : clip.label, clip.note ? el("small", {}, clip.note) : null));
  }

  see({ target, isIntersecting }) {
    if (!target.cell) return;
    if (isIntersecting && !this.shown.has(target)) { this.shown.set(target, target.cell); this.load(target.cell); }
    else if (!isIntersecting && this.shown.has(target)) { this.shown.delete(target); this.unload(target.cell); }
  }

  load(cell) {
    const other = this.reference === null ? null : this.clips[this.reference];
    for (const clip of other && other !== cell.clip ? [cell.clip, other] : [cell.clip]) {
      const video = el("video", { preload: "auto", playsinline: true, "aria-label": clip.label });
      video.muted = true;
      video.clip = clip;
      video.addEventListener("loadeddata", () => { this.seek(video); video.classList.add("ready"); }, { once: true });
      video.addEventListener("error", () => cell.stage.append(el("p", { class: "failed" }, say("this browser cannot play the clip"))), { once: true });
      video.src = clip.src;
      cell.stage.append(clip === cell.clip ? video : el("div", { class: "over" }, video));
      cell.videos.push(video);
    }
  }

  unload(cell) {  // a page may hold a few dozen decoders: only clips in view have one
    for (const video of cell.videos) { video.pause(); video.removeAttribute("src"); video.load(); }
    cell.stage.querySelectorAll("video, .over, .failed").forEach((node) => node.remove());
    cell.videos = [];
  }

  get videos() { return [...this.shown.values()].flatMap((cell) => cell.videos).filter((video) => video.readyState > 0); }  // also those that are seeking
  get frame() { return clamp(Math.floor(this.time * this.fps + 1e-6), 0, +this.scrub.max); }

  // Where a clip should be: in the middle of its frame while paused, so that rounding cannot pick a neighbour.
  target({ clip }) {
    const end = (clip.frames - 0.5) / clip.fps;
    if (this.playing && !this.held) return Math.min(this.time, end);
    return Math.min((Math.floor(this.time * clip.fps + 1e-6) + 0.5) / clip.fps, end);
  }

  seek(video) { video.currentTime = this.target(video); }

  // Every clip to the same moment, and on from there only when all have arrived.
  async hold(time) {
    this.time = time;
    this.held = true;
    const ticket = this.ticket = {};
    const videos = this.videos;
    videos.forEach((video) => { video.pause(); this.seek(video); });
    const arrived = videos.map((video) => new Promise((done) => video.seeking ? video.addEventListener("seeked", done, { once: true }) : done()));
    await Promise.race([Promise.all(arrived), new Promise((done) => setTimeout(done, 700))]);
    if (ticket !== this.ticket) return;
    if (this.playing) {
      await Promise.race([Promise.allSettled(videos.map((video) => video.play())), new Promise((done) => setTimeout(done, 300))]);
      if (ticket !== this.ticket) return;
      this.time += 0.5 / this.fps;  // held in the middle of the frame
    }
    this.held = false;
  }

  play() {
    this.playing = true;
    this.toggle.textContent = say("❚❚ Pause");
    this.hold(this.frame >= +this.scrub.max ? 0 : this.frame / this.fps);
  }

  pause() {
    this.playing = false;
    this.toggle.textContent = say("▶ Play");
    this.hold(this.frame / this.fps);
  }

  goto(frame) {
    if (this.playing) this.pause();
    this.hold(clamp(frame, 0, +this.scrub.max) / this.fps);
  }

  step(by) {
    const count = +this.scrub.max + 1, next = this.frame + by;
    this.goto(this.loop ? (next + count) % count : next);
  }

  tick(now) {
    const passed = Math.min((now - this.last) / 1000, 0.25);
    this.last = now;
    if (this.playing && !this.held) {
      this.time += passed * this.speed;
      if (this.time < this.duration) this.videos.forEach((video) => this.follow(video));
      else if (this.loop) this.hold(0);
      else { this.time = this.duration - 0.5 / this.fps; this.pause(); }
    }
    if (+this.scrub.value !== this.frame) this.scrub.value = this.frame;
    this.count.textContent = `${this.frame + 1} / ${+this.scrub.max + 1}`;
    requestAnimationFrame((next) => this.tick(next));
  }

  // A small lag is made up by playing a little faster, a large one by a jump.
  follow(video) {
    const { clip } = video, wanted = this.target(video), lag = wanted - video.currentTime;
    if (this.time >= (clip.frames - 0.5) / clip.fps) { if (!video.paused) { video.pause(); this.seek(video); } return; }
    if (video.seeking) return;
    if (Math.abs(lag) > 0.6 / clip.fps) video.currentTime = wanted + 0.02 * this.speed;
    video.playbackRate = clamp(this.speed * (1 + lag * 2), 0.1, 8);
    if (video.paused) video.play().catch(() => {});
  }

  setLoop(on) { this.loop = on; this.looper.setAttribute("aria-pressed", on); }

  setZoom(zoom) {
    this.zoom = clamp(zoom, 1, 6);
    this.zoomer.value = this.zoom;
    this.root.style.setProperty("--zoom", this.zoom);
    this.root.classList.toggle("zoomed", this.zoom > 1);
  }

  look(x, y) {
    this.focus = [clamp(x, 0, 100), clamp(y, 0, 100)];
    this.root.style.setProperty("--focus", this.focus.map((value) => value + "%").join(" "));
  }

  drag(event, stage) {
    if (this.zoom === 1) return;
    event.preventDefault();
    this.root.focus({ preventScroll: true });
    const { clientX, clientY } = event, [x, y] = this.focus, box = stage.getBoundingClientRect(), scale = 100 / (this.zoom - 1);
    stage.setPointerCapture(event.pointerId);
    stage.onpointermove = (move) => this.look(x - (move.clientX - clientX) / box.width * scale, y - (move.clientY - clientY) / box.height * scale);
    stage.onpointerup = stage.onpointercancel = () => { stage.onpointermove = null; };
  }

  compare(index) {
    this.reference = index;
    this.splitter.hidden = index === null;
    this.chooser.querySelector("select").value = index ?? "";
    for (const cell of this.shown.values()) { this.unload(cell); this.load(cell); }
    if (this.playing) setTimeout(() => this.hold(this.frame / this.fps), 150);
  }

  key(event) {
    const { target, key } = event, busy = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) || target.getAttribute("role") === "tab";
    if (event.ctrlKey || event.metaKey || event.altKey || busy || (key === " " && target.tagName === "BUTTON")) return;
    const pan = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[key];
    const act = event.shiftKey && pan ? () => this.look(this.focus[0] + pan[0], this.focus[1] + pan[1]) : {
      " ": () => this.playing ? this.pause() : this.play(),
      ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), Home: () => this.goto(0), End: () => this.goto(1e9),
      l: () => this.setLoop(!this.loop), L: () => this.setLoop(!this.loop),
      "+": () => this.setZoom(this.zoom + 0.5), "=": () => this.setZoom(this.zoom + 0.5), "-": () => this.setZoom(this.zoom - 0.5),
    }[key];
    if (act) { event.preventDefault(); act(); }
  }
}

// Which clip stands where: two settings span the grid, a third makes tabs.
class Axes {
  constructor(root, data) {
    Object.assign(this, { data, kept: null, tab: 0, chosen: { ...data.chosen } });
    this.player = new Player(root, data);
    if (!data.axes?.length) { this.player.show(null); return; }
    const names = ["", ...data.axes.map((axis) => axis.name)];
    const pick = (label, slot) => el("label", {}, label, el("select", { "data-slot": slot, onchange: (event) => { this.choose(slot, event.target.value); } },
      ...names.map((name) => el("option", { value: name, selected: name === (this.chosen[slot] ?? "") }, name || "nothing"))));
    this.pickers = el("div", { class: "controls pickers", role: "group", "aria-label": "Layout" }, pick("Columns", "x"), pick("Rows", "y"), pick("Tabs", "tabs"));
    this.tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Third setting", onkeydown: (event) => this.arrow(event) });
    this.player.board.setAttribute("role", "region");
    this.player.board.setAttribute("aria-label", "Clips");
    this.player.board.before(this.pickers, this.tabs);
    this.draw();
  }

  choose(slot, name) {
    for (const other of Object.keys(this.chosen)) if (name && other !== slot && this.chosen[other] === name) this.chosen[other] = this.chosen[slot] ?? "";
    this.chosen[slot] = name;
    this.pickers.querySelectorAll("select").forEach((select) => { select.value = this.chosen[select.dataset.slot] ?? ""; });
    this.tab = 0;
    this.draw();
  }

  keep(ids) { this.kept = ids; this.draw(); }

  draw() {
    const axis = (slot) => this.data.axes.find(({ name }) => name === this.chosen[slot]);
    const list = this.data.clips.map((_, index) => index).filter((index) => !this.kept || this.kept.has(this.data.clips[index].id));
    const has = (name, value, subset) => subset.filter((index) => this.data.clips[index].values[name] === value);
    const used = (one, subset) => one ? one.values.filter((value) => has(one.name, value, subset).length) : [];
    const tabs = axis("tabs"), values = used(tabs, list);
    this.tab = clamp(this.tab, 0, Math.max(0, values.length - 1));
    this.tabs.hidden = !values.length;
    this.tabs.replaceChildren(...values.map((value, i) => el("button", { type: "button", role: "tab", "aria-selected": String(i === this.tab), tabindex: i === this.tab ? 0 : -1,
      onclick: () => { this.tab = i; this.draw(); } }, `${tabs.name} ${value}`)));
    const here = values.length ? has(tabs.name, values[this.tab], list) : list;
    const x = axis("x"), y = axis("y"), heads = x ? used(x, here) : [null], sides = y ? used(y, here) : [null];
    const rows = sides.map((side) => ({ title: side === null ? "" : `${y.name} ${side}`, cells: heads.map((head) => {
      const row = side === null ? here : has(y.name, side, here);
      return head === null ? row : has(x.name, head, row);
    }) }));
    this.player.bare = [x, y, tabs].filter(Boolean).length === this.data.axes.length;  // the headings say it all
    this.player.show(here.length ? rows : [], heads.map((head) => head === null ? "" : `${x.name} ${head}`));
    if (!here.length) this.player.board.replaceChildren(el("p", { class: "empty" }, "No run passes the filters."));
  }

  arrow(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    this.tab = (this.tab + by + this.tabs.children.length) % this.tabs.children.length;
    this.draw();
    this.tabs.children[this.tab].focus();
  }
}

// The table of runs: sorts, filters (the grid follows), keeps the baseline on top and compares with it.
class Runs {
  constructor(table, form, axes) {
    Object.assign(this, { table, form, axes, body: table.tBodies[0], rows: [...table.tBodies[0].rows], sorted: null });
    table.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => this.sort(button.closest("th"))));
    form.addEventListener("input", () => this.filter());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => this.filter()));
    this.body.addEventListener("click", (event) => { const pin = event.target.closest(".pin"); if (pin) this.pin(pin.closest("tr")); });
    this.pin(this.rows.find((row) => row.dataset.id === table.dataset.baseline) ?? null);
  }

  value(row, column) { const cell = row.cells[column]; return cell.dataset.v === undefined ? null : cell.dataset.v === "" ? null : isNaN(cell.dataset.v) ? cell.dataset.v : +cell.dataset.v; }

  sort(head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    this.table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const column = head.cellIndex, sign = down ? -1 : 1;
    this.rows.sort((one, two) => {
      const a = this.value(one, column), b = this.value(two, column);
      if (a === null || b === null) return (a === null) - (b === null);  // what is missing goes last, both ways
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    });
    this.place();
  }

  filter() {
    const words = this.form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...this.form.querySelectorAll("select")].filter((select) => select.value !== "");
    const kept = new Set();
    for (const row of this.rows) {
      const text = row.dataset.text, values = JSON.parse(row.dataset.values);
      const passes = words.every((word) => text.includes(word)) && chosen.every((select) => values[select.name] === select.value);
      row.hidden = !passes && row !== this.baseline;
      if (passes) kept.add(row.dataset.id);
    }
    document.getElementById("count").textContent = `${kept.size} of ${this.rows.length} runs`;
    this.axes?.keep(kept);
  }

  place() { this.body.append(...this.rows.filter((row) => row !== this.baseline)); if (this.baseline) this.body.prepend(this.baseline); }

  pin(row) {
    this.baseline = row;
    for (const one of this.rows) {
      one.classList.toggle("baseline", one === row);
      const pin = one.querySelector(".pin");
      if (pin) { pin.setAttribute("aria-pressed", one === row); pin.textContent = one === row ? "Pinned" : "Pin"; }
      one.querySelectorAll("td[data-ratio]").forEach((cell) => {
        const mine = +cell.dataset.v, base = row ? +row.cells[cell.cellIndex].dataset.v : 0;
        cell.querySelector("small").textContent = mine && base && one !== row ? `${(mine / base).toFixed(2)}×` : "";
      });
    }
    this.place();
    if (this.form.elements.words) this.filter();
  }
}

for (const root of document.querySelectorAll(".player")) root.axes = new Axes(root, JSON.parse(root.querySelector("script").textContent));
const runs = document.getElementById("runs");
if (runs) new Runs(runs, document.getElementById("filters"), document.querySelector(".player")?.axes);
