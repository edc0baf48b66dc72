/** The days that are looked at: those of the address, else the six months up to the newest event. */

import { computed } from "vue";
import type { Condition } from "../api/client";
import { dayOf, daysBetween, monthOf, plusDays } from "../figures/dates";
import { live } from "./live";
import { place } from "./place";

const MONTHS = 6;

/** The day of the newest event in the facts; null before the first load. */
export const newestDay = computed(() => dayOf(live.freshness["daily_shipments"]?.newest_event_at));

/** The first and the last day, both included, and whether they are the default. */
export const period = computed(() => {
  const newest = newestDay.value ?? new Date(live.at).toISOString().slice(0, 10);
  const to = place.to || newest;
  const from = place.from || monthOf(to, 1 - MONTHS);
  return { from, to, isDefault: !place.from && !place.to };
});

/** Return the conditions that choose the days of the period. */
export function days(column = "day", until = "9999-12-31"): Condition[] {
  const to = period.value.to < until ? period.value.to : until;
  return [[column, `gte.${period.value.from}`], [column, `lte.${to}`]];
}

/** Return the conditions that choose as many days before the period. */
export function before(column: string): Condition[] {
  const { from, to } = period.value;
  return [[column, `gte.${plusDays(from, -daysBetween(from, to))}`], [column, `lt.${from}`]];
}

/** Return the first and the last day of the months of the period. */
export const monthDays = computed(() => ({ from: monthOf(period.value.from), to: plusDays(monthOf(period.value.to, 1), -1) }));

/** Return the conditions that choose the months of the period. A month is whole. */
export function months(): Condition[] {
  return [["month", `gte.${monthOf(period.value.from)}`], ["month", `lte.${monthOf(period.value.to)}`]];
}
