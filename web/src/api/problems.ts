/** What a visitor can do about a problem of the service. */

/** Return the next step for the status of an answer; nothing where its own words say it. */
export function nextOf(status: number, role: string | undefined): string {
  switch (status) {
    case 0:
      return "The page asks again by itself. If this lasts, ask who runs the service.";
    case 403:
      return `You are signed in as ${role ?? "a visitor"}. For more, ask who runs the service for a key of another role (etl key create NAME --role operator).`;
    case 429:
      return "The page asks again by itself in a moment.";
    case 504:
      return "Choose fewer days, or one more filter.";
    default:
      return "";
  }
}
