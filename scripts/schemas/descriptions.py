"""What each key of a definition means, as Markdown: for the reference page and for the JSON Schema.

Links are as on the page `docs/reference/dataset-definitions.md`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DATASET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": "letters, digits and `_`; the same as the name of the file",
        "records": (
            "path of one record: `item` (the default) is each element of an array that is the whole document, or "
            "each of the records that follow one another; `shipments.item` each element of the array at "
            "`shipments`; `shipments.*` each member of the object at `shipments` (`*`: of the document), with its "
            "key as [`@`](#paths); `*.item` each element of the arrays that are members of the document, "
            '`days.*.item` of those at `days`; `shipments` the one object there, and the empty path (`""`) the '
            "document itself. All arrays and objects at that path are read, also those of documents that follow "
            "one another. Where [several datasets](../how-to/files.md#where-the-records-are-in-the-file) share a "
            "source, `item` means `NAME.item`"
        ),
        "mode": (
            "what happens to existing rows: `append` (the default) only adds rows; `merge` updates the record "
            "with the same key, if the new version is not older, and replaces its child rows; `replace` makes the "
            "dataset equal to the source, in one transaction at the end, but [keeps the rows of rejected "
            "records](exit-codes.md#publishing-all-at-once). `--mode` overrides it"
        ),
        "key": (
            "columns of the first table that identify a record; they become its primary key, must be `required` "
            "and may not be jsonb. `merge` needs a key. A child table has the same columns with the same types"
        ),
        "newest_by": (
            "column of the first table: of two versions the version with the larger value is kept (null is "
            "smallest); if the values are equal, the version that is later in the source or comes from the later "
            "run. Needs `key`"
        ),
        "on_nul": (
            "a record with a NUL character, which PostgreSQL cannot hold: `reject` it (the default), or `strip`: "
            "load it without the character. `--on-nul` overrides it"
        ),
        "on_duplicate": (
            "records of one source with the same key: keep the `newest` (by `newest_by`, then the later), keep "
            "the `first`, or `reject` all but the first (23505); in each case they are counted. Needs `key`. "
            "[Without it](#records-with-the-same-key) only a merge counts them. `--on-duplicate` overrides it"
        ),
        "delete_if": (
            "conditions like those of `where`: a record that meets them says that its key is gone, and `merge` "
            "deletes the row and its child rows. See [records that delete](#records-that-delete)"
        ),
        "on_unknown": (
            "members that no column, array or condition leads to: `warn` counts the records that have each (the "
            "default), `ignore` says nothing, `reject` rejects the record (23514). `--on-unknown` overrides it. "
            "[Details](#unknown-members)"
        ),
        "comment": "for the reader of the file",
        "table": "one or more `[[table]]`",
    }
)
TABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "name": "`SCHEMA.TABLE`, capitals kept; not in a schema of PostgreSQL or of the ledger (`etl`, `etl_staging`)",
        "columns": "the columns in order, each as a type or as `{ ... }` with the options below",
        "each": (
            "path of an array in the record, for every table but the first: one row per element; a list of paths "
            "leads to [arrays in arrays](#paths). A missing or null array gives no rows; any other value that is "
            "not an array rejects the record"
        ),
        "where": (
            "conditions that an object must meet to become a row of this table: each path must have the given "
            "value, or one of a list of values. See [several kinds of records](#several-kinds-of-records)"
        ),
        "index": "lists of columns; each list becomes an index. The key of a child table always has an index",
        "history": (
            "`true`: the versions of its rows that a change or a deletion ends are [kept](#history) in a table "
            "`NAME_history`, with the child rows. For a table of records of a dataset with a key"
        ),
        "partition_by": (
            "a column of time, by which the server [divides the table](#partitions): of type `date`, `timestamp` or "
            "`timestamptz`, `required`, and of the key if there is one"
        ),
        "partition_every": "what a partition holds: `month` (the default) or `day`, in UTC",
        "partition_hash": (
            "into how many partitions, from 2 to 1,024, the server [divides the table](#partitions) by the hash of the "
            "key; not with `partition_by`"
        ),
        "comment": "becomes the comment of the table",
    }
)
COLUMN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "type": (
            "`text`, `smallint`, `integer`, `bigint`, `numeric`, `double`, `boolean`, `uuid`, `date`, `time` (of "
            "day, without a zone), `timestamp` (without a zone), `timestamptz` (an instant), `jsonb` or `text[]`, "
            "or [any other type of the server](#types-of-the-server) by its name, such as `interval`, `inet`, "
            "`uuid[]` or `geometry(Point,4326)`"
        ),
        "path": "path of the value in the record; by default the name of the column",
        "value": 'a constant text instead of a path; `"$source"` is the name of the source',
        "match": 'with `value = "$source"`: a [regular expression](#paths) that selects a part of the name',
        "required": "a null or missing value rejects the record (23502); `not null` in the table",
        "trim": "removes white space at both ends of a text before any other check; not for `jsonb` and `text[]`",
        "exact": (
            'of a column of numbers: a text that the column would not store as it is written, such as `"001000"`, '
            "is a misfit (22P02). Without `exact` it is [loaded and counted](#texts-that-change)"
        ),
        "null_if": (
            "values that mean null, compared with the value as the JSON has it: texts, numbers, `false`, `true`, "
            "and `[]` for an empty array; for every type. They also mean null on the way to the value: with `path "
            '= "driver.name"` and `null_if = [false]` a record with `"driver": false` has no name'
        ),
        "decimal": (
            'how a number in a text writes its decimals: `","` reads `"1.234,50"`, `"."` reads `"1,234.50"`. '
            "Between groups of three digits may be the other sign, an apostrophe or a space. JSON numbers are "
            "read as always"
        ),
        "true": ('of a `boolean`: further values that mean true, as in `true = ["Y", "ja", 1]`'),
        "false": ('of a `boolean`: further values that mean false, as in `false = ["N", "nein", 0]`'),
        "unwrap": (
            '`"mongo"`: the value is in MongoDB\'s extended JSON, canonical or relaxed (`{"$oid": ...}`, '
            '`{"$date": ...}`, `{"$numberDecimal": ...}`): all kinds that are one value. Binary data is base64, '
            "and of subtype 4 a UUID; a regular expression is `/pattern/options`; `$minKey`, `$maxKey`, a "
            'reference and code with a scope are objects, and misfits for a scalar; `"dynamodb"`: it is in '
            'DynamoDB\'s (`{"S": ...}`, `{"N": ...}`, `{"M": ...}`). A value without a wrapping is read as it is; '
            "in `jsonb` all values within are unwrapped, too"
        ),
        "json": (
            "`json = true`: a text holds the value as JSON. For `jsonb` the text becomes a document; JSON null "
            "means null; a text that is not JSON is a misfit (22P02)"
        ),
        "default": (
            "the value for a missing or null value, applied after `null_if`; also the default of the column in "
            "the table. Not for `jsonb` and `text[]`"
        ),
        "min": (
            'the least value of a number: a number, or a text such as `"0.1"` that is read exactly. For a `time` it is '
            'a text such as `"08:15"`'
        ),
        "above": ("the bound that a value must be more than; written like `min`"),
        "max": ("the largest value; written like `min`"),
        "max_length": "longest text, in characters",
        "one_of": "the allowed texts",
        "timezone": (
            "for `timestamptz`: the [zone](#dates-and-times) of times without a zone, such as `America/Sao_Paulo` "
            "or `UTC`"
        ),
        "formats": "for dates and times: [formats](#dates-and-times) other than ISO 8601; the first that fits is used",
        "misfits_to": (
            "a text column of the same table, for misfits. A misfit is a value that does not fit the type of its "
            "column: the column becomes null, and the text of the value is stored in the other column"
        ),
        "keep_first": (
            "`keep_first = true`: of a row with a later version, the first value of the column is kept, in "
            "whatever order its versions are loaded ([first values](#first-values))"
        ),
        "comment": "becomes the comment of the column",
    }
)
