// From the points of /dashboard/data to what the charts draw: pure.

const SIZES = ["1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1024", "more"];
// Over how many seconds "now" is averaged.
const NOW_S = 10;

// Keeps the points of the last so many seconds, the new ones behind those there are.
export function joined(points, fresh, keepsS) {
  const last = points.at(-1)?.at ?? 0;
  const all = [...points, ...fresh.filter((point) => point.at > last)];
  const since = (all.at(-1)?.at ?? 0) - keepsS;
  return all.filter((point) => point.at > since);
}

export function modelsIn(points) {
  return [...new Set(points.flatMap((point) => Object.keys(point.models)))];
}

// What a point says of a model; of all of them, if none is named.
export function of(point, model) {
  if (model) return point.models[model];
  return point.all ?? Object.values(point.models)[0];
}

// Returns times and, for each name, its values; null where nothing was recorded for a while.
export function columns(points, model, names, pick) {
  const times = [];
  const values = names.map(() => []);
  for (const point of points) {
    const began = point.at - point.seconds;
    if (times.length && began - times.at(-1) > 1) {
      times.push(began);
      for (const column of values) column.push(null);
    }
    const said = of(point, model);
    times.push(point.at);
    for (const [index, name] of names.entries()) {
      values[index].push(said ? pick(said, name) : null);
    }
  }
  return [times, ...values];
}

// Adds up columns from the last to the first, so that areas lie upon each other.
export function stacked(data) {
  const [times, ...values] = data;
  const sums = values.map((column) => [...column]);
  for (let index = sums.length - 2; index >= 0; index -= 1) {
    for (let place = 0; place < times.length; place += 1) {
      if (sums[index][place] !== null) sums[index][place] += sums[index + 1][place] ?? 0;
    }
  }
  return [times, ...sums];
}

// All the labels that ever had a count, such as the reasons of refusals.
export function labelsIn(points, model, kind) {
  const found = points.flatMap((point) => Object.keys(of(point, model)?.[kind] ?? {}));
  return [...new Set(found)].toSorted();
}

// How many batches were of each size: the sizes' names, and their counts.
export function distribution(points, model) {
  const counts = SIZES.map((size) =>
    points.reduce((sum, point) => sum + (of(point, model)?.batch_sizes?.[size] ?? 0), 0));
  const last = Math.max(3, counts.findLastIndex((count) => count > 0));
  return { names: SIZES.slice(0, last + 1).map(sizeName), counts: counts.slice(0, last + 1) };
}

function sizeName(size, index) {
  if (size === "more") return "over 1024";
  const below = index ? Number(SIZES[index - 1]) + 1 : 1;
  return below >= Number(size) ? size : `${below}–${size}`;
}

// The present in numbers: over the last ten seconds, latencies of the last that had any.
export function present(points, model) {
  const end = points.at(-1)?.at ?? 0;
  const recent = points.filter((point) => point.at > end - NOW_S);
  const said = recent.map((point) => of(point, model) ?? {});
  const seconds = recent.reduce((sum, point) => sum + point.seconds, 0) || 1;
  const mean = (pick) =>
    recent.reduce((sum, point, index) => sum + pick(said[index]) * point.seconds, 0) / seconds;
  const batches = mean((one) => total(one.batches_per_s));
  const latest = (name) => said.findLast((one) => one[name] !== undefined)?.[name] ?? null;
  return {
    requests: mean((one) => total(one.answers_per_s)),
    p50: latest("p50_ms"),
    p99: latest("p99_ms"),
    batch: batches ? mean((one) => one.items_per_s ?? 0) / batches : null,
    queue: said.at(-1)?.queue_items ?? 0,
    busy: mean((one) => one.busy_share ?? 0),
  };
}

// Items in a batch, on average; null: there was none.
export function meanBatch(said) {
  const batches = total(said.batches_per_s);
  return batches ? (said.items_per_s ?? 0) / batches : null;
}

export function total(counts) {
  return Object.values(counts ?? {}).reduce((sum, count) => sum + count, 0);
}

// Requests by what became of them.
export function outcomes(said, outcome) {
  const counts = Object.entries(said.answers_per_s ?? {});
  return counts.reduce((sum, [code, rate]) => sum + (outcomeOf(Number(code)) === outcome ? rate : 0), 0);
}

function outcomeOf(code) {
  if (code < 400) return "answered";
  if (code === 429 || code === 503 || code === 504) return "refused";
  return code < 500 ? "client's error" : "failed";
}
