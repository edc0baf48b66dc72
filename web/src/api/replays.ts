/** A replay of a file of the failed store: asked for, followed until it ends, and told in words. */

import type { components } from "./schema";
import { ask, askJson } from "./client";

type Schemas = components["schemas"];

const LOOK_MS = 500;

function addressOf(id: string): string {
  return `/v1/failures/${encodeURIComponent(id)}`;
}

/** Replay a file; return what became of it. Throws a ProblemError when the replay could not begin. */
export async function replay(id: string): Promise<string> {
  await ask(`${addressOf(id)}/replay`, { method: "POST" });
  for (;;) {
    const entry = await askJson<Schemas["FailureEntry"]>(addressOf(id));
    if (entry.replay?.state !== "running") return outcomeOf(entry);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Say what became of a replay. The state of the file counts: a service that was started again knows no replay. */
export function outcomeOf({ failure, waiting, replay: known }: Schemas["FailureEntry"]): string {
  if (known?.state === "failed") return `The replay failed, and the file is ${failure.state}: ${known.problem ?? "no reason is known"}.`;
  const refused = waiting.length > 0 ? ` What was refused again waits in ${waiting.join(", ")}.` : "";
  if (known?.state === "done") {
    const failed = known.failed ? `, ${known.failed} failed` : "";
    return `${known.loaded ?? 0} loaded, ${known.rejected ?? 0} rejected${failed}.${refused}${known.problem ? ` ${known.problem}.` : ""}`;
  }
  return `The service was started again; the file is ${failure.state}.${refused}`;
}
