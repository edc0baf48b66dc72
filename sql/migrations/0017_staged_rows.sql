-- Staged rows are held against the ledger when a run continues. Batches whose rows are gone leave the ledger and load
-- again; nobody but the owner may delete anything else of the ledger.

create function etl.withdraw_batches(of_run text, offsets bigint[]) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
    withdrawn bigint[];
begin
    select array_agg(b."offset") into withdrawn
    from etl.batches b
    join etl.runs r on r.run = b.run
    where b.run = of_run and b."offset" = any(offsets)
        and r.is_atomic and (r.published_at is null or b.loaded_at > r.published_at);
    delete from etl.faults
    where failure in (select id from etl.failures where run = of_run and batch = any(withdrawn));
    delete from etl.failures where run = of_run and batch = any(withdrawn);
    delete from etl.batches where run = of_run and "offset" = any(withdrawn);
end;
$$;

revoke execute on function etl.withdraw_batches from public;

comment on function etl.withdraw_batches is 'removes batches of an atomic run that are not published, with their failures: their staged rows are gone';

comment on column etl.batches.rows is 'rows of its loaded records for each table of the dataset, in its order; with those of duplicates that a policy kept out of the tables';
comment on column etl.batches.policies is 'records changed by policies: without their NUL characters (nul_stripped), with the key of an earlier record of the source (duplicates); the rows for each table without those of duplicates (kept_rows); the unknown members (unknown); and for each column the texts that it does not store as they are written (coerced); null: none';
