"""The statements of tables with history: triggers keep the versions of rows that end (decision 21).

A version of a record is its row and its child rows. They stay together in the histories of the tables, with the time in
which the tables showed them and the run that ended them. Composes statements, and runs none.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from psycopg import sql

from etl import queries
from etl.datasets import DIGEST, LINEAGE, Dataset, Table, first_columns, listed
from etl.datasets.histories import ADDED, VALID_FROM, identifier_of, kept_tables, name_of
from etl.quick_dataclasses import dataclass

_SQL = queries.load("row_history")
_TABLES = queries.load("tables")

BEGAN = "~etl_history_began"
"""The trigger that notes since when a table shows a version; its function is that of a migration.

The server runs triggers in the order of their names: this one has to see what those of users have changed.
"""

_UPDATE, _DELETE, _INSERT = "etl_history_update", "etl_history_delete", "etl_history_insert"

_NAME_LENGTH = 63

ColumnsOf = Callable[[Table], Sequence[str]]
"""Returns the columns of a table that its history keeps."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A table with history, the tables of its child rows, and what its functions and triggers are made of.

    `operators` are those that compare columns of the key for equality, where the functions do not find them by their
    path: the types of an extension may have their own.
    """

    dataset: Dataset
    table: Table
    children: tuple[Table, ...]
    columns_of: ColumnsOf
    operators: Mapping[str, sql.Composable]

    @property
    def tables(self) -> tuple[Table, ...]:
        """The table and those of its child rows."""
        return (self.table, *self.children)

    def bodies(self) -> dict[str, dict[str, str | None]]:
        """Return the triggers of each table by name, with the text of their functions; None: a migration makes it."""
        keep = text_of(self._record_body())
        found: dict[str, dict[str, str | None]] = {self.table.name: {BEGAN: None, _UPDATE: keep, _DELETE: keep}}
        found |= {child.name: {_DELETE: text_of(self._child_body(child))} for child in self.children}
        if self.children:
            found[self.children[-1].name][_INSERT] = text_of(self._settle_body())
        return found

    def table_statements(self) -> Iterator[sql.Composed]:
        """Yield the statements that make the histories; running them again changes nothing."""
        valid_from = sql.Identifier(*self.table.name.split("."), VALID_FROM)
        yield _SQL["add_valid_from"].format(table=self.table.identifier, column=valid_from)
        for table in self.tables:
            history = name_of(table)
            names = self._names(table) | {"key": listed(self.dataset.key)}
            yield _SQL["make_history"].format(**names)
            yield _SQL["index_history"].format(**names, index=sql.Identifier(_cut(history, "key_idx")))
            if self.children:
                yield _SQL["index_open"].format(**names, index=sql.Identifier(_cut(history, "open_idx")))

    def comment_statements(self) -> Iterator[sql.Composed]:
        """Yield the statements that describe the histories and their columns."""
        for table in self.tables:
            history = name_of(table)
            added = {name: sql.Identifier(*history.split("."), name) for name in ADDED}
            comment = sql.Literal(f"versions of the rows of {table.name} that a change or a deletion ended")
            yield _SQL["comment_history"].format(history=identifier_of(table), comment=comment, **added)
            for column in table.columns:
                if column.comment:
                    name = sql.Identifier(*history.split("."), column.name)
                    yield _TABLES["comment_column"].format(column=name, comment=sql.Literal(column.comment))

    def trigger_statements(self) -> Iterator[sql.Composed]:
        """Yield the statements that make the functions and the triggers."""
        for name, body, what in self._functions():
            comment = sql.Literal(what)
            function = sql.Identifier("etl", name)
            yield _TABLES["make_function"].format(function=function, body=body)
            yield _TABLES["comment_function"].format(function=function, comment=comment)
            yield _TABLES["revoke_function"].format(function=function)
        names: dict[str, sql.Composable] = {
            "table": self.table.identifier,
            "function": sql.Identifier("etl", _function("keep", self.table)),
            "is_changed": self._is_changed("old", "new"),
        }
        yield _SQL["make_record_triggers"].format(**names)
        for child in self.children:
            function = sql.Identifier("etl", _function("keep", child))
            yield _SQL["make_child_trigger"].format(table=child.identifier, function=function)
        if self.children:
            function = sql.Identifier("etl", _function("settle", self.table))
            yield _SQL["make_last_trigger"].format(table=self.children[-1].identifier, function=function)

    def register(self) -> sql.Composed:
        """Return the statement that notes that versions are kept without a gap from now on."""
        return _SQL["register"].format(name=sql.Literal(self.table.name), dataset=sql.Literal(self.dataset.name))

    def align_statements(self) -> Iterator[sql.Composed]:
        """Yield the statements that give child rows the lineage of their record."""
        for child in self.children:
            is_key = self._is_key("parent", "child")
            names = {"child": child.identifier, "parent": self.table.identifier, "is_key_of_parent": is_key}
            yield _SQL["align_children"].format(**names)

    def _functions(self) -> Iterator[tuple[str, sql.Composed, str]]:
        """Yield the functions by name, each with its body and a comment."""
        keeps = "keeps the versions of the rows of {} that end"
        yield _function("keep", self.table), self._record_body(), keeps.format(self.table.name)
        for child in self.children:
            yield _function("keep", child), self._child_body(child), keeps.format(child.name)
        if self.children:
            what = f"compares the child rows of the versions of {self.table.name} that end"
            yield _function("settle", self.table), self._settle_body(), what

    def _record_body(self) -> sql.Composed:
        names = self._names(self.table) | {
            "is_changed": self._is_changed("old_rows", "new_rows"),
            "lineage_of_new": listed(LINEAGE, "new_rows"),
            "is_key_of_new": self._is_key("new_rows", "old_rows"),
            "deleted_by": self._deleted_by("old_rows"),
            "or_children": sql.SQL(""),
        }
        if self.children:
            names["and_digest"] = _SQL["and_digest"] if self._has_digest else sql.SQL("")
            names["or_children"] = _SQL["or_written"].format(**names)
        return _SQL["record_body"].format(
            keep_updated=self._with_children(_SQL["keep_updated"].format(**names)),
            keep_deleted=self._with_children(_SQL["keep_deleted"].format(**names)),
        )

    def _with_children(self, keep: sql.Composed) -> sql.Composed:
        """Return a statement that keeps records, and then their child rows."""
        if not self.children:
            return keep
        returned = sql.SQL("{}\n        returning {}, kept.valid_from, kept.valid_to, kept.ended_by").format(
            keep, listed(self.dataset.key, "kept")
        )
        inserts = [
            _SQL["keep_children"].format(
                **self._names(child)
                | {
                    "columns_of_child": listed(self.columns_of(child), "child"),
                    "is_key_of_kept": self._is_key("child", "kept"),
                }
            )
            for child in self.children
        ]
        return _chained("kept", returned, inserts)

    def _child_body(self, child: Table) -> sql.Composed:
        return _SQL["child_body"].format(
            **self._names(child)
            | {
                "parent": self.table.identifier,
                "is_key_of_parent": self._is_key("parent", "old_rows"),
                "deleted_by": self._deleted_by("parent"),
            }
        )

    def _settle_body(self) -> sql.Composed:
        names = self._names(self.table) | {
            "key_of_kept": listed(self.dataset.key, "kept"),
            "is_key_of_kept": self._is_key("child", "kept"),
            "is_key_of_record": self._is_key("record", "kept"),
            "is_key_of_same": self._is_key("child", "same"),
        }
        same, forget, ends = [], [], []
        for child in self.children:
            data = [name for name in self.columns_of(child) if name not in LINEAGE]
            of_child = names | self._names(child) | {"data_of_child": listed(data, "child")}
            same.append(_SQL["same_children"].format(**of_child))
            forget.append(_SQL["forget_children"].format(**of_child))
            ends.append(_SQL["end_version"].format(**names | {"history": identifier_of(child)}))
        ends.append(_SQL["end_version"].format(**names))
        find = _SQL["find_same"].format(**names, same_children=sql.SQL("\n            and ").join(same))
        end = sql.SQL(";\n    ").join(ends)
        return _SQL["settle_body"].format(**names, forget_same=_chained("same", find, forget), end_versions=end)

    def _deleted_by(self, old: str) -> sql.Composable:
        """Return the run that deleted a row, as an expression."""
        if self.dataset.deletions is None:
            return sql.SQL("null::bigint")
        _, deletions = self.dataset.deletions
        names: dict[str, sql.Composable] = {"lineage_of_old": listed(LINEAGE, old)}
        is_not_older: sql.Composable = _SQL["is_later"].format(**names)
        if newest := self.dataset.newest_by:
            names |= {"newest": sql.Identifier(newest), "newest_of_old": sql.Identifier(old, newest)}
            is_not_older = _SQL["is_newer"].format(**names, is_later=is_not_older)
        return _SQL["deleted_by"].format(
            deletions=deletions.identifier, is_key_of_gone=self._is_key("gone", old), is_not_older=is_not_older
        )

    def _names(self, table: Table) -> dict[str, sql.Composable]:
        return {
            "table": table.identifier,
            "history": identifier_of(table),
            "columns": listed(self.columns_of(table)),
            "columns_of_old": listed(self.columns_of(table), "old_rows"),
            "lineage_of_old": listed(LINEAGE, "old_rows"),
        }

    def _is_changed(self, old: str, new: str) -> sql.Composed:
        kept_firsts = (name for column in self.table.columns if column.keep_first for name in column.names_of_first)
        # The first value of a version may become known late, which makes it no other version.
        of_tool = {*LINEAGE, DIGEST, *kept_firsts}
        data = [name for name in self.columns_of(self.table) if name not in of_tool]
        # The bytes are compared: a type may have no equality, or one that overlooks differences.
        return sql.SQL("row({})::record operator(pg_catalog.*<>) row({})::record").format(
            listed(data, old), listed(data, new)
        )

    def _is_key(self, left: str, right: str) -> sql.Composed:
        return sql.SQL(" and ").join(
            sql.SQL("{} {} {}").format(
                sql.Identifier(left, name), self.operators.get(name, sql.SQL("=")), sql.Identifier(right, name)
            )
            for name in self.dataset.key
        )

    @property
    def _has_digest(self) -> bool:
        return DIGEST in self.columns_of(self.table)


def kept(
    dataset: Dataset, columns_of: ColumnsOf, operators_of: Callable[[Table], Mapping[str, sql.Composable]]
) -> list[Kept]:
    """Return the tables of a dataset that keep their versions."""
    return [
        Kept(
            dataset=dataset,
            table=table,
            children=children,
            columns_of=columns_of,
            operators=operators_of(table),
        )
        for table, children in kept_tables(dataset)
    ]


def ddl(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that make the histories of a dataset and their triggers."""

    def columns_of(table: Table) -> list[str]:
        names = [*(column.name for column in table.columns), *LINEAGE]
        return [*names, *([DIGEST] if table is dataset.digested_table else []), *first_columns(dataset, table)]

    return [
        statement
        for each in kept(dataset, columns_of, lambda _table: {})
        for statement in (
            *(*each.table_statements(), *each.comment_statements()),
            *(*each.trigger_statements(), each.register()),
        )
    ]


def text_of(body: sql.Composed) -> str:
    """Return the text that the server stores as the body of a function."""
    return f"\n{body.as_string(None)}\n"


def _chained(name: str, first: sql.Composable, others: Sequence[sql.Composable]) -> sql.Composed:
    """Return one statement: the first part becomes a query with a name, which the other parts read."""
    *before, last = others
    parts = [sql.SQL("with {} as (\n        {}\n        )").format(sql.SQL(name), first)]
    parts += [
        sql.SQL(", {} as (\n        {}\n        )").format(sql.Identifier(f"{name}_{number}"), each)
        for number, each in enumerate(before, 1)
    ]
    return sql.Composed([*parts, sql.SQL("\n        "), last])


def _function(word: str, table: Table) -> str:
    return _cut(f"{word}_{table.name.replace('.', '_')}", "", table.name)


def _cut(name: str, ending: str, of: str = "") -> str:
    """Return a name with an ending; one that is too long for the server is cut and has a digest of the whole."""
    full = "_".join(filter(None, (name.rpartition(".")[2], ending)))
    digest = hashlib.sha256(f"{of}{full}".encode()).hexdigest()[:8]
    return full if len(full.encode()) <= _NAME_LENGTH else f"{full.encode()[:54].decode(errors='ignore')}_{digest}"
