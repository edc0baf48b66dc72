-- What policies did with the records of a batch.

alter table etl.batches add column policies jsonb;

comment on column etl.batches.policies is 'what policies did: records without their NUL characters (nul_stripped), and members that the definition does not know (unknown); null: nothing';
