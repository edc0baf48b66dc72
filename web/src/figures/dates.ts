/** Days and months as texts (`2026-01-31`), all in UTC, as the aggregates name them. */

const DAY = 86_400_000;

/** So many days after its end, most shipments of a month have arrived; before, its shares look too good. */
export const YOUNG_DAYS = 30;

/** So old may data be before the page warns: a nightly load, and no hour more. */
export const STALE_HOURS = 24;

/** Return the day of an instant or a day that the service wrote, or null for what is none. */
export function dayOf(text: string | null | undefined): string | null {
  return text && /^\d{4}-\d\d-\d\d/.test(text) ? text.slice(0, 10) : null;
}

/** Return the day so many days later. */
export function plusDays(day: string, days: number): string {
  return new Date(Date.parse(day) + days * DAY).toISOString().slice(0, 10);
}

/** Return the first day of the month so many months after that of a day. */
export function monthOf(day: string, months = 0): string {
  const date = new Date(`${day.slice(0, 7)}-01T00:00:00Z`);
  date.setUTCMonth(date.getUTCMonth() + months);
  return date.toISOString().slice(0, 10);
}

/** Return how many days a period has, both ends included. */
export function daysBetween(from: string, to: string): number {
  return Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / DAY) + 1);
}

/** Return whether a text is a day of the calendar. */
export function isDay(text: string | null | undefined): text is string {
  if (!text || !/^\d{4}-\d\d-\d\d$/.test(text)) return false;
  const date = new Date(`${text}T00:00:00Z`);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(text);
}

/** Return whether the shares of a month are too good yet, because its slow shipments are still on the way. */
export function isYoung(month: string, newest: string): boolean {
  return plusDays(monthOf(month, 1), YOUNG_DAYS) > newest;
}

/** Return an instant of the service as milliseconds; PostgreSQL writes `2026-01-31 10:00:00.5+00`. */
export function instantOf(text: string): number {
  return Date.parse(text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00"));
}

/** Return how many hours before now an instant was, or null for what is none. */
export function hoursSince(text: string | null | undefined, now: number): number | null {
  const instant = text ? instantOf(text) : Number.NaN;
  return Number.isNaN(instant) ? null : Math.max(0, (now - instant) / 3_600_000);
}

/** Say an age as people do: minutes, hours up to three days, then days. */
export function ageOf(hours: number): string {
  const [count, unit] =
    hours < 1 ? [Math.floor(hours * 60), "minute"] : hours < 72 ? [Math.floor(hours), "hour"] : [Math.floor(hours / 24), "day"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}
