/* Problems over all rounds: the hardest ones, and those that a later round lost or won. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts, rollouts, route } = Virgo;
  const PAGE = 50;

  async function read(say) {
    const found = [];
    for (const label of rollouts.labels().reverse()) {
      say("Reading round " + label + "…");
      found.push(await Virgo.load(Virgo.run.stored[label].folder + "/problems").then((problems) => ({ label, problems })));
    }
    return found;
  }

  /** All problems with their (correct, judged) by round. */
  function gather(rounds) {
    const all = new Map();
    rounds.forEach(function ({ problems }, r) {
      problems.id.forEach(function (id, p) {
        if (!problems.judged[p]) return;
        let own = all.get(id);
        if (!own) all.set(id, (own = { id, source: problems.sources[problems.source[p]], by: [], correct: 0, judged: 0 }));
        own.by[r] = [problems.correct[p], problems.judged[p]];
        own.correct += problems.correct[p];
        own.judged += problems.judged[p];
      });
    });
    return [...all.values()];
  }

  const rate = (pair) => pair[0] / pair[1];

  function choose(all, view, a, b) {
    if (view === "hardest") {
      return all.sort((x, y) => x.correct / x.judged - y.correct / y.judged || y.judged - x.judged || (x.id < y.id ? -1 : 1));
    }
    const [from, to] = view === "lost" ? [a, b] : [b, a];
    return all.filter((x) => x.by[a] && x.by[b] && x.by[from][0] > 0 && x.by[to][0] === 0)
      .sort((x, y) => rate(y.by[from]) - rate(x.by[from]) || (x.id < y.id ? -1 : 1));
  }

  function form(parameters, labels, a, b) {
    const change = (name, value) => route.go("problems", Object.assign({}, parameters, { [name]: value, page: "" }));
    const options = labels.map((l) => [l, "round " + l]);
    const isPair = (parameters.view || "hardest") !== "hardest";
    return el("form.filters", { onsubmit: (event) => event.preventDefault(), "aria-label": "Filters" },
      parts.select("Problems", "view", parameters.view || "hardest", [["hardest", "hardest first"], ["lost", "lost between two rounds"], ["won", "won between two rounds"]], change),
      isPair ? parts.select("From", "a", labels[a], options, change) : null,
      isPair ? parts.select("To", "b", labels[b], options, change) : null);
  }

  Virgo.views.problems = async function (main, parameters) {
    main.append(el("h1", {}, "Problems"));
    if (!rollouts.labels().length) return main.append(el("p.note", {}, "No round has explored yet."));
    const status = el("p.note", { role: "status", id: "count" }, "Reading…");
    main.append(status);
    const rounds = await read((text) => (status.textContent = text));
    const labels = rounds.map((r) => r.label);
    const place = (label, usual) => (labels.includes(label) ? labels.indexOf(label) : Math.max(0, usual));
    const a = place(parameters.a, labels.length - 2);
    const b = place(parameters.b, labels.length - 1);
    const view = parameters.view || "hardest";
    main.insertBefore(form(parameters, labels, a, b), status);
    const chosen = choose(gather(rounds), view, a, b);
    const what = { hardest: "problems, those with the smallest share of right answers first", lost: "problems were solved in round " + labels[a] + " and not once in round " + labels[b], won: "problems were solved in round " + labels[b] + " and not once in round " + labels[a] };
    status.textContent = show.number(chosen.length) + " " + what[view];
    if (!chosen.length) return;
    const shown = labels.length > 8 ? [...new Set([0, a, b, labels.length - 1])].sort((x, y) => x - y) : labels.map((l, i) => i);
    const heads = [["problem", "id"], ["source", "wide"], ["all rounds", "num"], ...shown.map((i) => ["round " + labels[i], "num"])];
    const page = Math.min(Math.ceil(chosen.length / PAGE) - 1, Number(parameters.page) || 0);
    const last = (x) => labels[x.by.length - 1];
    const rows = chosen.slice(page * PAGE, (page + 1) * PAGE).map((x) => [
      el("a.row-link", { href: route.link("trace", { round: last(x), id: x.id, all: x.by.filter(Boolean).length > 1 ? "1" : "" }) }, foreign(x.id)), foreign(x.source), x.correct + " of " + x.judged,
      ...shown.map((i) => (x.by[i] ? x.by[i][0] + " of " + x.by[i][1] : "–"))]);
    main.append(parts.table(heads, rows, { kind: "list" }), parts.pager("problems", parameters, page, Math.ceil(chosen.length / PAGE)) || "");
  };
})(window.Virgo);
