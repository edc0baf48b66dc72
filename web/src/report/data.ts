/** What a page gives to draw, as `etl/report/parts.py` writes it. */

export type Figure = number | null;
export type Kind = "count" | "decimal" | "money" | "percent";

export interface Panel {
  name: string;
  values: Figure[];
}

/** Figures over time: bars or a line in each panel, all with the same axes. */
export interface Times {
  type: "times";
  label: string;
  unit: string;
  kind: Kind;
  grain: "day" | "week" | "month";
  isBars: boolean;
  times: string[];
  youngFrom: string | null;
  panels: Panel[];
}

/** Figures of a few groups: the series are on top of each other. */
export interface Groups {
  type: "groups";
  label: string;
  axis: string;
  unit: string;
  names: string[];
  series: Panel[];
}

/** From one figure to a larger one for each name. */
export interface Ranges {
  type: "ranges";
  label: string;
  unit: string;
  low: string;
  high: string;
  rows: [name: string, low: Figure, high: Figure][];
}

export type Chart = Times | Groups | Ranges;

const PLACES = { count: 0, decimal: 1, money: 2 };

/** Write a figure of a kind; an axis needs no places of a share. */
export function written(value: Figure | undefined, kind: Kind, places?: number): string {
  if (value == null) return "–";
  const shown = places ?? (kind === "percent" ? 1 : PLACES[kind]);
  const number = kind === "percent" ? 100 * value : value;
  const text = number.toLocaleString("en", { minimumFractionDigits: shown, maximumFractionDigits: shown });
  return kind === "percent" ? `${text} %` : text;
}
