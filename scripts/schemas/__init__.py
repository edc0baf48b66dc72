"""The JSON Schemas of definitions and of `etl.toml`: written to `config/schemas/`, for editors.

The types are those that the reader of each file converts to. The rules that these types cannot express are added here,
as far as a schema can. They are of draft 7, the newest that the language server Taplo knows.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from etl.datasets import DIGEST, LINEAGE, SOURCE, TYPES, Column, problems, reading
from etl.datasets.types import ALIASES, OPTIONS, SYNONYMS, NumberType
from etl.options import Setting, settings_of
from etl.settings import SERVICES, GlobalSettings, file_keys, file_struct, service_keys
from scripts.schemas import descriptions

FOLDER: Final = "config/schemas"
DRAFT: Final = "http://json-schema.org/draft-07/schema#"

Schema = dict[str, Any]

_WORD = r'(?:[^\W\d][\w$]*|"(?:[^"%{}]|"")+")'
_SIZE = r"(?:\(\s*[\w-]+(?:\s*,\s*[\w-]+)*\s*\))?"
# Looser than the reader in the order of words, so that it refuses no type which the reader takes.
_TYPE = rf"^\s*{_WORD}(?:\.{_WORD})?(?:\s+[A-Za-z]+)*\s*{_SIZE}(?:\s+[A-Za-z]+)*\s*{_SIZE}(?:\s*\[[0-9]*\])*\s*$"
_NAME = "[A-Za-z_][A-Za-z0-9_]{0,62}"
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"
_BOUNDS = ("min", "above", "max")
_CLOCK = r"^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?|24:00(:00)?)$"
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def texts() -> Mapping[str, str]:
    """Return the text of each schema by the name of its file."""
    schemas = {"dataset.json": of_definitions(), "etl.json": of_settings()}
    return {name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


def of_definitions() -> Schema:
    """Return the schema of a dataset definition."""
    dataset, table, column = (
        _described(struct, texts)
        for struct, texts in (
            (reading.Document, descriptions.DATASET),
            (reading.TableDocument, descriptions.TABLE),
            (Column, descriptions.COLUMN),
        )
    )
    _complete_dataset(dataset)
    _complete_table(table)
    _complete_column(column)
    return {
        "$schema": DRAFT,
        "title": "Dataset definition of etl",
        **dataset,
        "definitions": {"table": table, "column": column, "type": _type()},
    }


def of_settings() -> Schema:
    """Return the schema of `etl.toml`."""
    _, parts = msgspec.json.schema_components([file_struct()], ref_template="#/definitions/{name}")
    tables = {name: _plain(parts[name]) for name in ("Settings", "Load", *map(str.capitalize, SERVICES))}
    settings = tables.pop("Settings")
    before_commands = {setting.key for setting in settings_of(GlobalSettings)}
    for properties, options in (
        (settings["properties"], file_keys()),
        (tables["Load"]["properties"], file_keys()),
        *((tables[name.capitalize()]["properties"], service_keys(name)) for name in SERVICES),
    ):
        for key in properties.keys() & options.keys():
            properties[key] |= _about(options[key])
    for key in settings["properties"].keys() - before_commands - {"metrics_file", "load", *SERVICES}:
        settings["properties"][key]["description"] += " (Also in [load].)"
    # In draft 7 nothing counts beside a reference.
    for name in ("load", *SERVICES):
        settings["properties"][name] = {**tables[name.capitalize()], "description": f"The options of `etl {name}`."}
    return {"$schema": DRAFT, **settings, "title": "Settings of etl (etl.toml)"}


def table(meanings: Mapping[str, str], word: str) -> str:
    """Return the table of a page with the keys and their meanings."""
    rows = (f"| `{key}` | {meaning.replace('|', chr(92) + '|')} |" for key, meaning in meanings.items())
    return "\n".join((f"| {word} | meaning |", "| --- | --- |", *rows))


def _described(struct: type[msgspec.Struct], texts: Mapping[str, str]) -> Schema:
    """Return the schema of a struct, in which each key has its description; keys without one are not for people."""
    _, parts = msgspec.json.schema_components([struct])
    schema: Schema = _plain(parts[struct.__name__])
    schema["properties"] = {
        key: {"description": _LINK.sub(r"\1", text), **schema["properties"][key]} for key, text in texts.items()
    }
    return schema


def _plain(schema: Any) -> Any:
    """Return a schema without titles, and without null, which TOML does not have."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _plain(value) for key, value in schema.items() if key not in {"title", "description"}}
    if schema.get("default", 0) in (None, "", [], {}):
        del schema["default"]
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **schema}
    return {"anyOf": kinds, **schema} if kinds else schema


def _complete_dataset(dataset: Schema) -> None:
    properties = dataset["properties"]
    properties["name"]["pattern"] = f"^{_NAME}$"
    properties["records"]["pattern"] = r"^$|^[^.]+(\.[^.]+)*$"
    properties["key"] |= {"uniqueItems": True}
    _complete_conditions(properties["delete_if"])
    properties["table"] |= {"minItems": 1, "items": {"$ref": "#/definitions/table"}}
    has_key = {"required": ["key"], "properties": {"key": {"minItems": 1}}}
    each = {"required": ["each"], "properties": {"each": {"minItems": 1}}}
    dataset["allOf"] = [
        {"if": _has("mode", {"const": "merge"}), "then": has_key},
        {"if": _has("newest_by"), "then": has_key},
        {"if": _has("on_duplicate"), "then": has_key},
        {
            "if": _has("delete_if", {"minProperties": 1}),
            "then": {
                **_has("mode", {"const": "merge"}),
                "properties": {"mode": {"const": "merge"}, "on_duplicate": {"const": "newest"}},
            },
        },
        {"properties": {"table": {"items": [{"not": each}]}}},
    ]


def _complete_table(table: Schema) -> None:
    properties = table["properties"]
    properties["name"] |= {
        "pattern": rf"^{_NAME}\.{_NAME}$",
        "not": {"pattern": r"^(etl|etl_staging|pg_.*|information_schema)\."},
    }
    properties["columns"] |= {
        "minProperties": 1,
        "propertyNames": {
            "pattern": r"^[^\W\d]\w*$",
            "maxLength": problems.NAME_LENGTH,
            "not": {"enum": sorted({*LINEAGE, DIGEST, *problems.SYSTEM_COLUMNS})},
        },
        "additionalProperties": {
            "anyOf": [{"$ref": "#/definitions/type"}, {"$ref": "#/definitions/column"}],
        },
    }
    _complete_conditions(properties["where"])
    properties["index"]["items"] |= {"minItems": 1, "uniqueItems": True}


def _complete_conditions(conditions: Schema) -> None:
    """Let a list of values have one at least."""
    conditions["additionalProperties"]["minItems"] = 1


def _complete_column(column: Schema) -> None:
    properties = column["properties"]
    properties["type"] = {**_type(), "description": properties["type"]["description"]}
    properties["max_length"]["minimum"] = 1
    properties["timezone"]["pattern"] = "^UTC$|/"
    properties["formats"]["items"] = {"anyOf": [{"enum": sorted(problems.NUMBER_FORMATS)}, {"pattern": "%"}]}
    for bound in _BOUNDS:
        properties[bound]["anyOf"] = [{"type": "number"}, {"type": "string", "pattern": f"{_NUMBER}|{_CLOCK}"}]
    column["allOf"] = [
        *_options_of_types(),
        {
            "if": {"properties": {"type": {"const": "time"}}},
            "then": {"properties": {key: {"pattern": _CLOCK, "type": "string"} for key in _BOUNDS}},
        },
        {"if": _has("match"), "then": _has("value", {"const": SOURCE})},
        {"not": {"required": ["path", "value"]}},
        {"not": {"required": ["required", "misfits_to"], "properties": {"required": {"const": True}}}},
    ]


def _options_of_types() -> Iterator[Schema]:
    """Yield a rule for each option that only some types have."""
    for option in sorted(OPTIONS):
        names = {name for name, entry in TYPES.items() if option in entry.options}
        yield {"if": _has(option, {"minItems": 1}), "then": {"properties": {"type": _one_of(names)}}}
    numbers = {name for name, entry in TYPES.items() if isinstance(entry, NumberType)}
    yield {"if": _has("exact", {"const": True}), "then": {"properties": {"type": _one_of(numbers)}}}
    several = {"properties": {"type": {"not": {"enum": [name for name, each in TYPES.items() if not each.is_single]}}}}
    yield {"if": _has("trim", {"const": True}), "then": several}
    yield {"if": _has("default"), "then": several}


def _one_of(names: set[str]) -> Schema:
    """Return a schema for the names of these types. It takes every name in capitals, which the reader looks at."""
    known = [alias for alias, name in ALIASES.items() if name in names]
    return {"anyOf": [{"enum": known}, {"pattern": r"[A-Z]|\s"}]}


def _type() -> Schema:
    """Return the schema of the name of a type: an editor proposes those that the loader knows."""
    return {
        "anyOf": [{"enum": list(TYPES)}, {"type": "string", "pattern": _TYPE}],
        "not": {"enum": sorted(SYNONYMS)},
    }


def _has(key: str, value: Schema | None = None) -> Schema:
    return {"required": [key]} | ({"properties": {key: value}} if value else {})


def _about(setting: Setting) -> Schema:
    """Return what the list of options knows of one beside its type."""
    option = setting.option
    about: Schema = {"description": option.help}
    if option.least is not None:
        about["minimum"] = option.least
    if option.most is not None:
        about["maximum"] = option.most
    default = setting.default_written
    if default is not None and not setting.is_negated:
        about["default"] = default
    return about
