/** Server-sent events, read by fetch: an EventSource cannot send a key. */

/** An event of the stream. */
export interface StreamEvent {
  event: string;
  data: string;
}

/** Return a function that takes pieces of a stream and returns the events that are whole. */
export function eventReader(): (text: string) => StreamEvent[] {
  let rest = "";
  return (text) => {
    rest += text;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop() ?? "";
    return blocks.flatMap(eventOf);
  };
}

function eventOf(block: string): StreamEvent[] {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([a-z]*): ?(.*)$/.exec(line) ?? [];
    if (field === "event") event = value ?? event;
    if (field === "data") data.push(value ?? "");
  }
  return data.length > 0 ? [{ event, data: data.join("\n") }] : [];
}

/** Call `take` for each event of a body, until it ends. */
export async function readEvents(body: ReadableStream<Uint8Array>, take: (event: StreamEvent) => void): Promise<void> {
  const read = eventReader();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const event of read(decoder.decode(value, { stream: true }))) take(event);
  }
}
