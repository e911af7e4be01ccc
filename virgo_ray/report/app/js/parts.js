/* Small parts that several views use. */
"use strict";

(function (Virgo) {
  const { el, show, foreign } = Virgo;

  const STATUS_NAMES = {
    correct: "right", wrong: "wrong", no_answer: "no answer", truncated: "cut off",
    repetitive: "looping", timeout: "not judged (time)", error: "not judged (error)",
  };

  function statusChip(status) {
    return el("span.chip.status-" + status.replace(/[^a-z_]/g, ""), {}, STATUS_NAMES[status] || status);
  }

  /** A table: `heads` are [text, class], rows are arrays of cells. */
  function table(heads, rows, options) {
    const settings = options || {};
    const cell = (tag, content, kind) => el(tag + (kind ? "." + kind.replace(/ /g, ".") : ""), {}, content);
    return el("div.scroll", { tabindex: settings.focusable ? "0" : null },
      el("table" + (settings.kind ? "." + settings.kind : ""), {},
        settings.caption ? el("caption", {}, settings.caption) : null,
        el("thead", {}, el("tr", {}, heads.map((h) => cell("th", h[0], h[1])))),
        el("tbody", {}, rows.map((row) => el("tr", row.attributes || {},
          (row.cells || row).map((c, i) => cell("td", c, heads[i][1])))))));
  }

  function section(title, note) {
    const children = Array.prototype.slice.call(arguments, 2).filter((c) => c !== null);
    if (!children.length) return null;
    return el("section", {}, el("h2", {}, title), note ? el("p.note", {}, note) : null, children);
  }

  function bar(share, kind) {
    const fill = el("i" + (kind ? "." + kind : ""));
    fill.style.width = Math.max(0, Math.min(100, 100 * share)).toFixed(2) + "%";
    return el("span.bar-track", { "aria-hidden": "true" }, fill);
  }

  function picture(image) {
    const [name, path] = image;
    const shown = el("img", { src: name, alt: "picture of the problem", loading: "lazy" });
    const holder = el("figure.picture", {}, shown);
    shown.addEventListener("error", function () {
      Virgo.clear(holder).append(el("p.dim", {}, "The picture was not copied into the report: ", foreign(path)));
    });
    return holder;
  }

  /** Links to the pages of a list around page `now`, which counts from 0. */
  function pager(view, parameters, now, num) {
    if (num < 2) return null;
    const to = (page, text, name) => page < 0 || page >= num
      ? el("span.button.off", { "aria-disabled": "true" }, text)
      : el("a.button", { href: Virgo.route.link(view, Object.assign({}, parameters, { page: page || "" })), rel: name }, text);
    return el("nav.pager", { "aria-label": "Pages" }, to(0, "first"), to(now - 1, "previous", "prev"),
      el("span.dim", {}, show.number(now + 1) + " of " + show.number(num)), to(now + 1, "next", "next"), to(num - 1, "last"));
  }

  function select(label, name, value, options, change) {
    const made = el("select", { name, onchange: () => change(name, made.value) },
      options.map(([key, text]) => el("option", { value: key, selected: String(key) === String(value || "") }, text)));
    return el("label.field", {}, el("span", {}, label), made);
  }

  function input(label, name, value, hint, change, kind) {
    const made = el("input", { name, value: value || "", placeholder: hint, type: kind || "text", autocomplete: "off",
      onchange: () => change(name, made.value.trim()) });
    return el("label.field", {}, el("span", {}, label), made);
  }

  function failure(error) {
    return el("p.failure", { role: "alert" }, String(error && error.message ? error.message : error));
  }

  Virgo.parts = { STATUS_NAMES, statusChip, table, section, bar, picture, pager, select, input, failure };
})(window.Virgo);
