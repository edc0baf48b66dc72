/** A lane as one text of the address: four names as a JSON list, because a name may have any character. */

import type { Condition } from "../api/client";
import { named } from "./facts";

const COLUMNS = ["origin_country", "origin_city", "destination_country", "destination_city"] as const;

/** Return the text of the lane of a row. */
export function laneName(row: Record<(typeof COLUMNS)[number], string>): string {
  return JSON.stringify(COLUMNS.map((column) => row[column]));
}

function namesOf(lane: string): string[] | null {
  try {
    const names: unknown = JSON.parse(lane);
    return Array.isArray(names) && names.length === COLUMNS.length ? names.map(String) : null;
  } catch {
    return null;
  }
}

/** Return the conditions that choose the rows of a lane; none for what is no lane. */
export function laneConditions(lane: string): Condition[] {
  return (namesOf(lane) ?? []).map((name, place) => [COLUMNS[place]!, `eq.${name}`]);
}

/** Return the conditions by which the facts of a lane are found. */
export function laneFacts(lane: string): Condition[] {
  return named(Object.fromEntries((namesOf(lane) ?? []).map((name, place) => [COLUMNS[place]!, name])));
}

/** Write a lane for people: `Berlin (DE) → Київ (UA)`. */
export function laneText(lane: string): string {
  const names = namesOf(lane);
  return names ? `${names[1]} (${names[0]}) → ${names[3]} (${names[2]})` : lane;
}
