"""How the fields of a settings class describe options; the command line, `etl.toml` and `etl.load` are derived from it.

Knows names, types, texts and bounds, and no command line and no file.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from etl.quick_dataclasses import dataclass

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Describe the option of a field beside its name, type and default: `Annotated[int, Option("Rows.", least=1)]`.

    `read` makes the value from its text. `key` is the name of the option if it differs from the name of the field.
    `is_in_file` allows the option in `etl.toml`. `twins` are its environment variables, by default `ETL_` and the key
    if it is allowed there, else none: what is meant for one command must not change the others.
    """

    help: str
    _: KW_ONLY
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    read: Callable[[str], Any] | None = None
    key: str | None = None
    is_in_file: bool = True
    twins: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Group:
    """Mark a field that is a settings class itself: the names of its options begin with `prefix` and `_`."""

    prefix: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option of a settings class: `name` is its keyword in Python, `kind` is its type without None.

    Of several types, `kind` is the first: `read` makes the values of all. `group` is the field with the class that has
    the option, None for an option of the settings class itself.
    """

    name: str
    group: str | None
    kind: Any
    is_optional: bool
    default: Any
    option: Option

    @property
    def is_negated(self) -> bool:
        """Whether the option switches off what is on by default."""
        return self.default is True

    @property
    def key(self) -> str:
        """The name of the option in `etl.toml` and, with `-` for `_`, on the command line."""
        return f"no_{self.name}" if self.is_negated else self.option.key or self.name

    @property
    def parameter(self) -> str:
        """The name of the parameter by which a command gets the value."""
        return self.key if self.is_negated else self.name

    @property
    def twins(self) -> tuple[str, ...]:
        """The environment variables of the option; the first one that is set counts."""
        if self.option.twins is not None:
            return self.option.twins
        return (f"ETL_{self.key.upper()}",) if self.option.is_in_file else ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the option accepts, empty if it is not a choice."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def written(self) -> Any:
        """The type of the value in `etl.toml` and on the command line."""
        return str if self.option.read else self.kind

    @property
    def default_written(self) -> Any:
        """The default as the command line shows it."""
        return str(self.default) if self.option.read and self.default is not None else self.default

    def value_of(self, given: Any) -> Any:
        """Return the value of the option, read from its text if the option has a `read`.

        Raises the errors of `read`.
        """
        return given if given is None or self.option.read is None else self.option.read(str(given))


@cache
def settings_of(settings_class: type) -> tuple[Setting, ...]:
    """Return the options of a settings class in the order of its fields, the options of a group at the group's place.

    Raises TypeError for a field without an Option or a Group.
    """
    return tuple(_settings(settings_class, prefix="", group=None))


def setting_of(settings_class: type, name: str) -> Setting:
    """Return the option of this name.

    Raises KeyError.
    """
    return {setting.name: setting for setting in settings_of(settings_class)}[name]


def build(settings_class: type[T], given: Mapping[str, Any]) -> T:
    """Return the settings with the given values, by name; the other options have their defaults.

    Raises TypeError for an unknown name, and the errors of reading a value.
    """
    known = {setting.name: setting for setting in settings_of(settings_class)}  # type: ignore[arg-type] # a class has a hash
    if unknown := sorted(given.keys() - known.keys()):
        raise TypeError(f"unexpected option {unknown[0]!r}")
    values = {name: known[name].value_of(value) for name, value in given.items()}
    return _filled(settings_class, values, prefix="")


def _settings(settings_class: type, *, prefix: str, group: str | None) -> Iterator[Setting]:
    defaults = {field.name: field.default for field in fields(settings_class)}
    for name, kind, about in _annotations(settings_class):
        if isinstance(about, Group):
            yield from _settings(kind, prefix=f"{about.prefix}_", group=name)
            continue
        alternatives = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
        one, *_others = [each for each in alternatives if each is not type(None)]
        yield Setting(
            name=prefix + name,
            group=group,
            kind=one,
            is_optional=type(None) in alternatives,
            default=defaults[name],
            option=about,
        )


def _filled(settings_class: type[T], values: Mapping[str, Any], *, prefix: str) -> T:
    own: dict[str, Any] = {}
    for name, kind, about in _annotations(settings_class):  # type: ignore[arg-type] # the same
        if isinstance(about, Group):
            own[name] = _filled(kind, values, prefix=f"{about.prefix}_")
        elif prefix + name in values:
            own[name] = values[prefix + name]
    return settings_class(**own)


@cache
def _annotations(settings_class: type) -> tuple[tuple[str, Any, Option | Group], ...]:
    """Return the name, the type and the description of each field."""
    found = []
    hints = get_type_hints(settings_class, include_extras=True)
    for field in fields(settings_class):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{settings_class.__name__}.{field.name} has no Option")
        kind, about = get_args(hint)
        found.append((field.name, kind, about))
    return tuple(found)
