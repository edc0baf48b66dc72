/** Tokens for a key: the page keeps a token of minutes instead of the key, and renews it before it ends. */

import { forget, hold, renew, session, type Held } from "../state/session";

const PATH = "/v1/token";
/** So many milliseconds before its end a token is renewed. */
const EARLY_MS = 60_000;

interface Issued {
  access_token: string;
  expires_in: number;
  refresh_token: string;
}

function heldOf(issued: Issued): Held {
  return { bearer: issued.access_token, refresh: issued.refresh_token, until: Date.now() + issued.expires_in * 1_000 };
}

function post(bearer: string | null, refresh: string | null): Promise<Response> {
  return fetch(PATH, {
    method: "POST",
    headers: { ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}), ...(refresh ? { "Content-Type": "application/json" } : {}) },
    ...(refresh ? { body: JSON.stringify({ refresh_token: refresh }) } : {}),
  });
}

/** Sign in with a key, a refresh token or a token. A service that gives no tokens is asked with the key itself. */
export async function signIn(given: string): Promise<void> {
  const isToken = given.split(".").length === 3;
  if (isToken) return hold({ bearer: given });
  const isRefresh = given.startsWith("etlr_");
  let answer: Response | null = null;
  try {
    answer = await post(isRefresh ? null : given, isRefresh ? given : null);
  } catch {
    // The requests of the page say that the service cannot be reached.
  }
  if (answer?.ok) return hold(heldOf((await answer.json()) as Issued));
  if (answer?.status === 401 || isRefresh) return forget("refused");
  hold({ bearer: given });
}

let renewing: Promise<boolean> | null = null;

/** Renew the token; false where it cannot be renewed now. Requests at the same time share one renewal. */
export function renewed(): Promise<boolean> {
  renewing ??= renewOnce().finally(() => (renewing = null));
  return renewing;
}

async function renewOnce(): Promise<boolean> {
  const held = session.held;
  const refresh = held?.refresh;
  if (!held || !refresh) return false;
  try {
    // A refresh token is used once. Without a network the answer would be lost, and with it the next token.
    await fetch("/healthz", { cache: "no-store" });
  } catch {
    return false;
  }
  held.refresh = undefined;
  const answer = await post(null, refresh).catch(() => null);
  if (session.held !== held) return true;
  if (answer?.ok) {
    renew(heldOf((await answer.json()) as Issued));
    return true;
  }
  // Busy is not used up. After a lost answer nobody knows, so the token counts as used.
  if (answer && answer.status !== 401) held.refresh = refresh;
  return false;
}

/** Return what to send with a request now, after a renewal where the token ends soon. */
export async function bearer(): Promise<string | null> {
  if (session.held?.until !== undefined && session.held.until - Date.now() < EARLY_MS) await renewed();
  return session.held?.bearer ?? null;
}
