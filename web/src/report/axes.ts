/** What all charts have in common: colours of the page, axes with names, and the room for a mark of what may change. */

import uPlot from "uplot";

export const FONT = "12px system-ui, sans-serif";

/** Return a colour of the style sheet, as it is now. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Return an axis with a name. */
export function axis(label: string): uPlot.Axis {
  const line = { stroke: colour("--line"), width: 1 };
  return { stroke: colour("--text"), grid: line, ticks: line, font: FONT, label, labelSize: 20, labelFont: FONT };
}

/** Return at most so many of the places, the last one always, at distances that are multiples of `unit`. */
export function chosen(count: number, most: number, unit = 1): number[] {
  const step = unit * Math.max(1, Math.ceil(count / unit / Math.max(1, most)));
  return [...Array(count).keys()].filter((place) => (count - 1 - place) % step === 0);
}

/** The options that no chart changes. */
export function plain(width: number, height: number): Pick<uPlot.Options, "width" | "height" | "legend" | "cursor"> {
  return { width, height, legend: { show: false }, cursor: { drag: { x: false, y: false }, y: false } };
}
