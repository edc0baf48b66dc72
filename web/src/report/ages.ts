/** A report is opened long after it was made: its ages are those of the moment at which it is looked at. */

import { ageOf, hoursSince, STALE_HOURS } from "../figures/dates";

const MINUTE_MS = 60_000;

/** Write the age of each instant of the page, now and each minute, and mark a load that is too old. */
export function tellAges(): void {
  const tell = (): void => {
    for (const each of document.querySelectorAll<HTMLElement>("[data-since]")) {
      const hours = hoursSince(each.dataset["since"], Date.now());
      if (hours === null) continue;
      each.textContent = hours < 1 / 60 ? "less than a minute" : ageOf(hours);
      if (each.dataset["stale"] !== undefined && hours >= STALE_HOURS) each.closest(".freshness")?.classList.add("stale");
    }
  };
  tell();
  setInterval(tell, MINUTE_MS);
}
