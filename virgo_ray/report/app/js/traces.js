/* The list of rollouts, filtered. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts, rollouts, route } = Virgo;
  const PAGE = 50;
  const FILTERS = ["round", "source", "status", "pass", "tokens", "opinion", "chosen", "problem", "sort"];
  const PASS = [["", "any"], ["0..0", "none right"], ["0..0.25", "up to 1/4"], ["0.25..0.5", "1/4 to 1/2"], ["0.5..0.75", "1/2 to 3/4"], ["0.75..1", "3/4 and more"], ["1..1", "all right"]];

  /** "0..0.25", "..100" or "20..": [low, high]; null for what is no range. */
  function range(text) {
    const found = /^\s*(\d*\.?\d*)\s*(?:\.\.|-|–|to)\s*(\d*\.?\d*)\s*$/.exec(text || "");
    if (!found) return /^\d+(\.\d+)?$/.test(text || "") ? [Number(text), Number(text)] : null;
    return [found[1] === "" ? -Infinity : Number(found[1]), found[2] === "" ? Infinity : Number(found[2])];
  }

  async function find(parameters, say) {
    const wanted = parameters.round === "all" ? rollouts.labels() : [parameters.round || rollouts.labels()[0]];
    const status = Virgo.run.statuses.indexOf(parameters.status);
    const opinion = parameters.opinion === "none" ? 0 : Virgo.run.opinions.indexOf(parameters.opinion || "-");
    const tokens = range(parameters.tokens);
    const pass = range(parameters.pass);
    const part = (parameters.problem || "").toLowerCase();
    const found = [];
    for (const label of wanted) {
      say("Reading round " + label + "…");
      const made = await rollouts.round(label);
      const marks = parameters.chosen ? await rollouts.chosenRows(made) : null;
      const source = parameters.source ? made.problems.sources.indexOf(parameters.source) : -1;
      if (parameters.source && source < 0) continue;
      const rows = [];
      for (let p = 0; p < made.problems.id.length; p++) {
        if (source >= 0 && made.problems.source[p] !== source) continue;
        if (part && !made.problems.id[p].toLowerCase().includes(part)) continue;
        const rate = rollouts.rate(made, p);
        if (pass && (rate === null || rate < pass[0] || rate > pass[1])) continue;
        const [from, to] = rollouts.span(made, p);
        for (let row = from; row < to; row++) {
          if (status >= 0 && made.status[row] !== status) continue;
          if (opinion >= 0 && made.opinion[row] !== opinion) continue;
          if (tokens && (made.tokens[row] < tokens[0] || made.tokens[row] > tokens[1])) continue;
          if (marks && marks[row] !== (parameters.chosen === "yes" ? 1 : 0)) continue;
          rows.push(row);
        }
      }
      found.push({ made, rows: sorted(made, rows, parameters.sort) });
    }
    return found;
  }

  function sorted(made, rows, by) {
    const rate = (row) => (rollouts.rate(made, made.problem[row]) === null ? 2 : rollouts.rate(made, made.problem[row]));
    const orders = {
      longest: (a, b) => made.tokens[b] - made.tokens[a] || a - b,
      shortest: (a, b) => made.tokens[a] - made.tokens[b] || a - b,
      hardest: (a, b) => rate(a) - rate(b) || a - b,
      easiest: (a, b) => rate(b) - rate(a) || a - b,
    };
    return Object.hasOwn(orders, by || "") ? rows.sort(orders[by]) : rows;
  }

  function form(parameters, made) {
    const change = (name, value) => route.go("traces", Object.assign({}, parameters, { [name]: value, page: "" }));
    const sources = [...new Set(made ? made.problems.sources : [])];
    if (parameters.source && !sources.includes(parameters.source)) sources.push(parameters.source);
    const { select, input } = parts;
    return el("form.filters", { onsubmit: (event) => event.preventDefault(), "aria-label": "Filters" },
      select("Round", "round", parameters.round || rollouts.labels()[0], [...rollouts.labels().map((l) => [l, "round " + l]), ["all", "all rounds"]], change),
      select("Status", "status", parameters.status, [["", "any"], ...Virgo.run.statuses.map((s) => [s, parts.STATUS_NAMES[s] || s])], change),
      select("Source", "source", parameters.source, [["", "any"], ...sources.map((s) => [s, s])], change),
      select("Pass rate", "pass", parameters.pass, PASS, change),
      input("Tokens", "tokens", parameters.tokens, "100..400", change),
      select("Second opinion", "opinion", parameters.opinion, [["", "any"], ["none", "not asked"], ["agrees", "agrees"], ["doubts", "doubts"], ["unknown", "cannot tell"]], change),
      select("Trained on", "chosen", parameters.chosen, [["", "any"], ["yes", "yes"], ["no", "no"]], change),
      input("Problem id", "problem", parameters.problem, "part of it", change, "search"),
      select("Order", "sort", parameters.sort, [["", "by problem"], ["longest", "longest first"], ["shortest", "shortest first"], ["hardest", "hardest first"], ["easiest", "easiest first"]], change),
      el("a.button", { href: "#/traces" }, "clear"));
  }

  function rowsOf(found, from, to) {
    const cells = [];
    let seen = 0;
    for (const { made, rows } of found) {
      for (const row of rows.slice(Math.max(0, from - seen), Math.max(0, to - seen))) cells.push(listed(made, row));
      seen += rows.length;
    }
    return cells;
  }

  function listed(made, row) {
    const p = made.problem[row];
    const id = made.problems.id[p];
    const to = route.link("trace", { round: made.label, id, s: made.sample[row] });
    const said = Virgo.run.opinions[made.opinion[row]];
    return [el("a.row-link", { href: to }, foreign(id)), made.label, String(made.sample[row]), parts.statusChip(Virgo.run.statuses[made.status[row]]),
      made.problems.correct[p] + " of " + made.problems.judged[p], show.number(made.tokens[row]),
      foreign(made.problems.sources[made.problems.source[p]]), said || "–", ...(made.reward ? [show.figure(made.reward[row])] : [])];
  }

  Virgo.views.traces = async function (main, parameters) {
    main.append(el("h1", {}, "Traces"));
    if (!rollouts.labels().length) return main.append(el("p.note", {}, "No round has explored yet."));
    const status = el("p.note", { role: "status", id: "count" }, "Reading…");
    const first = await rollouts.round(parameters.round && parameters.round !== "all" ? parameters.round : rollouts.labels()[0]);
    main.append(form(parameters, first), status);
    const found = await find(parameters, (text) => (status.textContent = text));
    const num = found.reduce((sum, part) => sum + part.rows.length, 0);
    const pages = Math.ceil(num / PAGE);
    const page = Math.max(0, Math.min(pages - 1, Number(parameters.page) || 0));
    const stored = found.reduce((sum, part) => sum + part.made.num, 0);
    status.textContent = show.number(num) + (num === 1 ? " rollout" : " rollouts") + " of " + show.number(stored);
    if (!Object.keys(Virgo.run.fits).length && parameters.chosen) main.append(el("p.note", {}, "What this run's fits read was not noted."));
    if (!num) return;
    const heads = [["problem", "id"], ["round", "num"], ["sample", "num"], ["verdict"], ["right", "num"], ["tokens", "num"], ["source", "wide"], ["second opinion", "wide"]];
    if (found.some((part) => part.made.reward)) heads.push(["reward", "num wide"]);
    main.append(parts.table(heads, rowsOf(found, page * PAGE, (page + 1) * PAGE), { kind: "list" }), parts.pager("traces", parameters, page, pages) || "");
  };

  Virgo.range = range;
  Virgo.filters = FILTERS;
})(window.Virgo);
