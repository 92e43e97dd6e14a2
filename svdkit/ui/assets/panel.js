// What widgets leave out: names for sliders, a click on the photo for the focus, a word on files that are too large.
// Without it the panel works all the same. PANEL is the class of one panel.
(() => {
  "use strict";
  const largest = 9e6;
  const texts = (root) => root.querySelector(".svdkit-language")?.dataset ?? {};

  const label = (root) => {
    for (const knob of root.querySelectorAll(".svdkit-knob")) {
      const name = knob.querySelector("label")?.textContent, tip = knob.querySelector("label")?.title;
      knob.querySelectorAll('[role="slider"], input[type="range"], .ui-slider-handle').forEach((handle) => {
        if (handle.getAttribute("aria-label") !== name) handle.setAttribute("aria-label", name);
      });
      // Widgets explain the label alone, which neither keyboard nor screen reader stops at.
      for (const one of knob.querySelectorAll('input, [role="slider"]')) if (tip && one.title !== tip) one.title = tip;
    }
    for (const area of root.querySelectorAll(".svdkit-code textarea")) {
      const name = area.closest(".jupyter-widget-Collapse, .p-Collapse, .lm-Collapse")?.querySelector('[class*="Collapse-header"]')?.textContent;
      if (name && area.getAttribute("aria-label") !== name) area.setAttribute("aria-label", name);
    }
    root.querySelector(".svdkit-live .widget-html-content")?.setAttribute("role", "status");
    for (const button of root.querySelectorAll(".svdkit-copy button[hidden]")) button.hidden = false;
    if (document.body.dataset.voila) document.documentElement.lang = texts(root).language;
  };

  // While a slider is dragged its number follows; the kernel hears of it when the slider rests.
  const follow = (handle) => {
    const field = handle.closest(".noUi-state-drag, .noUi-active") && handle.closest(".svdkit-knob")?.querySelector('input[type="number"]');
    if (field) field.value = handle.getAttribute("aria-valuetext");
  };

  const type = (root, axis, value) => {
    const field = root.querySelector(`.svdkit-focus-${axis} input[type="number"]`);
    if (!field || field.disabled) return;
    field.value = Math.round(Math.min(100, Math.max(0, value)));
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const point = (root, event) => {
    const image = event.target.closest(".svdkit-photo img");
    if (!image) return;
    const frame = image.getBoundingClientRect();
    const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
    const across = (event.clientX - frame.left - frame.width / 2) / (image.naturalWidth * scale);
    const down = (event.clientY - frame.top - frame.height / 2) / (image.naturalHeight * scale);
    type(root, "x", 100 * (across + 0.5));
    type(root, "y", 100 * (down + 0.5));
  };

  const copy = (event) => {
    const area = event.target.closest(".svdkit-copy button") && event.target.closest(".svdkit-recipe")?.querySelector("textarea");
    if (!area) return;
    area.select();
    (navigator.clipboard?.writeText(area.value) ?? Promise.reject()).catch(() => document.execCommand("copy"));
  };

  const weigh = (root, event) => {
    const file = event.target.files[0];
    root.querySelector(".svdkit-too-large")?.remove();
    if (!file || file.size <= largest) return;
    event.stopImmediatePropagation();
    event.target.value = "";
    const line = document.createElement("div");
    line.className = "svdkit-error svdkit-too-large";
    line.setAttribute("role", "alert");
    line.textContent = `${file.name} ${texts(root).tooLarge}`;
    root.querySelector(".svdkit-photo").after(line);
  };

  // The file input of an upload button is never in the page: it is caught when the button's own script clicks it.
  const catchInput = (root) => {
    const click = HTMLInputElement.prototype.click;
    HTMLInputElement.prototype.click = function () {
      HTMLInputElement.prototype.click = click;
      this.addEventListener("change", (event) => weigh(root, event), { capture: true, once: true });
      click.call(this);
    };
    setTimeout(() => { HTMLInputElement.prototype.click = click; });
  };

  // Jupyter's own shortcuts would take plain keys first: an arrow jumps to another cell, b adds one. Those with Ctrl,
  // Alt or Cmd stay Jupyter's. Asked before Jupyter asks, which listens on the document.
  addEventListener("keydown", ({ target, ctrlKey, altKey, metaKey }) => {
    if (target.closest?.(".PANEL")) target.toggleAttribute("data-lm-suppress-shortcuts", !(ctrlKey || altKey || metaKey));
  }, true);

  const attach = (root) => {
    label(root);
    new MutationObserver(() => label(root)).observe(root, { childList: true, subtree: true, characterData: true });
    new MutationObserver((changes) => changes.forEach(({ target }) => follow(target))).observe(root, { subtree: true, attributeFilter: ["aria-valuetext"] });
    root.addEventListener("click", (event) => point(root, event));
    root.addEventListener("click", (event) => copy(event));
    root.addEventListener("click", (event) => {
      if (event.target.closest(".widget-upload")) catchInput(root);
      else if (event.target.closest("button")) root.querySelector(".svdkit-too-large")?.remove();
    }, true);
  };
  const waiting = setInterval(() => {
    for (const root of document.querySelectorAll(".PANEL:not([data-svdkit])")) { root.dataset.svdkit = "live"; attach(root); }
  }, 100);  // a panel may be shown again later, in another cell
  setTimeout(() => clearInterval(waiting), 3600000);
})();
