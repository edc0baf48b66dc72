-- A source can be known by its name, size and time, without reading it.

alter table etl.runs add column source_time_ns bigint;

create index runs_trusted_idx on etl.runs (hashtextextended(source, 0)) where source_time_ns is not null;

comment on column etl.runs.source_time_ns is 'time of the last change of the file, in nanoseconds since 1970, when it was read to its end; null: a load without --trust-mtime, or no file';
