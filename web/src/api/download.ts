/** Downloads of CSV: all pages of an answer as one file. A plain link would have the first page only, and no key. */

import { ask } from "./client";

/** Return the address of the next page that the header `Link` names. */
export function nextOf(link: string | null): string | null {
  return /<([^>]+)>;\s*rel="next"/.exec(link ?? "")?.[1] ?? null;
}

/** Return CSV without its first line: the names of the columns. They have no line breaks. */
export function withoutHeader(csv: string): string {
  return csv.slice(csv.indexOf("\n") + 1);
}

/** Save all rows of an address as a CSV file. */
export async function download(address: string, name: string): Promise<void> {
  const parts: string[] = [];
  for (let next: string | null = address; next; ) {
    const answer: Response = await ask(next, { headers: { Accept: "text/csv" } });
    const text = await answer.text();
    parts.push(parts.length === 0 ? text : withoutHeader(text));
    next = nextOf(answer.headers.get("Link"));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
