/* Data and elements. Data files call `Virgo.put`; nothing a model wrote ever becomes markup:
   `Virgo.el` makes elements and text nodes, and there is no other way to the page. */
"use strict";

window.Virgo = (function () {
  const values = new Map();
  const loading = new Map();
  const MOST_TEXT_PAGES = 60; // kept in memory; the oldest go

  function put(name, value) {
    values.set(name, value);
  }

  /** The value of a data file; a promise, refused with words where the file is not there. */
  function load(name) {
    if (values.has(name)) return Promise.resolve(values.get(name));
    if (loading.has(name)) return loading.get(name);
    const promise = new Promise(function (resolve, reject) {
      const script = document.createElement("script");
      script.src = "data/" + name + ".js";
      script.onload = function () {
        loading.delete(name);
        script.remove();
        if (values.has(name)) resolve(values.get(name));
        else reject(new Error("data/" + name + ".js holds nothing; write the report anew"));
        dropOldTexts();
      };
      script.onerror = function () {
        loading.delete(name);
        script.remove();
        reject(new Error("data/" + name + ".js is not there; load the page again, or let `virgo-ray report RUN` write it"));
      };
      document.head.appendChild(script);
    });
    loading.set(name, promise);
    return promise;
  }

  function dropOldTexts() {
    const texts = Array.from(values.keys()).filter((name) => name.includes("/texts-"));
    for (const name of texts.slice(0, Math.max(0, texts.length - MOST_TEXT_PAGES))) {
      values.delete(name);
    }
  }

  /** `el("a.dim", {href: "#/x"}, "text", child)`; strings become text nodes, null nothing. */
  function el(kind, attributes) {
    const [tag, ...classes] = kind.split(".");
    const made = document.createElement(tag);
    if (classes.length) made.className = classes.join(" ");
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : String(value));
    }
    add(made, Array.prototype.slice.call(arguments, 2));
    return made;
  }

  function add(parent, children) {
    for (const child of children) {
      if (Array.isArray(child)) add(parent, child);
      else if (child instanceof Node) parent.appendChild(child);
      else if (child !== null && child !== undefined && child !== false) {
        parent.appendChild(document.createTextNode(String(child)));
      }
    }
  }

  function clear(node) {
    while (node.firstChild) node.removeChild(node.firstChild);
    return node;
  }

  /** A text that somebody else wrote: its direction is its own, and it ends where it ends. */
  function foreign(text, kind) {
    return el(kind || "span.foreign", { dir: "auto" }, String(text));
  }

  const show = {
    number: (x) => (x === null || x === undefined ? "–" : Math.round(x).toLocaleString("en")),
    share: (x, digits) =>
      x === null || x === undefined ? "–" : (100 * x).toFixed(digits === undefined ? 1 : digits) + " %",
    range: (pair) =>
      pair ? (100 * pair[0]).toFixed(1) + " to " + (100 * pair[1]).toFixed(1) + " %" : "",
    signed: (x, digits) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x).toFixed(digits),
    figure: (x) =>
      x === null || x === undefined ? "–" : Math.abs(x) >= 100 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3))),
    seconds: function (x) {
      if (x === null || x === undefined) return "–";
      const s = Math.round(x);
      if (s < 60) return (x < 10 ? x.toFixed(1) : s) + " s";
      if (s < 3600) return Math.floor(s / 60) + " min " + String(s % 60).padStart(2, "0") + " s";
      return Math.floor(s / 3600) + " h " + String(Math.floor((s % 3600) / 60)).padStart(2, "0") + " min";
    },
    time: (x) => new Date(1000 * x).toLocaleString(),
    round: (label) => (label === "base" ? "base" : "round " + label),
  };

  return { put, load, el, clear, foreign, show, views: {}, run: null };
})();
