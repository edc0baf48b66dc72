"""`etl dataset`."""

import click
import msgspec
from msgspec import structs

from etl import datasets
from etl.cli import completion, evolve, infer, print_warning
from etl.cli.groups import Group
from etl.cli.options import Common, explaining_swapped, json_option, option, print_facts, print_json, print_text
from etl.cli.tables import Column, print_made, print_table
from etl.database.connecting import connect
from etl.database.tables import require_tables
from etl.datasets import schemas
from etl.errors import ExitCode
from etl.provisioning import create, divide, require_fitting


@click.group("dataset", cls=Group)
def command() -> None:
    """Show, check and propose dataset definitions, and create their tables."""


command.add_command(infer.command)
command.add_command(evolve.command)


@command.command("list", epilog="Example: etl dataset list")
@json_option
@click.pass_obj
def list_command(common: Common, as_json: bool) -> None:
    """List all definitions: those whose tables `db migrate` creates, and the optional ones."""
    migrated = set(datasets.default_names(common.config_dir))
    found, wrong = datasets.look(common.config_dir)
    for error in wrong:
        print_warning(error)
    if as_json:
        print_json(
            {
                "dataset": each.name,
                "mode": each.mode,
                "tables": [table.name for table in each.tables],
                "path": each.path,
                "offered": each.name not in migrated,
            }
            for each in found
        )
        return
    print_table(
        "datasets",
        [
            *(Column("dataset"), Column("mode", 1), Column("tables", kind="text"), Column("made by", 2)),
            Column("definition", 3, "path"),
        ],
        [
            (
                each.name,
                each.mode,
                ", ".join(table.name for table in each.tables),
                "db migrate" if each.name in migrated else "dataset create",
                each.path,
            )
            for each in found
        ],
    )


@command.command("show", epilog="Example: etl dataset show shipments")
@click.argument("name", shell_complete=completion.datasets)
@option("--projection", is_flag=True, help="Show which values are sent unchanged, and their checks.")
@option(
    "--as", "form", type=click.Choice(["dbt"]), help="Print sources.yml of dbt: tables, comments, tests, freshness."
)
@json_option
@click.pass_obj
def show_command(common: Common, name: str, projection: bool, form: str | None, as_json: bool) -> None:
    """Show the columns of a dataset and the paths of their values."""
    dataset = datasets.find(name, common.config_dir)
    if form:
        from etl.datasets import dbt

        click.echo(dbt.sources(dataset), nl=False)
        return
    if projection:
        from etl.ingestion.transform import paths

        fast = paths.fast(dataset)
        text = f"every value is converted before it is sent: {fast}" if isinstance(fast, str) else fast.description()
        if as_json:
            print_json([{"dataset": name, "is_fast": not isinstance(fast, str), "projection": text}])
        else:
            click.echo(text)
        return
    if as_json:
        print_json([msgspec.to_builtins(dataset)])
        return
    print_text(str(dataset.path))
    print_text(f"mode {dataset.mode}, key {', '.join(dataset.key) or 'none'}")
    for table in dataset.tables:
        print_table(
            f"{table.name}{f', one row per element of {table.arrays_text}' if table.each else ''}"
            f"{', with its history' if table.history else ''}",
            [
                *(Column("column"), Column("type"), Column("path"), Column("required", 1)),
                Column("comment", 2, "text"),
            ],
            [
                (column.name, column.type, column.value or column.path, column.required, column.comment)
                for column in table.columns
            ],
        )


@command.command("check", epilog="Example: etl dataset check shipments exports/2026-11-21.json.gz")
@click.argument("name", shell_complete=completion.datasets)
@click.argument("source", required=False, metavar="[FILE]")
@option("--records", metavar="PATH", help="Path of one record, such as shipments.item. Default: the definition's path.")
@option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Number of records to check.")
@json_option
@click.pass_obj
def check_command(common: Common, name: str, source: str | None, records: str | None, limit: int, as_json: bool) -> int:
    """Check a definition against its tables, or against the first records of a file.

    Exit code 1: a table differs from the definition. A column that only the table has is no difference. With FILE (-
    for standard input) no database is used: the command shows the rows of the records, and the values that do not fit.
    Exit code 1: some do not fit. Exit code 3: the file cannot be read.
    """
    from etl.database.comparison import compare

    with explaining_swapped(["dataset", "check"], name, [source] if source else [], common.config_dir):
        dataset = datasets.find(name, common.config_dir)
    require_fitting(dataset)
    if source is not None:
        return _preview(dataset, source, records, limit, as_json=as_json)
    with common.looking() as database, connect(database) as connection:
        differences = compare(connection, dataset)
        wrong = sum(bool(each.remedy) for each in differences)
        if as_json:
            found = [vars(each) for each in differences]
            print_json([{"dataset": name, "path": dataset.path, "is_right": not wrong, "differences": found}])
        elif differences:
            shown = [(each.table, each.column, each.found, each.remedy) for each in differences]
            columns = [Column("table"), Column("column"), Column("found", kind="text"), Column("remedy", kind="text")]
            print_table("differences", columns, shown)
        require_tables(connection, dataset)
    if as_json:
        return ExitCode.FINDINGS if wrong else ExitCode.SUCCESS
    ends = f"differ from it in {wrong} thing{'s' if wrong > 1 else ''}" if wrong else "are there"
    print_text(f"{dataset.path}: the definition is right, and its tables {ends}")
    return ExitCode.FINDINGS if wrong else ExitCode.SUCCESS


def _preview(dataset: datasets.Dataset, name: str, records: str | None, limit: int, *, as_json: bool) -> int:
    from etl.ingestion.pipeline.preview import preview
    from etl.ingestion.sources.naming import named

    source = named(name)[0]
    misfits = count = 0
    for each in preview(source, dataset, "auto", records or dataset.records, limit):
        count += 1
        misfits += each.fault is not None
        if as_json:
            print_json(
                [
                    {
                        "record": each.record,
                        "offset": each.offset,
                        "rows": [{"table": table, "values": values} for table, values in each.rows],
                        "fault": structs.asdict(each.fault) if each.fault else None,
                    }
                ]
            )
            continue
        print_text(f"record {each.record:,} at byte {each.offset:,}")
        for table, values in each.rows:
            print_text(f"  {table}")
            width = max(map(len, values))
            for column, value in values.items():
                print_text(f"    {column:{width}}  {'' if value is None else repr(value)}".rstrip())
        if each.fault:
            where = ".".join(filter(None, (each.fault.table, each.fault.column)))
            print_text(f"  {each.fault.sqlstate} {where + ': ' if where else ''}{each.fault.reason}")
    if not as_json:
        print_text(f"{count - misfits:,} of {count:,} records fit")
    return ExitCode.FINDINGS if misfits else ExitCode.SUCCESS


@command.command("ddl", epilog="Example: etl dataset ddl shipments > shipments.sql")
@click.argument("name", shell_complete=completion.datasets)
@click.pass_obj
def ddl_command(common: Common, name: str) -> None:
    """Print the SQL statements that create the tables of a dataset."""
    dataset = datasets.find(name, common.config_dir)
    require_fitting(dataset)
    for statement in datasets.ddl(dataset):
        click.echo(f"{statement.as_string(None)};\n")
    if dataset.has_history:
        from etl.database import row_history

        for statement in row_history.ddl(dataset):
            click.echo(f"{statement.as_string(None)};\n")


@command.command("schema", epilog="Example: etl dataset schema > dataset.schema.json")
@option(
    "--of",
    type=click.Choice(["definition", "etl.toml"]),
    default="definition",
    show_default=True,
    help="The file that the schema describes.",
)
@option("--write", "is_written", is_flag=True, help="Write both schemas into the configuration folder.")
@click.pass_obj
def schema_command(common: Common, of: schemas.SchemaOf, is_written: bool) -> None:
    """Print the JSON Schema by which an editor completes, explains and checks a definition or etl.toml.

    An editor finds it by the first line of the file, as `init` and `dataset infer` write it. With --write, the schemas
    that this line names are brought to this version.
    """
    if not is_written:
        click.echo(schemas.text(of), nl=False)
        return
    changed = schemas.write(common.config_dir)
    for path in changed:
        print_text(f"wrote {path}")
    if not changed:
        print_text(f"the schemas in {common.config_dir / 'schemas'} are those of this version")


@command.command("create", epilog="Example: etl dataset create shipments")
@click.argument("name", shell_complete=completion.datasets)
@json_option
@click.pass_obj
def create_command(common: Common, name: str, as_json: bool) -> None:
    """Create the tables of a dataset, and add missing columns to existing ones."""
    dataset = datasets.find(name, common.config_dir)
    with common.database() as database:
        made = create(database, dataset)
    names = [table.name for table in dataset.tables]
    if not as_json:
        print_made(made)
    facts = {"dataset": name, "tables": names, "made": vars(made)}
    print_facts(facts, f"tables are complete: {', '.join(names)}", as_json=as_json)


@command.command("partition", epilog="Example: etl dataset partition shipments")
@click.argument("name", shell_complete=completion.datasets)
@option("--give-up", is_flag=True, help="Remove what an interrupted command has left; the tables stay as they are.")
@json_option
@click.pass_obj
def partition_command(common: Common, name: str, give_up: bool, as_json: bool) -> None:
    """Turn the tables of a dataset into partitioned ones, as its definition says (partition_by, partition_hash).

    Loads and readers continue: the rows are copied beside the table, and the copy takes its place. After an
    interruption run the same command again.
    """
    dataset = datasets.find(name, common.config_dir)
    with common.database() as database:
        divided = divide(database, dataset, gives_up=give_up)
    if as_json:
        print_json(vars(each) for each in divided)
        return
    for each in divided:
        what = "is left as it was" if each.given_up else f"is partitioned: {each.rows_copied:,} rows were copied"
        print_text(f"{each.table} {what}")
    if not divided:
        print_text(f"there is nothing to do for the tables of {name}")
