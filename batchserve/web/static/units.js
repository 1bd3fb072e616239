// Numbers with their units, as short as they are still right.

export function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

export function rounded(value) {
  return value.toFixed(value < 10 ? 1 : 0);
}

export function perSecond(value) {
  return `${rounded(value)}/s`;
}

export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}
