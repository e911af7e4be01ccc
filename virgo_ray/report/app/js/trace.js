/* One problem: its picture and question, its samples side by side, and the same in other rounds. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, parts, rollouts, route } = Virgo;

  /** [before, thought, rest, is finished] of a text by the tags that the run knows. */
  function split(text) {
    for (const [begin, end] of Virgo.run.formats) {
      const from = text.indexOf(begin);
      const to = text.lastIndexOf(end);
      if (from < 0 && to < 0) continue;
      const start = from < 0 ? 0 : from + begin.length;
      if (to < start) return [text.slice(0, Math.max(0, from)), text.slice(start), "", false];
      return [text.slice(0, Math.max(0, from)), text.slice(start, to), text.slice(to + end.length), true];
    }
    return ["", "", text, true];
  }

  function thought(text, isOpen) {
    const [before, inside, rest, isFinished] = split(text);
    return [
      before.trim() ? foreign(before.trim(), "div.text.foreign") : null,
      inside ? el("details.thought", { open: isOpen }, el("summary", {}, "Thought, " + show.number(inside.length) + " characters" + (isFinished ? "" : ", never finished")), foreign(inside.trim(), "div.text.foreign")) : null,
      rest.trim() ? foreign(clean(rest), "div.text.answer.foreign") : null,
    ];
  }

  function clean(text) {
    let shown = text;
    for (const format of Virgo.run.formats) {
      for (const tag of format.slice(2)) if (tag) shown = shown.split(tag).join("");
    }
    return shown.trim();
  }

  function verdict(row, problem) {
    const why = [];
    if (row.answer) why.push([el("span.dim", {}, "answered "), foreign(row.answer), el("span.dim", {}, " against "), foreign(problem.gold), el("span.dim", {}, ", by rule " + (row.rule || "?"))]);
    if (row.reason) why.push([foreign(row.reason)]);
    if (row.finish_reason !== "stop") why.push(["ended by " + row.finish_reason]);
    if (row.guess_chance > 0) why.push(["a guesser is right with " + show.share(row.guess_chance, 0)]);
    for (const [name, [said, reason]] of Object.entries(row.opinions)) why.push(["second opinion ", el("b", {}, name), ": " + said + (reason ? ": " : ""), reason ? foreign(reason) : null]);
    for (const old of row.old_verdicts) why.push(["before it was judged again: " + old.status + " ", foreign(old.answer || "")]);
    return el("ul.why", {}, why.map((w) => el("li", {}, w)));
  }

  function card(made, index, found, parameters, weights) {
    const sample = made.sample[index];
    const isChosen = String(sample) === parameters.s && made.label === (parameters.round || made.label);
    const head = el("header", {}, el("a", { href: route.link("trace", Object.assign({}, parameters, { round: made.label, s: sample })) }, "round " + made.label + ", sample " + sample), " ",
      parts.statusChip(Virgo.run.statuses[made.status[index]]),
      weights.map(([label, weight]) => el("span.chip.trained", { title: "read by the fit of round " + label }, "trained in " + label + (weight === 1 ? "" : ", weight " + show.figure(weight)))));
    const attributes = { id: "sample-" + made.label + "-" + sample, "data-sample": sample };
    const kind = "article.card.sample" + (isChosen ? ".current" : "");
    if (!found) return el(kind, attributes, head, el("p.dim", {}, "Its text was not written in time: `virgo-ray report RUN` writes it."));
    const { row, problem } = found;
    const facts = show.number(made.tokens[index]) + " tokens, " + (row.sampling.teacher ? "teacher " + row.sampling.teacher : "weights v" + String(row.weights_version).padStart(4, "0"))
      + (row.sampling.temperature === undefined ? "" : ", temperature " + row.sampling.temperature)
      + (made.reward ? ", reward " + show.figure(made.reward[index]) : "");
    return el(kind, attributes, head, el("p.dim.facts", {}, facts), verdict(row, problem), thought(row.text, parameters.open === "1"));
  }

  async function samples(label, id, parameters) {
    const made = await rollouts.round(label);
    const p = rollouts.placeOf(made, id);
    if (p === undefined) return null;
    const [from, to] = rollouts.span(made, p);
    const texts = await rollouts.texts(made, from, to);
    const weights = await weightsOf(label, id);
    const cards = texts.map((found, n) => card(made, from + n, found, parameters, weights(made.sample[from + n])));
    return { made, p, problem: (texts.find(Boolean) || {}).problem, cards };
  }

  /** A function of a sample: [round of a fit, weight] of the noted fits that read it. */
  async function weightsOf(label, id) {
    const found = [];
    const fits = Object.keys(Virgo.run.fits).filter((l) => Number(l) >= Number(label)).slice(0, 8);
    for (const fit of fits) {
      const own = ((await rollouts.chosen(fit))[label] || {})[id];
      if (own) found.push([fit, own]);
    }
    return (sample) => found.filter((f) => Object.hasOwn(f[1], String(sample))).map((f) => [f[0], f[1][String(sample)]]);
  }

  function question(id, found) {
    const problem = found.problem;
    const { made, p } = found;
    if (!problem) return el("div.problem.card", {}, el("p.dim", {}, "The text of this problem was not written in time."));
    const options = problem.options || [];
    return el("div.problem.card", {},
      el("div.pictures", {}, problem.images.map(parts.picture)),
      el("div.question", {},
        problem.context ? foreign(problem.context, "div.text.foreign.dim") : null,
        foreign(problem.question, "div.text.foreign"),
        options.length ? el("ol.options", {}, options.map((o) => el("li", {}, foreign(o)))) : null,
        el("p", {}, el("span.dim", {}, "gold "), foreign(problem.gold, "b.foreign"), el("span.dim", {}, " (" + problem.gold_type + ")")),
        el("p.dim", {}, "source ", foreign(problem.source), "; " + made.problems.correct[p] + " of " + made.problems.judged[p] + " right in round " + made.label,
          made.problems.blank[p] === null ? "" : made.problems.blank[p] ? "; also solved without its picture" : "; not solved without its picture")));
  }

  async function tabs(id, parameters, place) {
    for (const label of rollouts.labels().reverse()) {
      const made = await rollouts.round(label);
      const p = rollouts.placeOf(made, id);
      if (p === undefined) continue;
      const isNow = label === parameters.round && !parameters.all;
      place.append(el("a.button" + (isNow ? ".now" : ""), { href: route.link("trace", { round: label, id }), "aria-current": isNow ? "true" : null, "data-round": label },
        "round " + label + ": " + made.problems.correct[p] + " of " + made.problems.judged[p]));
    }
    if (place.children.length > 1) place.append(el("a.button" + (parameters.all ? ".now" : ""), { href: route.link("trace", Object.assign({}, parameters, { all: parameters.all ? "" : "1", s: "" })) }, "side by side"));
  }

  Virgo.views.trace = async function (main, parameters) {
    const id = parameters.id || "";
    const label = parameters.round || rollouts.labels()[0];
    main.append(el("h1", {}, "Problem ", foreign(id)));
    const found = await samples(label, id, parameters);
    if (!found) return main.append(parts.failure("Round " + label + " did not ask this problem, or this report does not have it."));
    const rounds = el("nav.rounds", { "aria-label": "Rounds of this problem" });
    main.append(question(id, found), rounds);
    await tabs(id, Object.assign({}, parameters, { round: label }), rounds);
    const labels = parameters.all ? rollouts.labels().reverse() : [label];
    for (const other of labels) {
      const own = other === label ? found : await samples(other, id, parameters);
      if (!own) continue;
      main.append(el("section", {}, parameters.all ? el("h2", {}, "Round " + other) : null, el("div.samples", {}, own.cards)));
    }
    const current = main.querySelector(".sample.current");
    if (current) current.scrollIntoView({ block: "nearest" });
  };
})(window.Virgo);
