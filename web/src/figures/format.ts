/** Numbers as people read them. A missing value is a dash, never 0. */

const NONE = "–";
const WHOLE = new Intl.NumberFormat("en");
const ONE_PLACE = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** Write a count. */
export function count(value: number | null | undefined): string {
  return value == null ? NONE : WHOLE.format(Math.round(value));
}

/** Write a number with one place. */
export function decimal(value: number | null | undefined): string {
  return value == null ? NONE : ONE_PLACE.format(value);
}

/** Write a share from 0 to 1 in percent. Only what is all or nothing is written 100 or 0. */
export function percent(value: number | null | undefined): string {
  if (value == null) return NONE;
  const shown = value < 1 ? Math.min(99.9, Math.round(value * 1000) / 10) : 100;
  return `${ONE_PLACE.format(value > 0 ? Math.max(0.1, shown) : 0)} %`;
}

/** Write a part of a whole: `12 of 42 (28.6 %)`. */
export function part(value: number | null | undefined, whole: number): string {
  return value == null ? NONE : `${count(value)} of ${count(whole)}${whole > 0 ? ` (${percent(value / whole)})` : ""}`;
}

/** Write how much a figure differs from an earlier one: `: 5.2 % more`. */
export function change(now: number | null, before: number): string {
  if (now === null || before === 0) return "";
  const by = now / before - 1;
  return Math.abs(by) < 0.0005 ? ": the same" : `: ${ONE_PLACE.format(Math.abs(by) * 100)}\u00a0% ${by > 0 ? "more" : "fewer"} now`;
}

/** Write an instant of the service up to its seconds, in UTC. */
export function instant(value: string | null | undefined): string {
  return value ? value.replace("T", " ").replace(/(\.\d+)?(Z|\+00(:?00)?)?$/, "") : NONE;
}

/** Write a number of bytes. */
export function bytes(value: number | null | undefined): string {
  if (value == null) return NONE;
  if (value < 1000) return `${value} B`;
  const power = Math.min(4, Math.floor(Math.log10(value) / 3));
  return `${ONE_PLACE.format(value / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** Write any value of a cell. */
export function text(value: unknown): string {
  return value == null || value === "" ? NONE : String(value);
}
