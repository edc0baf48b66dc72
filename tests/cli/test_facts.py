"""Each command that prints facts prints them as JSON, too."""

import json
from collections.abc import Iterator

import click
import pytest

from etl.cli import cli
from tests.support.site import Site

WITHOUT = {
    "db psql": "psql prints",
    "dataset ddl": "prints SQL, which programs read",
    "dataset schema": "prints a JSON Schema",
    "serve": "runs until a signal, and its log is JSON",
}
"""Commands without --json, and why."""


def _commands(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from _commands(command, *before, name)
        else:
            yield " ".join([*before, name]), command


def test_each_command_has_json_or_a_reason() -> None:
    """A new command prints its facts as JSON, or is entered above with the reason."""
    without = {name for name, command in _commands(cli) if "as_json" not in {each.name for each in command.params}}
    assert without == set(WITHOUT)


@pytest.mark.parametrize(
    ("command", "facts"),
    [
        ("db status", {"running": True}),
        ("db url", {}),
        ("db migrate", {"tables": [], "columns": [], "triggers": []}),
        ("dataset create vehicles", {"dataset": "vehicles", "tables": ["logistics.vehicles"]}),
        ("dataset show vehicles --projection", {"dataset": "vehicles", "is_fast": True}),
        ("dataset infer feed.json --name feeds", {"dataset": "feeds", "records": 1, "path": None}),
        ("dataset infer feed.json --output new.toml", {"dataset": "new", "path": "new.toml", "definition": None}),
        ("generate vehicles --records 3 --output g.json", {"records": 3, "output": "g.json", "spoiled": {}}),
        ("init --dataset boxes", {"dataset": "boxes"}),
        ("report --limit 1", {"aggregate": "carrier_performance"}),
    ],
)
def test_facts_are_json(site: Site, command: str, facts: dict[str, object]) -> None:
    """Stdout is one JSON object with the facts of the command, and nothing else."""
    (site.folder / "feed.json").write_text('[{"vehicle_id": "V1"}]')
    done = site.run(*command.split(), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name] for name in facts} == facts


@pytest.mark.parametrize(
    "command",
    ["listen --json", "generate vehicles --records 3 --json", "report --json --format csv", "listen --check --json"],
)
def test_facts_that_are_not_there(site: Site, command: str) -> None:
    """Where a command has no facts for stdout, --json is wrong usage; without a listener there is none either."""
    done = site.run(*command.split())
    assert (done.returncode, done.stdout) == (4 if "check" in command else 2, "")
