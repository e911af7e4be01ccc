/* Starts the page: navigation, keys, and the view that the address names. */
"use strict";

(function (Virgo) {
  const { el, clear, route, parts, show } = Virgo;
  const SECTIONS = [["overview", "Overview"], ["traces", "Traces"], ["problems", "Problems"], ["training", "Training data"], ["search", "Search"]];
  const KEYS = [["1 to 5", "the sections"], ["j, k", "next and previous row or sample"], ["Enter", "open the row"], ["n, p", "next and previous page of a list"],
    ["[, ]", "the same problem in the round before and after"], ["t", "unfold or fold all thoughts"], ["/", "first filter, or the search"], ["Backspace", "back"], ["?", "these keys"]];
  const main = document.getElementById("main");
  let drawing = 0;

  async function draw() {
    const own = ++drawing;
    const { view, parameters } = route.read();
    const shown = el("div.view", { "data-view": view });
    for (const link of document.querySelectorAll("#nav a")) {
      const isNow = link.dataset.view === (view === "trace" ? "traces" : view);
      if (isNow) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    clear(main).append(shown);
    try {
      if (!Object.hasOwn(Virgo.views, view)) throw new Error("There is no page of this name.");
      await Virgo.views[view](shown, parameters);
    } catch (error) {
      shown.append(parts.failure(error));
    }
    if (own === drawing) {
      shown.setAttribute("data-ready", "true");
      document.title = (parameters.id || SECTIONS.filter((s) => s[0] === view).map((s) => s[1])[0] || "Report") + " · " + Virgo.run.name;
    }
  }

  function step(by) {
    const all = [...main.querySelectorAll(".row-link, .sample > header > a")];
    const now = all.indexOf(document.activeElement);
    const next = all[now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + by))];
    if (next) {
      next.focus();
      next.closest("tr, .sample").scrollIntoView({ block: "nearest" });
    }
  }

  function follow(selector) {
    const link = main.querySelector(selector);
    if (link) location.hash = link.getAttribute("href");
  }

  function neighbour(by) {
    const all = [...main.querySelectorAll("nav.rounds a[data-round]")];
    const now = all.findIndex((a) => a.getAttribute("aria-current"));
    const next = now < 0 ? null : all[now + by];
    if (next) location.hash = next.getAttribute("href");
  }

  function toggleThoughts() {
    const all = [...main.querySelectorAll("details.thought, details.example")];
    const isAnyClosed = all.some((d) => !d.open);
    for (const details of all) details.open = isAnyClosed;
  }

  const ACTIONS = {
    j: () => step(1), k: () => step(-1), n: () => follow(".pager a[rel=next]"), p: () => follow(".pager a[rel=prev]"),
    "[": () => neighbour(-1), "]": () => neighbour(1), t: toggleThoughts, Backspace: () => history.back(),
    "/": function () {
      const field = main.querySelector(".filters input, .filters select");
      if (field) field.focus();
      else route.go("search");
    },
    "?": () => document.getElementById("help").showModal(),
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) {
      if (event.key === "Escape" && event.target.blur) event.target.blur();
      return;
    }
    const section = SECTIONS[Number(event.key) - 1];
    if (section) route.go(section[0]);
    else if (Object.hasOwn(ACTIONS, event.key)) ACTIONS[event.key]();
    else return;
    event.preventDefault();
  }

  function frame() {
    const run = Virgo.run;
    document.getElementById("run-name").textContent = run.name;
    document.getElementById("run-note").textContent = (run.rounds.length - 1) + " of " + (run.num_rounds + 1) + " rounds, " + show.time(run.written);
    document.getElementById("nav").append(...SECTIONS.map((s) => el("a", { href: "#/" + s[0], "data-view": s[0] }, s[1])),
      el("button", { type: "button", title: "keys", "aria-label": "keys", onclick: ACTIONS["?"] }, "?"));
    document.getElementById("skip").addEventListener("click", function (event) {
      event.preventDefault();
      main.focus();
    });
    const help = document.getElementById("help");
    help.append(el("h2", {}, "Keys"), parts.table([["key"], ["what it does"]], KEYS.map((k) => [el("kbd", {}, k[0]), k[1]])),
      el("form", { method: "dialog" }, el("button", {}, "close")));
  }

  Virgo.load("run").then(function (run) {
    Virgo.run = run;
    frame();
    window.addEventListener("hashchange", function () {
      window.scrollTo(0, 0);
      draw();
    });
    document.addEventListener("keydown", onKey);
    return draw();
  }).catch((error) => clear(main).append(parts.failure(error)));
})(window.Virgo);
