/** Sums of rows of aggregates. Only columns that add up are summed; a share is made of sums, never of shares. */

/** A value of a column that adds up; an answer has null where a row has none. */
export type Figure = number | null | undefined;

/** Return the sum of a column over rows. */
export function sum<Row>(rows: readonly Row[], column: (row: Row) => Figure): number {
  return rows.reduce((total, row) => total + (column(row) ?? 0), 0);
}

/** Return part / whole, or null where there is no whole: unknown is not 0. */
export function ratio(part: number, whole: number): number | null {
  return whole > 0 ? part / whole : null;
}

/** Return the rows by a text of each, in the order in which the texts are met first. */
export function grouped<Row>(rows: readonly Row[], name: (row: Row) => string): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = name(row);
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return groups;
}

/** Columns of `promised_days` of which the share of kept promises is made. */
export interface Promised {
  count_due: Figure;
  count_untimed: Figure;
  count_on_time: Figure;
}

/** Return the share of promises that were kept. Shipments that are open, returned or lost count as not kept. */
export function kept(rows: readonly Promised[]): number | null {
  return ratio(
    sum(rows, (row) => row.count_on_time),
    sum(rows, (row) => (row.count_due ?? 0) - (row.count_untimed ?? 0)),
  );
}
