/* The columns of rounds, as typed arrays: enough to filter and sort a million rollouts. */
"use strict";

(function (Virgo) {
  const { load } = Virgo;
  const rounds = new Map();
  const chosenOf = new Map();

  /** Labels of the explored rounds, the newest first. */
  const labels = () => Object.keys(Virgo.run.stored).sort((a, b) => b - a);

  /** The columns of a round; a promise. */
  function round(label) {
    if (!rounds.has(label)) {
      const promise = read(label);
      promise.catch(() => rounds.delete(label));
      rounds.set(label, promise);
    }
    return rounds.get(label);
  }

  async function read(label) {
    const known = Object.hasOwn(Virgo.run.stored, label) ? Virgo.run.stored[label] : null;
    if (!known) throw new Error("round " + label + " has no rollouts in this report");
    const problems = await load(known.folder + "/problems");
    const num = known.rows;
    const made = {
      label, num, known, problems,
      sample: new Int32Array(num), status: new Uint8Array(num), tokens: new Int32Array(num),
      opinion: new Uint8Array(num), problem: new Int32Array(num), reward: null, places: null,
    };
    for (let k = 0; k < known.chunks; k++) {
      const rows = await load(known.folder + "/rows-" + k);
      for (const name of ["sample", "status", "tokens", "opinion"]) {
        if (rows[name]) made[name].set(rows[name], rows.first);
      }
      if (rows.reward) made.reward = (made.reward || []).concat(rows.reward);
    }
    problems.first.forEach((first, p) => made.problem.fill(p, first, problems.first[p + 1] === undefined ? num : problems.first[p + 1]));
    return made;
  }

  /** The place of a problem in a round; undefined where it was not asked. */
  function placeOf(made, id) {
    if (!made.places) made.places = new Map(made.problems.id.map((x, i) => [x, i]));
    return made.places.get(id);
  }

  const rate = (made, p) => (made.problems.judged[p] ? made.problems.correct[p] / made.problems.judged[p] : null);

  /** First row, and the row after the last, of a problem. */
  function span(made, p) {
    const next = made.problems.first[p + 1];
    return [made.problems.first[p], next === undefined ? made.num : next];
  }

  /** The texts of these rows with their problem; a promise of [{row, problem}] in order, null for
      those that were not written in time. */
  async function texts(made, from, to) {
    const found = [];
    for (let row = from; row < to; row++) {
      const page = pageOf(made.known, row);
      if (page < 0) {
        found.push(null);
        continue;
      }
      const texts = await load(made.known.folder + "/texts-" + page);
      const own = texts.rows[row - texts.first];
      found.push({ row: own, problem: texts.problems[own.problem_id] });
    }
    return found;
  }

  function pageOf(known, row) {
    if (row >= known.written) return -1;
    let low = 0;
    let high = known.pages.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (known.pages[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** {round: {problem: {sample: weight}}} of what the fit of a round read; a promise. */
  const chosen = (label) => load(Virgo.run.fits[label].folder + "/chosen");

  /** Which rows of a round any noted fit read, as 0 and 1; a promise. */
  function chosenRows(made) {
    if (!chosenOf.has(made.label)) chosenOf.set(made.label, markChosen(made));
    return chosenOf.get(made.label);
  }

  async function markChosen(made) {
    const marks = new Uint8Array(made.num);
    for (const label of Object.keys(Virgo.run.fits)) {
      if (Number(label) < Number(made.label)) continue;
      const own = (await chosen(label))[made.label] || {};
      for (const [id, samples] of Object.entries(own)) {
        const p = placeOf(made, id);
        if (p === undefined) continue;
        const [from, to] = span(made, p);
        for (let row = from; row < to; row++) {
          if (Object.hasOwn(samples, String(made.sample[row]))) marks[row] = 1;
        }
      }
    }
    return marks;
  }

  Virgo.rollouts = { labels, round, placeOf, rate, span, texts, chosen, chosenRows };
})(window.Virgo);
