/** What is looked at: the view and its filters. They are in the address, so that a link shows the same. */

import { reactive, readonly } from "vue";
import { isDay } from "../figures/dates";

export const VIEWS = ["overview", "lanes", "carriers", "warehouses", "exceptions", "runs", "events", "facts"] as const;
export type View = (typeof VIEWS)[number];

const FILTERS = [
  "from", "to", "carrier", "lane", "city", "warehouse", "code", "run", "status", "dataset", "table", "where", "after", "page", "row",
] as const;
type Filter = (typeof FILTERS)[number];

/** A view and its filters; an empty text is no filter. */
export type Place = { view: View } & Record<Filter, string>;

/** Read a place from the query of an address. What is no view or no day is left out. */
export function parse(query: string): Place {
  const given = new URLSearchParams(query);
  const view = VIEWS.find((each) => each === given.get("view")) ?? "overview";
  const filters = Object.fromEntries(FILTERS.map((name) => [name, given.get(name) ?? ""])) as Record<Filter, string>;
  if (!isDay(filters.from)) filters.from = "";
  if (!isDay(filters.to)) filters.to = "";
  return { view, ...filters };
}

/** Write a place as the query of an address. */
export function format(place: Place): string {
  const query = new URLSearchParams();
  if (place.view !== "overview") query.set("view", place.view);
  for (const name of FILTERS) if (place[name]) query.set(name, place[name]);
  const text = query.toString();
  return text ? `?${text}` : "/";
}

const current = reactive<Place>(parse(globalThis.location?.search ?? ""));

/** The place that is looked at. */
export const place = readonly(current) as Readonly<Place>;

/** Return the address of a place near this one. Another view keeps the days alone. */
export function addressOf(change: Partial<Place>): string {
  const isOther = change.view !== undefined && change.view !== current.view;
  const base = isOther ? { ...parse(""), from: current.from, to: current.to } : current;
  return format({ ...base, ...change });
}

/** Go to a place; the browser's back button returns. */
export function go(change: Partial<Place>): void {
  const address = addressOf(change);
  history.pushState(null, "", address);
  Object.assign(current, parse(new URL(address, location.href).search));
}

/** Follow the back and forward buttons, and links within the page, without loading it again. */
export function followAddress(): void {
  addEventListener("popstate", () => Object.assign(current, parse(location.search)));
  addEventListener("click", (event) => {
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
    const link = event.target instanceof Element ? event.target.closest("a[data-place]") : null;
    if (!isPlain || !(link instanceof HTMLAnchorElement)) return;
    event.preventDefault();
    history.pushState(null, "", link.href);
    Object.assign(current, parse(new URL(link.href).search));
  });
}
