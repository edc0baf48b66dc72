/** Requests to the service, with the key of the session where there is one. */

import type { components } from "./schema";
import { forget, session } from "../state/session";
import { bearer, renewed } from "./tokens";

type Schemas = components["schemas"];

/** The aggregates whose rows the page reads. */
export type AggregateName = keyof { [Name in keyof Schemas as Name extends `${infer Base}_row` ? Base : never]: true };

/** A row of an aggregate with all its columns. */
export type Row<Name extends AggregateName> = `${Name}_row` extends keyof Schemas
  ? Required<Schemas[`${Name}_row`]>
  : never;

/** Conditions as the API spells them: `["day", "gte.2026-01-01"]`. */
export type Condition = readonly [column: string, condition: string];

/** Rows of an aggregate. `isCut`: there are more than the page reads. */
export interface Rows<Line> {
  rows: Line[];
  isCut: boolean;
}

/** An answer that is not what was asked for. `status` 0: the service cannot be reached. */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retrySeconds: number | null = null,
  ) {
    super(message);
  }
}

/** Rows of one request; the service gives no more. */
export const ROWS_OF_A_PAGE = 10_000;
/** Requests for one figure; more rows than these have are too many for a browser. */
export const MOST_PAGES = 10;

/** Ask the service for an address; throw a ProblemError for all but success. */
export async function ask(address: string, init: RequestInit = {}): Promise<Response> {
  let sent = await bearer();
  let answer = await send(address, init, sent);
  // A service that was started again may have another secret: then a token ends early, and its refresh token does not.
  if (answer.status === 401 && sent !== null && (session.held?.bearer !== sent || (await renewed()))) {
    sent = session.held?.bearer ?? null;
    answer = await send(address, init, sent);
  }
  if (answer.ok) return answer;
  // A late answer to a request with an earlier key says nothing about the present one.
  if (answer.status === 401 && (session.held?.bearer ?? null) === sent) forget(reasonOf(sent));
  throw await problemOf(answer);
}

function reasonOf(sent: string | null): "" | "refused" | "ended" {
  if (sent === null) return session.reason;
  return session.visitor ? "ended" : "refused";
}

async function send(address: string, init: RequestInit, sent: string | null): Promise<Response> {
  const headers = new Headers(init.headers);
  if (sent !== null) headers.set("Authorization", `Bearer ${sent}`);
  try {
    return await fetch(address, { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ProblemError(0, "The service cannot be reached.");
  }
}

async function problemOf(answer: Response): Promise<ProblemError> {
  const wait = Number(answer.headers.get("Retry-After") ?? Number.NaN);
  let detail = `The service answered ${answer.status}.`;
  try {
    const problem = (await answer.json()) as { detail?: unknown };
    if (typeof problem.detail === "string") detail = problem.detail;
  } catch {
    // A proxy may answer with a page of its own.
  }
  return new ProblemError(answer.status, detail, Number.isNaN(wait) ? null : wait);
}

/** Ask for a JSON document. */
export async function askJson<Answer>(address: string, signal?: AbortSignal): Promise<Answer> {
  const answer = await ask(address, signal ? { signal } : {});
  return (await answer.json()) as Answer;
}

/** Return the address of rows of an aggregate. */
export function addressOf(name: AggregateName, conditions: readonly Condition[], select: readonly string[] = []): string {
  const query = new URLSearchParams(conditions.map(([column, condition]) => [column, condition]));
  if (select.length > 0) query.set("select", select.join(","));
  query.set("limit", String(ROWS_OF_A_PAGE));
  return `/v1/aggregates/${name}/rows?${query}`;
}

/** Return the address of rows of a table of facts; conditions may name parameters as `limit`, too. */
export function factsAddress(table: string, conditions: readonly Condition[]): string {
  return `/v1/facts/${encodeURIComponent(table)}?${new URLSearchParams(conditions.map(([name, value]) => [name, value]))}`;
}

interface Page {
  columns: string[];
  rows: unknown[][];
  version: number;
  next: string | null;
}

/** Return the rows of an aggregate with some of its columns, all of one version. */
export async function askRows<Name extends AggregateName, Column extends keyof Row<Name> & string>(
  name: Name,
  select: readonly Column[],
  conditions: readonly Condition[],
  signal?: AbortSignal,
): Promise<Rows<Pick<Row<Name>, Column>>> {
  const address = `${addressOf(name, conditions, select)}&format=columns`;
  for (let attempt = 1; ; attempt += 1) {
    const pages: Page[] = [];
    let next: string | null = null;
    do {
      const after: string = next ? `&after=${encodeURIComponent(next)}` : "";
      const page: Page = await askJson<Page>(address + after, signal);
      pages.push(page);
      next = page.next;
    } while (next && pages.length < MOST_PAGES && pages.at(-1)?.version === pages[0]?.version);
    // A refresh came between two pages: their sums would mix two states.
    const isMixed = pages.some((page) => page.version !== pages[0]?.version);
    if (isMixed && attempt < 3) continue;
    if (isMixed) throw new ProblemError(503, "The rows change faster than they can be read; try again later.", 10);
    return { rows: pages.flatMap(objectsOf<Pick<Row<Name>, Column>>), isCut: next !== null };
  }
}

function objectsOf<Line>(page: Page): Line[] {
  return page.rows.map((values) => Object.fromEntries(page.columns.map((name, place) => [name, values[place]])) as Line);
}
