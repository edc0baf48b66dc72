/** The grain of a chart by time: days of a short period, weeks of a long one. A week begins on Monday and has its date. */

import { daysBetween, plusDays } from "./dates";
import { grouped } from "./sums";

export type Grain = "day" | "week" | "month";

/** More days are too many bars for a narrow window. */
const MOST_DAYS = 62;

/** Return the grain for a period of days, both included. */
export function grainOf(from: string, to: string): "day" | "week" {
  return plusDays(from, MOST_DAYS) > to ? "day" : "week";
}

/** Return the Monday of the week of a day. */
export function mondayOf(day: string): string {
  return plusDays(day, -((new Date(`${day}T00:00:00Z`).getUTCDay() + 6) % 7));
}

/** Return the first day of the part of time that a day belongs to. */
export function startOf(day: string, grain: "day" | "week"): string {
  return grain === "day" ? day : mondayOf(day);
}

/** Return the last day of a part of time. */
export function endOf(start: string, grain: "day" | "week"): string {
  return grain === "day" ? start : plusDays(start, 6);
}

/** Return rows by the day or week of each, without a gap from the first one to the last one. */
export function byTime<Row extends { day: string }>(rows: readonly Row[], grain: "day" | "week"): { start: string; rows: Row[] }[] {
  const groups = grouped(rows, (row) => startOf(row.day, grain));
  const starts = [...groups.keys()].toSorted();
  const [first, last] = [starts[0], starts.at(-1)];
  const found: { start: string; rows: Row[] }[] = [];
  if (!first || !last) return found;
  for (let start = first; start <= last; start = plusDays(start, grain === "day" ? 1 : 7)) found.push({ start, rows: groups.get(start) ?? [] });
  return found;
}

/** Return the days of a part of time that are in a period. */
export function within(start: string, grain: "day" | "week", period: { from: string; to: string }): { from: string; to: string } {
  const end = endOf(start, grain);
  return { from: start < period.from ? period.from : start, to: end > period.to ? period.to : end };
}

/** Write the start of a part of time; of a week that is not whole in the period, also how many days it has. */
export function partText(start: string, grain: "day" | "week", period: { from: string; to: string }): string {
  const { from, to } = within(start, grain, period);
  const count = daysBetween(from, to);
  return grain === "day" || count === 7 ? start : `${start} (${count} ${count === 1 ? "day" : "days"})`;
}
