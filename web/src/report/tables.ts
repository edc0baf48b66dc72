/** Tables that a reader sorts by each column, with the mouse or by the keyboard. */

/** Give each column of the tables a button that sorts by it: numbers with the largest first, texts from A. */
export function sortTables(): void {
  for (const table of document.querySelectorAll<HTMLTableElement>("table.sortable")) {
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, heads, column));
      head.append(button);
      head.ariaSort = "none";
    });
  }
}

function sortBy(table: HTMLTableElement, heads: readonly HTMLTableCellElement[], column: number): void {
  const isNumber = heads[column]!.classList.contains("number");
  const order = heads[column]!.ariaSort;
  const isAscending = order === "none" ? !isNumber : order === "descending";
  for (const head of heads) head.ariaSort = "none";
  heads[column]!.ariaSort = isAscending ? "ascending" : "descending";
  const body = table.tBodies[0]!;
  const lines = [...body.rows].map((row) => ({ row, value: valueOf(row.cells[column]!, isNumber) }));
  body.append(...lines.toSorted((one, other) => compare(one.value, other.value, isAscending)).map((line) => line.row));
}

/** Return what a cell is sorted by; null is unknown. */
function valueOf(cell: HTMLTableCellElement, isNumber: boolean): string | number | null {
  const text = cell.dataset["sort"] ?? cell.textContent ?? "";
  if (text === "") return null;
  return isNumber ? Number(text) : text.toLocaleLowerCase();
}

/** Compare two values; the unknown ones are last in both orders. */
export function compare(one: string | number | null, other: string | number | null, isAscending: boolean): number {
  if (one === null || other === null) return Number(one === null) - Number(other === null);
  const by = one < other ? -1 : Number(one > other);
  return isAscending ? by : -by;
}
