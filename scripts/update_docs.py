#!/usr/bin/env python3
"""Rewrite the parts of the documentation that the code knows better: generated blocks and recorded transcripts.

A generated block is between `<!-- generated: NAME -->` and `<!-- end: NAME -->`. A transcript is a fenced block
of kind `console`: each line that begins with `$ ` is run by a shell, what follows is what it printed. In one of kind
`pycon` each statement at a prompt is run by Python; the blocks of a page are one session. A fenced block of kind
`toml` or `json` whose line before the fence is `<!-- file: PATH -->` is written to that file first.
The tests run the same functions and compare (`tests/docs/test_docs.py`).
"""

import asyncio
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import click
import psycopg
from psycopg import sql

import etl
from etl.cli import cli
from etl.database.connecting import Database, connect
from etl.database.sqlstates import ENDS, TABLE, UNDEFINED
from etl.datasets import TYPES, Column, Type, sql_type
from etl.ingestion.framing import formats
from etl.ingestion.framing.decoding import decode
from etl.ingestion.sources import recognition
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit, Piece
from etl.precalculation.catalogue import read_all
from etl.provisioning import migrate, opened
from etl.settings import SERVICES, file_keys, is_of_failed, service_keys
from scripts import python_sessions, schemas
from scripts.schemas import descriptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))

Connection = psycopg.Connection[tuple[Any, ...]]

_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
_FENCE = re.compile(
    r"(?:<!-- file: (?P<path>\S+) -->\n)?```(?P<kind>toml|json|console|pycon)\n(?P<text>.*?)```", re.DOTALL
)
_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")

# What differs from one run of a transcript to the next.
_VOLATILE = (
    # How far a load came before it was killed: only a load that continues both loads and skips.
    (re.compile(r"(?<=read, )[1-9][\d,]* loaded, [\d,]+ skipped"), "RESUMED"),
    (re.compile(r"(RESUMED .*; rows:) [^;\n]+"), r"\1 ROWS"),
    (_RUN, "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), "TIME"),
    (re.compile(r"\d+\.\d s\b( \([\d,]+ records/s(, [\d,.]+ MB/s)?\))?"), "SECONDS"),
    (
        re.compile(r'("(seconds|records_per_second|database|host|os_user|pid|folder|tool_version)": )("[^"]*"|[\d.]+)'),
        r"\1-",
    ),
)


def blocks(connection: Connection) -> Mapping[str, str]:
    """Return the generated blocks by name; `connection` is to a migrated database."""
    return {
        "commands": "\n".join(_commands()),
        "options": "\n".join(_options()),
        "conversions": "\n".join(_conversions(connection)),
        "tables": "\n".join(_tables(connection)),
        "aggregates": "\n".join(_aggregates(connection)),
        "modules": "\n".join(_modules()),
        "recognised": "\n".join(_recognised()),
        "definition-keys": schemas.table(descriptions.DATASET, "key"),
        "table-keys": schemas.table(descriptions.TABLE, "key"),
        "column-options": schemas.table(descriptions.COLUMN, "option"),
        "sqlstates": "\n".join(_sqlstates()),
    }


def with_blocks(text: str, made: Mapping[str, str]) -> str:
    """Return a page with its generated blocks as they are made now."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}", text)


def with_transcripts(text: str, folder: Path, database_url: str) -> str:
    """Return a page with its transcripts as they are printed now; what differs by time or place only is kept.

    The commands of a page run one after the other in `folder`, against the database of that address.
    """
    new_names: dict[str, str] = {}
    with ExitStack() as sessions:
        prompt: list[python_sessions.Prompt] = []

        def printed(kind: str, shown: str) -> str:
            if kind == "console":
                return "".join(_follow(shown, folder, database_url, new_names))
            if not prompt:
                here = _environment(folder, database_url)
                prompt.append(sessions.enter_context(python_sessions.prompt(folder, here)))
            return prompt[0].follow(shown)

        def follow(found: re.Match[str]) -> str:
            if found["path"]:
                path = folder / found["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(found["text"], encoding="utf-8")
            if found["kind"] not in {"console", "pycon"}:
                return found[0]
            return found[0].replace(found["text"], _kept(found["text"], printed(found["kind"], found["text"])))

        return _FENCE.sub(follow, text)


def _kept(before: str, after: str) -> str:
    """Return the new transcript with the old line for each that differs by time or place only."""
    old: dict[str, list[str]] = {}
    for line in before.splitlines(keepends=True):
        old.setdefault(_steady(line), []).append(line)
    return "".join(
        old[_steady(line)].pop(0) if old.get(_steady(line)) else line for line in after.splitlines(keepends=True)
    )


def _steady(line: str) -> str:
    """Return a line without what differs from one run to the next; a column's width may change with it."""
    for pattern, word in _VOLATILE:
        line = pattern.sub(word, line)
    return re.sub(r" +|─+|-{2,}", " ", line)


def _follow(text: str, folder: Path, database_url: str, new_names: dict[str, str]) -> Iterator[str]:
    """Run the commands of a transcript; a run of an earlier one, named as the page has it, is known by `new_names`."""
    asked = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    done = _run([_renamed(command, new_names) for command, _, _ in asked], folder, database_url)
    for (command, _, before), after in zip(asked, done, strict=True):
        new_names |= dict(zip(_RUN.findall(before), _RUN.findall(after), strict=False))
        old_names = {new: old for old, new in new_names.items()}
        yield f"$ {command}\n" + _renamed(after, old_names)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return _RUN.sub(lambda run: names.get(run[0], run[0]), text)


def _environment(folder: Path, database_url: str) -> dict[str, str]:
    """Return the environment of a person who works in a folder, with the command `etl`."""
    program = folder / ".bin" / "etl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m etl "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
        "ETL_DATABASE_URL": database_url,
        "ETL_LOG_LEVEL": "error",
    }
    return environment | {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}


def _run(commands: Iterable[str], folder: Path, database_url: str) -> list[str]:
    """Run commands in one shell as a person would, and return what each printed."""
    environment = _environment(folder, database_url)
    script = "\n".join(f"{command}\nstatus=$?; printf '\\036'; (exit $status)" for command in commands)
    done = subprocess.run(  # noqa: S603 - the commands of our own pages
        ["/bin/sh", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
    return [_tidy(_read_here(text, folder, database_url)) for text in done.stdout.split("\036")[:-1]]


def _read_here(text: str, folder: Path, database_url: str) -> str:
    """Return what was printed as a terminal shows it: elsewhere printed commands name the folder and the database."""
    text = re.sub(rf"cd {re.escape(str(folder))}[\w./-]* && ", "", text)
    # Only the first command of an embedded database says it.
    text = re.sub(r"^creating a PostgreSQL in .*\n", "", text, flags=re.MULTILINE)
    return text.replace(f" --database {shlex.quote(database_url)}", "").replace(f"{folder}/", "")


def _tidy(text: str) -> str:
    text = re.sub(r" +$", "", text, flags=re.MULTILINE).rstrip("\n")
    return f"{text}\n" if text else ""


def commands() -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command with a context of a fixed width, in the order of `etl --help`."""
    settings = {**cli.context_settings, "terminal_width": 100}

    def below(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
        yield command, context
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                if found is not None:
                    yield from below(found, click.Context(found, context, info_name=name, terminal_width=100))

    return below(cli, click.Context(cli, info_name="etl", **settings))


def _commands() -> Iterator[str]:
    for command, context in commands():
        yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"


def _options() -> Iterator[str]:
    yield "| option | environment | `etl.toml` | default | commands | what it is |"
    yield "| --- | --- | --- | --- | --- | --- |"
    rows: dict[tuple[str, ...], list[str]] = {}
    for command, context in commands():
        for option in command.get_params(context):
            if isinstance(option, click.Option) and not {"--help", "--version"} & set(option.opts):
                path = context.command_path.removeprefix("etl ").removeprefix("etl")
                rows.setdefault(_option(option, context), []).append(path or "before the command")
    for (name, twin, key, default, help_text), paths in rows.items():
        yield f"| {name} | {twin} | {key} | {default} | {', '.join(paths)} | {help_text} |"


def _option(option: click.Option, context: click.Context) -> tuple[str, ...]:
    extra = option.get_help_extra(context)
    name = next(name for name in option.opts if name.startswith("--"))
    key = name.removeprefix("--").replace("-", "_")
    kinds = {"integer range": " N", "float range": " N", "integer": " N", "boolean": ""}
    value = kinds.get(option.type.name, f" {option.make_metavar(context).strip('[]')}").replace("|", r"\|")
    default = extra.get("default", "required" if option.required else "off" if option.is_flag else "")
    bounds = extra.get("range", "").replace("x>=", "at least ").replace("<=x<=", " to ")
    return (
        f"`{name}{value}`",
        ", ".join(f"`{twin}`" for twin in extra.get("envvars", ())),
        _key_in_file(key, context.command_path.split()[1:]),
        ", ".join(filter(None, (default, bounds))),
        (option.help or "").replace("|", r"\|"),
    )


def _key_in_file(key: str, command: list[str]) -> str:
    """Return the key of an option in `etl.toml` as the page shows it, empty without one."""
    if command and command[0] in SERVICES and key in service_keys(command[0]):
        return f"`{command[0]}.{key}`"
    return f"`{key}`" if _takes_from_file(key, command) else ""


def _takes_from_file(key: str, command: list[str]) -> bool:
    """Return whether the page names a key of `etl.toml` for the option of a command."""
    setting = file_keys().get(key)
    if setting is None or (command and command[0] in SERVICES):
        return False
    if not command or command[0] == "load" or key == "metrics_file":
        return True
    return command[0] == "failed" and is_of_failed(setting)


def _conversions(connection: Connection) -> Iterator[str]:
    yield "| type | JSON value | becomes |"
    yield "| --- | --- | --- |"
    for name in get_args(Type):
        for value in TYPES[name].examples:
            yield f"| `{name}` | `{value}` | {_converted(connection, name, value)} |"


def _converted(connection: Connection, kind: Type, value: str) -> str:
    piece = Piece(offset=0, count=1, first_record=1, parts=(f'{{"value": {value}}}'.encode(),), shape="array")
    (record,) = decode(piece)
    try:
        text = converter(Column(name="value", type=kind))(record["value"])  # type: ignore[index] # it is no fault
    except Misfit as misfit:
        return f"misfit {misfit.sqlstate}: {misfit.reason}"
    statement = sql.SQL("select {}::{}::text").format(sql.Literal(text), sql_type(kind))
    row = connection.execute(statement).fetchone()
    return f"`{row[0]}`" if row and row[0] else "the empty text"


def _tables(connection: Connection) -> Iterator[str]:
    relations = connection.execute(
        "select c.oid, n.nspname, n.nspname || '.' || c.relname, obj_description(c.oid, 'pg_class') "
        "from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname in ('etl', 'logistics', 'analytics') and c.relkind in ('r', 'v') "
        "order by array_position(array['logistics', 'analytics', 'etl'], n.nspname::text), c.relname"
    ).fetchall()
    schema = None
    for oid, of, name, comment in relations:
        if of != schema:
            schema = of
            yield f"## Schema `{schema}`\n"
        yield f"### {name}\n"
        if comment:
            yield f"{comment.rstrip('.')}.\n"
        yield "| column | type | | what it is |"
        yield "| --- | --- | --- | --- |"
        columns = connection.execute(
            "select attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum) "
            "from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped order by attnum",
            [oid],
        )
        for column, kind, is_required, meaning in columns:
            yield f"| `{column}` | {kind} | {'not null' if is_required else ''} | {meaning or ''} |"
        yield ""


# What a column of an aggregate is measured in, by its type, else by its name: the first that is found.
_UNITS = (
    (r"^type date$", "day, UTC"),
    (r"^type timestamp with time zone$", "instant, UTC"),
    (r"^type (boolean|text)$", ""),
    (r"^batch$", "bytes"),
    (r"^count_|^distinct_|_number$|_buckets$|^buckets$|^rows$|_pending$|^version$", "number"),
    (r"^local_hour$", "hour of the day"),
    (r"_share$|_rate$|^scaled_", "0 to 1"),
    (r"^season_lean$", "-1 to 1"),
    (r"^load_factor$", "kg per kg"),
    (r"^tonne_km_load_factor$", "tonne-km per tonne-km"),
    (r"^co2e_g_per_tonne_km$", "g CO2e per tonne-km"),
    (r"_tonne_km$", "tonne-km"),
    (r"_co2e_kg$|^co2e_kg_", "kg CO2e"),
    (r"_declared_value$|_amount$", "currency of the row"),
    (r"^sum_squared_.*_hours$", "hours squared"),
    (r"_hours$", "hours"),
    (r"^seconds$", "seconds"),
    (r"^fuel_l_per_100_km$", "litres per 100 km"),
    (r"^cost_per_kg$", "currency per kg"),
    (r"(^|_)freight_cost$", "currency"),
    (r"_kg$", "kg"),
    (r"_km$", "km"),
    (r"_fuel_l$", "litres"),
    (r"_m3$", "m³"),
    (r"(^|_)pieces$", "pieces"),
    (r"_quantity$", "units"),
)


def unit(name: str, kind: str) -> str:
    """Return what a column of an aggregate is measured in.

    Raises StopIteration for a name that tells no unit: give the column another, or the unit its place here.
    """
    words = (f"type {kind}", name)
    return next(unit for pattern, unit in _UNITS if any(re.search(pattern, word) for word in words))


def _aggregates(connection: Connection) -> Iterator[str]:
    known = {aggregate.table: aggregate for aggregate in read_all()}
    for table in [*known, "analytics.freshness"]:
        comment, *columns = connection.execute(
            "select null::text, null::text, obj_description(to_regclass(%(table)s), 'pg_class') union all "
            "(select attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum) from pg_attribute "
            "where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped order by attnum)",
            {"table": table},
        ).fetchall()
        yield f"### {table}\n"
        yield f"{comment[2].rstrip('.')}.\n"
        if table in known:
            facts = ", ".join(dict.fromkeys(fact.table for fact in known[table].facts))
            bucket = {"all": "as a whole"}.get(known[table].bucket, f"by {known[table].bucket}")
            yield f"Key: {', '.join(known[table].key)}. Recomputed {bucket} after a change of {facts}.\n"
        yield "| column | type | unit | what it is |"
        yield "| --- | --- | --- | --- |"
        for column, kind, meaning in columns:
            yield f"| `{column}` | {kind} | {unit(column, kind)} | {meaning} |"
        yield ""


def _modules() -> Iterator[str]:
    yield "| module | what it is for |"
    yield "| --- | --- |"
    for found in pkgutil.walk_packages(etl.__path__, "etl."):
        name = found.name
        if name == "etl.__main__":
            continue
        text = (importlib.import_module(name).__doc__ or "").strip().split("\n\n")[0].split()
        path = name.replace(".", "/") + ("/" if found.ispkg else ".py")
        yield f"| `{path}` | {' '.join(text)} |"


def _sqlstates() -> Iterator[str]:
    yield "| SQLSTATE | condition | at connection | in a batch | in isolation | at publication | in a refresh |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for codes in (*TABLE, UNDEFINED):
        ends = [ENDS["connection"][codes.connecting]]
        ends += [ENDS[stage][codes.meaning] for stage in ("batch", "isolation", "publication", "refresh")]
        yield f"| {codes.prefix or 'another class'} | {codes.name} | {' | '.join(ends)} |"


def _recognised() -> Iterator[str]:
    compressions = ", ".join(dict.fromkeys(recognition.COMPRESSIONS.values()))
    encodings = ", ".join(dict.fromkeys(each.name.upper() for each in recognition.ENCODINGS.values()))
    yield "| recognised by its content | what becomes of it |"
    yield "| --- | --- |"
    yield f"| {compressions} | read decompressed, whatever its name |"
    yield f"| {encodings} | read as UTF-8 |"
    for words in formats.FORMATS:
        yield f"| {words} | exit code 3: `expected JSON that begins with [ or {{, got what looks like {words}` |"


def main() -> None:
    """Rewrite the pages in place."""
    with (
        tempfile.TemporaryDirectory() as name,
        opened(f"embedded:{name}/postgres", ROOT / "config") as server,
        connect(server) as connection,
    ):
        made = blocks(connection)
        _write(ROOT / "docs" / "reference" / "openapi.json", openapi_text(server))
        for file, text in schemas.texts().items():
            _write(ROOT / schemas.FOLDER / file, text)
        for number, path in enumerate(PAGES):
            after = path.read_text(encoding="utf-8")
            after = with_blocks(after, made)
            if "```console\n" in after or "```pycon\n" in after:
                after = _with_transcripts_of_a_new_database(after, Path(name) / str(number), connection)
            _write(path, after)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"updated {path.relative_to(ROOT)}\n")


def openapi_text(database: Database) -> str:
    """Return the description of `etl serve` with the shipped aggregates, as it is in the repository."""
    from etl.serving.application import description  # noqa: PLC0415 - most of the tests of this module need no service

    return json.dumps(asyncio.run(description(database, ROOT / "config")), indent=1, ensure_ascii=False) + "\n"


def _with_transcripts_of_a_new_database(text: str, folder: Path, connection: Connection) -> str:
    folder.mkdir()
    database = f"page_{folder.name}"
    connection.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    info = connection.info
    address = f"postgresql://{info.user}@/{database}?host={info.host}&port={info.port}"
    migrate(Database(conninfo=address), ROOT / "config")
    return with_transcripts(text, folder, address)


if __name__ == "__main__":
    main()
