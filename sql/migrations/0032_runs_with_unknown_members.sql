-- Unchanged records are examined for unknown members only where the loads before may have met some.

alter table etl.runs add column unknown_of bigint;

create index runs_unknown_idx on etl.runs (versions_of) where versions_of is not null and unknown_of is distinct from 0;

comment on column etl.runs.unknown_of is 'number of the definition by which its records may have members that no column takes; 0: none has; null: unfinished, or finished by an older version';
