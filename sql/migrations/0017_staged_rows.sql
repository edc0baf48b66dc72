-- Staged rows are held against the ledger when a run continues: what rows mean where a duplicate policy keeps some out.

comment on column etl.batches.rows is 'rows of its loaded records for each table of the dataset, in its order; with those of duplicates that a policy kept out of the tables';
comment on column etl.batches.policies is 'records changed by policies: without their NUL characters (nul_stripped), with the key of an earlier record of the source (duplicates); the rows for each table without those of duplicates (kept_rows); the unknown members (unknown); and for each column the texts that it does not store as they are written (coerced); null: none';
