"""The commands that a command prints for a person to run next: they have the options that it was given itself.

A password is never printed. On a terminal the reader has the folder and the variables of the command. The output of
another command is read elsewhere, such as in a mail of cron: a command there names both.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from etl.cli import groups
from etl.ingestion.failed_store.files import File
from etl.quick_dataclasses import dataclass

_COMMANDS = "load|runs|failed|precalculate|listen|report|dataset|db|init|generate"
_WRITTEN = re.compile(rf"(?<![\w./-])etl (?P<command>failed (?:show|replay|discard|purge|adopt)\b|(?:{_COMMANDS})\b)")

# Of libpq's variables those that say where the database is, never a password.
_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGDATABASE", "PGUSER", "PGPASSFILE")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The words by which a printed command acts as this one: options of all commands, the failed store, and variables.

    `remark` says which password it needs.
    """

    common: tuple[str, ...] = ()
    failed_dir: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    remark: str | None = None


def command(*words: str | Path) -> str:
    """Return a command on one line for a shell: `etl` and these words, with the options that this command was given.

    Without a terminal it also changes to the folder, and names the database that the environment gives.
    """
    given = _given(elsewhere=not _is_read_here())
    variables = [f"{name}={shlex.quote(value)}" for name, value in given.variables]
    options = [*(given.failed_dir if words[0] == "failed" else ()), *given.common]
    line = " ".join([*variables, _program(), shlex.join([*map(str, words), *options])])
    folder = None if _is_read_here() else _folder()
    return line if folder is None else f"cd {shlex.quote(folder)} && {line}"


def completed(text: str) -> str:
    """Return a sentence with the options that this command was given in each command that the sentence names."""
    given, program = _given(elsewhere=False), _program()

    def write(found: re.Match[str]) -> str:
        last = map(shlex.quote, given.failed_dir if " " in found["command"] else ())
        return " ".join([program, *map(shlex.quote, given.common), found["command"], *last])

    return _WRITTEN.sub(write, text)


def note_on_password() -> str | None:
    """Return how a printed command gets the password that it leaves out; None if it leaves out none."""
    return _given(elsewhere=not _is_read_here()).remark


def path(file: File) -> str:
    """Return the path of a file for a shell: a whole one where the reader may be in another folder; or its URL."""
    if isinstance(file, Path) and not _is_read_here():
        return shlex.quote(str(Path(_folder() or "") / file))
    return shlex.quote(str(file))


def _is_read_here() -> bool:
    return sys.stdout.isatty()


def _folder() -> str | None:
    """Return the working folder, None where it was deleted."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _program() -> str:
    """Return how a shell finds this program: by its name, or by its path if the folder is not in PATH."""
    called, found = Path(sys.argv[0]), shutil.which("etl")
    if called.parts[-2:] == ("etl", "__main__.py"):
        return "etl" if found else f"{shlex.quote(sys.executable)} -m etl"
    if called.name != "etl" or called.parent == Path():
        return "etl"
    is_found = found is not None and Path(found).absolute() == called.absolute()
    return "etl" if is_found else shlex.quote(str(called.absolute()))


def _given(*, elsewhere: bool) -> _Given:
    """Return the options of this command that another one needs, too; `elsewhere`: also those of its environment."""
    context = click.get_current_context(silent=True) or groups.last()
    if context is None:
        return _Given()
    root = context.find_root()
    counted = {ParameterSource.COMMANDLINE} | ({ParameterSource.ENVIRONMENT} if elsewhere else set())
    common: list[str] = []
    if root.get_parameter_source("config_dir") in counted:
        common += ["--config-dir", root.params["config_dir"]]
    remark: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    source, address = root.get_parameter_source("database"), root.params.get("database")
    if address and source in counted:
        public = without_password(address)
        if public == address:
            common += ["--database", address]
        elif source is ParameterSource.COMMANDLINE:
            common += ["--database", public] if public else []
            remark = "the commands are without the password of the database: give it by ~/.pgpass or PGPASSWORD"
        else:
            remark = "the commands need ETL_DATABASE_URL or DATABASE_URL as this command has it, with its password"
    elif elsewhere and not address:
        variables = tuple((name, os.environ[name]) for name in _PLACES if os.environ.get(name))
    failed_dir = context.params.get("failed_dir") if context.get_parameter_source("failed_dir") in counted else None
    return _Given(
        common=tuple(common),
        failed_dir=("--failed-dir", str(failed_dir)) if failed_dir is not None else (),
        variables=variables,
        remark=remark,
    )


def without_password(address: str) -> str:
    """Return the address of a database as it is if it has no password, else without it; "" if it cannot be read."""
    from etl.database.connecting import EMBEDDED

    if address.startswith(EMBEDDED):
        return address
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parameters = conninfo_to_dict(address)
    except psycopg.Error:
        return ""
    public = {name: value for name, value in parameters.items() if name not in _SECRETS}
    if public.keys() == parameters.keys():
        return address
    shortened = _AUTHORITY.sub(r"\1\2@", address)
    shortened = re.sub(r"(?<=[?&])(?:password|sslpassword)=[^&]*&?", "", shortened).rstrip("?&")
    return shortened if _reads_as(shortened, public) else make_conninfo("", **public)


_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
_AUTHORITY = re.compile(r"^(postgres(?:ql)?://)([^:@/?]*):[^@/?]*@")


def _reads_as(address: str, parameters: Mapping[str, object]) -> bool:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return "://" in address and conninfo_to_dict(address) == parameters
    except psycopg.Error:
        return False
