"""The list of options; the command line, etl.toml and the function for programs are derived from it."""

from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import pytest
from click.testing import CliRunner

import etl
from etl import settings
from etl.cli.options import given_by, settings_options
from etl.errors import DefinitionError, UsageError
from etl.library import arguments
from etl.options import Option, build, setting_of, settings_of
from etl.settings import LoadSettings, RetrySettings, read_file_settings


@dataclass(frozen=True, kw_only=True)
class Extended(LoadSettings):
    """The options of a load and two more; each option is one field."""

    shade: Annotated[int, Option("How dark.", least=1, most=9)] = 3
    colour: Annotated[Literal["red", "blue"], Option("Which colour.")] = "red"


def _asked(*arguments: str, defaults: dict[str, Any] | None = None, **environment: str) -> tuple[Extended, str]:
    """Return the settings that a command derived from the list gets, and its output."""
    found: list[Extended] = []

    @click.command()
    @settings_options(Extended)
    def command(**options: Any) -> None:
        found.append(Extended.read(given_by(Extended, options)))

    done = CliRunner().invoke(command, arguments, env=environment, default_map=defaults)
    return (found or [Extended()])[0], done.output


def test_another_field_is_an_option_of_the_command() -> None:
    """A field has a flag, an environment variable, a bound, choices, a default and a help text; the flag wins."""
    assert _asked()[0] == Extended()
    assert _asked("--shade", "7", "--colour", "blue", ETL_SHADE="8")[0] == Extended(shade=7, colour="blue")
    assert _asked(ETL_SHADE="8", defaults={"shade": 2, "colour": "blue"})[0] == Extended(shade=8, colour="blue")
    assert "'--shade' (env var: 'ETL_SHADE'): 10 is not in the range 1<=x<=9" in _asked("--shade", "10")[1]
    assert "'green' is not one of 'red', 'blue'" in _asked("--colour", "green")[1]
    words = " ".join(_asked("--help")[1].split())
    assert "--shade INTEGER RANGE How dark. [env var: ETL_SHADE; default: 3; 1<=x<=9]" in words
    assert "--colour [red|blue] Which colour. [env var: ETL_COLOUR; default: red]" in words


def test_another_field_is_a_key_of_etl_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field is a key of etl.toml with the type of the option; its value is then the default of the command."""
    path = tmp_path / "etl.toml"
    path.write_text('shade = 2\ncolour = "blue"\nno_precalculate = true\njson = true\n')
    with pytest.raises(DefinitionError, match="unknown field `shade`"):
        read_file_settings(tmp_path)
    monkeypatch.setattr(settings, "FILE_CLASSES", (*settings.FILE_CLASSES, Extended))
    defaults = read_file_settings(tmp_path).as_defaults()
    assert defaults == {"shade": 2, "colour": "blue", "no_precalculate": True, "as_json": True}
    assert _asked(defaults=defaults)[0] == Extended(shade=2, colour="blue", precalculate=False)
    path.write_text('shade = "dark"\n')
    with pytest.raises(DefinitionError, match=r"Expected `int \| null`, got `str` - at `\$\.shade`"):
        read_file_settings(tmp_path)


def test_another_field_is_an_argument_of_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field is a keyword of `etl.load` with the bounds of the option; there are no other keywords."""
    options: Any = {"shade": 2, "colour": "blue"}
    with pytest.raises(TypeError, match="unexpected option 'colour'"):
        etl.load("vehicle", "missing.json", **options)
    monkeypatch.setattr(arguments, "LoadSettings", Extended)
    with pytest.raises(UsageError, match="no dataset is called"):
        etl.load("vehicle", "missing.json", **options)
    with pytest.raises(UsageError, match=r"^shade: Expected `int` <= 9"):
        etl.load("vehicle", "missing.json", **options | {"shade": 10})
    with pytest.raises(UsageError, match=r"^colour: Invalid enum value 'green'"):
        etl.load("vehicle", "missing.json", **options | {"colour": "green"})


def test_a_replay_has_its_share_of_the_list() -> None:
    """The keywords of `etl.replay` have the bounds of the options; options only for a load are not among them."""
    wrong: Any = {"retry_attempts": 0}
    with pytest.raises(UsageError, match=r"^retry_attempts: Expected `int` >= 1"):
        etl.replay(all=True, **wrong)
    other: Any = {"mode": "append"}
    with pytest.raises(TypeError, match="unexpected option 'mode'"):
        etl.replay(all=True, **other)


def test_a_type_checker_sees_the_list() -> None:
    """The keywords of `etl.load` that a type checker knows are the fields, with their types."""
    typed = get_type_hints(arguments.LoadOptions)
    assert set(typed) == {setting.name for setting in settings_of(LoadSettings)}
    for setting in settings_of(LoadSettings):
        alternatives = set(get_args(typed[setting.name]) if _is_union(typed[setting.name]) else [typed[setting.name]])
        assert (type(None) in alternatives) == setting.is_optional, setting.name
        assert setting.written in alternatives, setting.name
        assert len(alternatives) == 1 + setting.is_optional + (setting.option.read is not None), setting.name


def _is_union(kind: object) -> bool:
    return get_origin(kind) in {Union, UnionType}


def test_a_field_without_an_option_is_refused() -> None:
    """A field of a settings class without an option is an error."""

    @dataclass(frozen=True, kw_only=True)
    class Unlisted(LoadSettings):
        unlisted: int = 0

    with pytest.raises(TypeError, match=r"Unlisted\.unlisted has no Option"):
        settings_of(Unlisted)


def test_values_are_read_from_their_texts() -> None:
    """A limit, a folder and the retries of a group are read from the text and the numbers of their options."""
    asked = LoadSettings.read({"max_rejected": "2.5%", "failed_dir": "elsewhere", "retry_attempts": 1})
    assert asked == LoadSettings(
        max_rejected=settings.Limit(percent=2.5), failed_dir=Path("elsewhere"), retries=RetrySettings(attempts=1)
    )
    assert LoadSettings.read({"max_rejected": 3}).max_rejected == settings.Limit(count=3)
    assert build(LoadSettings, {}) == LoadSettings.read({}) == LoadSettings()
    assert setting_of(LoadSettings, "max_rejected").default_written == "10%"
    with pytest.raises(UsageError, match="--max-rejected expects a number or a percentage"):
        LoadSettings.read({"max_rejected": "many"})


@pytest.mark.parametrize(
    "options", [{"precalculate": False}, {"dry_run": True}, {"dry_run": True, "precalculate": True}]
)
def test_a_load_that_leaves_the_aggregates_alone(options: dict[str, Any]) -> None:
    """A load precalculates, except with --no-precalculate and in a dry run."""
    assert LoadSettings.read({}).precalculate
    assert not LoadSettings.read(options).precalculate
