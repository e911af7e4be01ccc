/* The overview: what the rounds came to. */
"use strict";

(function (Virgo) {
  const { el, show, foreign, chart, parts } = Virgo;
  const share = (x) => show.share(x, 1);

  function curve(rounds, name, key) {
    const of = (r) => (r.evaluation ? r.evaluation : {});
    return {
      name,
      values: rounds.map((r) => at(of(r)[key])),
      low: rounds.map((r) => at(((of(r).intervals || {})[key] || [])[0])),
      high: rounds.map((r) => at(((of(r).intervals || {})[key] || [])[1])),
    };
  }

  const at = (x) => (x === undefined ? null : x);
  const plain = (name, values) => ({ name, values: values.map(at) });

  function charts(run) {
    const rounds = run.rounds;
    const xs = rounds.map((r, i) => i);
    const labels = rounds.map((r) => r.label);
    const measured = rounds.filter((r) => r.evaluation);
    const k = measured.length ? measured[measured.length - 1].evaluation.k : "k";
    const shares = { format: share, labels, note: "with 95 % intervals" };
    const tally = (r) => r.tally || {};
    const sampled = (r) => Boolean(r.tally && r.tally.asked);
    return [
      chart("Held-out accuracy", xs, [curve(rounds, "pass@1", "pass_at_1"), curve(rounds, "pass@" + k, "pass_at_k"), curve(rounds, "maj@" + k, "maj_at_k")], shares),
      chart("pass@1 by source", xs, sources(rounds), shares),
      chart("pass@1 by difficulty", xs, difficulty(rounds), { format: share, labels, note: "what the base solved, and what it did not" }),
      chart("Blank image and probes", xs, [curve(rounds, "blank image", "blank_image_pass_at_1"), curve(rounds, "perception", "perception_pass_at_1"), curve(rounds, "text", "text_pass_at_1")], shares),
      chart("Form of held-out answers", xs, [curve(rounds, "cut off", "truncated_share"), curve(rounds, "no answer", "no_answer_share"), curve(rounds, "looping", "repetitive_share"), curve(rounds, "long format", "long_format_share")], shares),
      chart("Length of thoughts", xs, [
        plain("held-out, mean", rounds.map((r) => r.evaluation && r.evaluation.mean_thought_tokens)),
        plain("sampled, mean", rounds.map((r) => (sampled(r) ? tally(r).mean_thought_tokens : null))),
        plain("accepted, mean", rounds.map((r) => (sampled(r) ? tally(r).mean_accepted_tokens : null))),
        plain("sampled, 95th percentile", rounds.map((r) => (sampled(r) ? tally(r).p95_thought_tokens : null))),
      ], { format: show.figure, labels, note: "tokens" }),
      chart("Accepted while exploring", xs, accepted(rounds, sampled), { format: share, labels, note: "share of rollouts" }),
      ...losses(run),
    ];
  }

  function sources(rounds) {
    const names = [...new Set(rounds.flatMap((r) => Object.keys((r.evaluation || {}).per_source || {})))].sort();
    return names.map(function (name) {
      const own = rounds.map((r) => ({ evaluation: ((r.evaluation || {}).per_source || {})[name] }));
      return curve(own, name, "pass_at_1");
    });
  }

  function difficulty(rounds) {
    const rate = (key) => rounds.map((r) => r.by_base && r.by_base[key][1] ? r.by_base[key][0] / r.by_base[key][1] : null);
    return [plain("solved by the base", rate("easy")), plain("not solved by the base", rate("hard"))];
  }

  function accepted(rounds, sampled) {
    const names = [...new Set(rounds.flatMap((r) => Object.keys((r.tally || {}).sources || {})))].sort().slice(0, 8);
    const all = plain("all", rounds.map((r) => (sampled(r) ? r.tally.accept_rate : null)));
    return [all, ...names.map((name) => plain(name, rounds.map((r) => (((r.tally || {}).sources || {})[name] || {}).accept_rate)))];
  }

  function losses(run) {
    const steps = run.steps.rows;
    if (!steps.length) return [];
    const column = (name) => steps.map((row) => at(row[run.steps.columns.indexOf(name)]));
    const xs = column("step").map((x, i) => (x === null ? i : x));
    return [
      chart("Training loss", xs, [plain("loss", column("loss"))], { note: "over optimizer steps" }),
      chart("Learning rate", xs, [plain("learning rate", column("lr"))], { format: (x) => (x === null ? "–" : x.toExponential(1)), note: "over optimizer steps" }),
      chart("Gradient norm", xs, [plain("gradient norm", column("grad_norm"))], { note: "over optimizer steps" }),
    ];
  }

  function tiles(run) {
    const measured = run.rounds.filter((r) => r.evaluation);
    const base = measured[0];
    const kept = measured.filter((r) => !r.is_rejected);
    const now = kept[kept.length - 1];
    const stored = Object.values(run.stored).reduce((sum, r) => sum + r.rows, 0);
    const seconds = run.rounds.reduce((sum, r) => sum + r.seconds, 0);
    const tile = (name, value, note) => el("div.tile", {}, el("span.dim", {}, name), el("strong", {}, value), el("span.dim", {}, note));
    return el("div.tiles", {},
      now ? tile("pass@1, " + show.round(now.label), share(now.evaluation.pass_at_1), show.range(now.evaluation.intervals.pass_at_1)) : null,
      base ? tile("pass@1 of the base", share(base.evaluation.pass_at_1), show.range(base.evaluation.intervals.pass_at_1)) : null,
      tile("rounds", show.number(run.rounds.length - 1) + " of " + show.number(run.num_rounds + 1), run.rounds.filter((r) => r.is_rejected).length + " rejected"),
      tile("rollouts stored", show.number(stored), Object.keys(run.stored).length + " rounds explored"),
      tile("time", show.seconds(seconds), "in complete rounds"));
  }

  Virgo.views.overview = function (main) {
    const run = Virgo.run;
    const rejected = run.rounds.filter((r) => r.is_rejected);
    main.append(el("h1", {}, foreign(run.name)),
      el("p.note", {}, run.objective + " from ", foreign(run.model), "; kept: version " + run.kept_version + " of the weights"),
      run.left.length ? el("p.failure", { role: "status" }, "There was no time to write " + run.left.join(", ") + ": `virgo-ray report RUN` writes the rest.") : "",
      tiles(run),
      el("div", {}, rejected.map((r) => el("div.failure", {}, el("b", {}, "Round " + r.label + " was rejected. "), r.failures.map((f) => foreign(f, "div.foreign"))))),
      el("section.charts", { "aria-label": "Curves" }, charts(run).filter(Boolean)),
      ...Virgo.tables(run));
  };
})(window.Virgo);
