import { describe, expect, it } from "vitest";
import { nextOf, withoutHeader } from "./download";
import { eventReader } from "./stream";

describe("the stream of events", () => {
  it("gives the same events however its text is cut", () => {
    const text = 'retry: 2000\n\n: still here\n\nevent: state\nid: a:1\ndata: {"a":1}\n\nevent: refresh\r\ndata: x\r\ndata: y\r\n\r\n';
    const expected = [{ event: "state", data: '{"a":1}' }, { event: "refresh", data: "x\ny" }];
    for (let size = 1; size <= text.length; size += 1) {
      const read = eventReader();
      const found = [];
      for (let place = 0; place < text.length; place += size) found.push(...read(text.slice(place, place + size)));
      expect(found, `in pieces of ${size}`).toEqual(expected);
    }
  });
});

describe("downloads", () => {
  it("follow the pages, and have the names of the columns once", () => {
    expect(nextOf('</v1/aggregates/a/rows?after=x>; rel="next"')).toBe("/v1/aggregates/a/rows?after=x");
    expect(nextOf(null)).toBeNull();
    expect(withoutHeader('day,carrier\r\n2026-01-01,"a\nb"\r\n')).toBe('2026-01-01,"a\nb"\r\n');
  });
});
