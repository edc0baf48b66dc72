/** Facts as a place of the page: the rows of a table that an aggregate counts, chosen as the API spells conditions. */

import type { Condition } from "../api/client";
import { plusDays } from "../figures/dates";
import type { Place } from "./place";

/** Name of a value that the data do not have, as aggregates write it. No fact is found by it. */
const NONE = "(none)";

/** Write conditions as one text of the address. */
export function whereOf(conditions: readonly Condition[]): string {
  return new URLSearchParams(conditions.map(([column, condition]) => [column, condition])).toString();
}

/** Read the conditions of a text of the address. */
export function conditionsOf(where: string): Condition[] {
  return [...new URLSearchParams(where)];
}

/** Return the place of the facts with these conditions. */
export function factsAt(table: string, conditions: readonly Condition[]): Partial<Place> {
  return { view: "facts", table, where: whereOf(conditions), after: "", page: "", row: "" };
}

/** Return the conditions for the instants of some days in UTC, both included. */
export function within(column: string, from: string, to: string = from): Condition[] {
  return [[column, `gte.${from}T00:00Z`], [column, `lt.${plusDays(to, 1)}T00:00Z`]];
}

/** Return the conditions for the names of a row of an aggregate: a missing name is null in the facts. */
export function named(names: Record<string, string>): Condition[] {
  return Object.entries(names).filter(([, name]) => name !== "").map(([column, name]) => [column, name === NONE ? "is.null" : `eq.${name}`]);
}

const WORDS: Record<string, string> = {
  eq: "is", neq: "is not", gt: "more than", gte: "from", lt: "before", lte: "up to", like: "like", ilike: "like", in: "one of",
};

/** Say a condition as people do: `created_at from 2026-01-01 00:00 UTC`. */
export function conditionText([column, condition]: Condition): string {
  const isNot = condition.startsWith("not.");
  const [operator = "", ...rest] = (isNot ? condition.slice(4) : condition).split(".");
  const value = rest.join(".").replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d)?)Z$/, "$1 $2 UTC");
  if (operator === "is") return `${column} ${isNot || value === "not_null" ? "is known" : value === "null" ? "is missing" : `is ${value}`}`;
  return `${column} ${isNot ? "not " : ""}${WORDS[operator] ?? operator} ${value}`;
}
