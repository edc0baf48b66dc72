"""The groups and commands of the command line: where options may be written, and what help and errors say of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

_contexts: list[click.Context] = []


def last() -> click.Context | None:
    """Return the newest context of the command line, also when Click is done with it; None before and after it."""
    return _contexts[-1] if _contexts else None


def forget() -> None:
    """Forget the contexts of a command line that has ended."""
    _contexts.clear()


class Command(click.Command):
    """A command whose help may begin with examples and show its options in sections.

    `sections` are the titles and the parameters of each; what none has is in the last section, "Other".
    """

    def __init__(
        self, *arguments: Any, examples: str = "", sections: Mapping[str, Sequence[str]] | None = None, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.examples = examples
        self.sections = sections or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the command; say of an unknown option which one is meant, or where it belongs."""
        _contexts.append(ctx)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _explained(error, ctx) from error

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description, then the examples."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section."""
        if not self.sections:
            super().format_options(ctx, formatter)
            return
        parameters = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = {str(each.name): each.get_help_record(ctx) for each in parameters}
        options = {name: record for name, record in records.items() if record is not None}
        named = {name for names in self.sections.values() for name in names}
        others = {"Other": [name for name in options if name not in named]}
        for title, names in (dict(self.sections) | others).items():
            with formatter.section(title):
                formatter.write_dl([options[name] for name in names if name in options])


class Group(click.Group):
    """A group that shows its help when no command is named."""

    command_class = Command

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **{"no_args_is_help": False} | others)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before the command; without a command, print the help and end with exit code 0."""
        _contexts.append(ctx)
        rest = super().parse_args(ctx, args)
        if not [*ctx._protected_args, *rest] and not ctx.resilient_parsing:  # noqa: SLF001 - Click has no public name
            click.echo(ctx.get_help())
            ctx.exit()
        return rest


def _explained(error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
    """Return the error of an unknown option with the closest option, or with the place of an option of all commands."""
    name = error.option_name
    if name in _options_of(ctx.find_root().command):
        rest = ctx.command_path.partition(" ")[2]
        return click.UsageError(f"The option {name} expects a value: etl {name} VALUE {rest} ...", ctx)
    meant = f" Did you mean '{error.possibilities[0]}'?" if error.possibilities else ""
    return click.UsageError(f"No such option '{name}'.{meant}", ctx)


def with_options_first(root: click.Group, ctx: click.Context, words: Sequence[str]) -> list[str]:
    """Return a command line with the options of the root before the command, wherever they were written.

    An option of the command itself, the value of an option, and what follows `--`, stay where they are. So does
    everything of a command that passes options on to another program.
    """
    known = _options_of(root)
    first: list[str] = []
    rest: list[str] = []
    left = list(words)
    command: click.Command | None = root
    while left and left[0] != "--" and command is not None and not _passes_on(command):
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        own = {} if command is root else _options_of(command)
        has_value = not equals and own.get(name, known.get(name, False))
        if has_value and not left:
            rest.append(word)  # The parser of the command refuses it.
            break
        place = first if name in known and name not in own else rest
        place += [word, left.pop(0)] if has_value else [word]
        if isinstance(command, click.Group) and not word.startswith("-"):
            command = command.get_command(ctx, word)
    return [*first, *rest, *left]


def _passes_on(command: click.Command) -> bool:
    return bool(command.context_settings.get("ignore_unknown_options")) or any(
        each.type is click.UNPROCESSED for each in command.params
    )


def _options_of(command: click.Command) -> dict[str, bool]:
    """Return the options of a command by name, each with whether a value follows it; without --help and --version."""
    options = [each for each in command.params if isinstance(each, click.Option) and not each.is_eager]
    return {name: not each.is_flag and not each.count for each in options for name in each.opts}
