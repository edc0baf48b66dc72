-- What is done with the records of one source that have the same key.

alter table etl.runs add column on_duplicate text;

comment on column etl.runs.on_duplicate is 'which of the records with the same key stays: newest, first, or reject for all but the first; null: nobody asked';
comment on column etl.batches.policies is 'what policies did: records without their NUL characters (nul_stripped), records with the key of an earlier one of the source (duplicates), and members that the definition does not know (unknown); null: nothing';
comment on schema etl_staging is 'rows of atomic runs that are not visible yet, and keys of unfinished runs';
