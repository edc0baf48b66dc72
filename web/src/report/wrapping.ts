/** Breaks names into lines, so that none is cut. */

/** Return a text as lines that fit: broken at blanks, and within a word only where it is longer than a line. */
export function wrapped(text: string, room: number, widthOf: (text: string) => number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && widthOf(`${line} ${word}`) <= room) {
      line = `${line} ${word}`;
      continue;
    }
    if (line) lines.push(line);
    let rest = word;
    while (rest.length > 1 && widthOf(rest) > room) {
      let end = rest.length - 1;
      while (end > 1 && widthOf(rest.slice(0, end)) > room) end -= 1;
      lines.push(rest.slice(0, end));
      rest = rest.slice(end);
    }
    line = rest;
  }
  return line ? [...lines, line] : lines;
}
