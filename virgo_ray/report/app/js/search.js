/* Search over all texts, where the report is served. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts, route, rollouts } = Virgo;
  const isServed = location.protocol === "http:";

  Virgo.views.search = async function (main, parameters) {
    main.append(el("h1", {}, "Search"));
    const field = parts.input("Words in a text, question or answer", "q", parameters.q, "as they stand", (name, value) => route.go("search", { q: value }), "search");
    main.append(el("form.filters", { onsubmit: (event) => event.preventDefault() }, field));
    if (!isServed) {
      return main.append(el("p.note", {}, "A page that was opened from disk cannot search texts that it has not loaded. ", el("code", {}, "virgo-ray report RUN --serve"), " serves this report on this machine, with a search over all texts."));
    }
    field.querySelector("input").focus();
    if (!parameters.q) return;
    const status = el("p.note", { role: "status", id: "count" }, "Searching…");
    main.append(status);
    const answer = await (await fetch("search?" + new URLSearchParams({ q: parameters.q }))).json();
    if (answer.error) return main.append(parts.failure(answer.error));
    status.textContent = (answer.is_cut ? "The first " : "") + show.number(answer.hits.length) + (answer.hits.length === 1 ? " rollout" : " rollouts");
    const known = new Set(rollouts.labels());
    const rows = answer.hits.map(([round, id, sample]) => [
      known.has(String(round)) ? el("a.row-link", { href: route.link("trace", { round, id, s: sample, open: "1" }) }, foreign(id)) : foreign(id), String(round), String(sample)]);
    if (rows.length) main.append(parts.table([["problem", "id"], ["round", "num"], ["sample", "num"]], rows, { kind: "list" }));
  };
})(window.Virgo);
