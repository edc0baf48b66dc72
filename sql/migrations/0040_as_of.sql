-- What "now" is for the aggregates: the newest event in the data. A time that no load can have known has a wrong date, and
-- one of these would make every open shipment overdue.

-- As its owner, because analysts do not read the ledger.
create function analytics.newest_load() returns timestamptz
language sql stable parallel safe
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $load$ select coalesce(max(loaded_at), now()) from etl.batches $load$;

comment on function analytics.newest_load() is 'Return when the newest batch was loaded: a time after it is in the future; the present time where no batch was loaded';

-- The tables of a dataset are made after the migrations, and a definition of the user may lack a column.
set local check_function_bodies = off;

-- Only what the shipments and the ledger's entries of their batches say: the same rows give the same instant at any time.
create function analytics.as_of() returns table (as_of timestamptz)
language sql stable parallel safe
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $as_of$
    with by_batch as materialized (
        select etl_run, etl_batch, max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as newest
        from analytics.judged_shipments()
        group by etl_run, etl_batch
    ),
    load as materialized (
        select coalesce(max(loads.loaded_at), now()) as newest
        from by_batch
        join (
            select runs.number, unnest(coalesce(batches.part_offsets, array[batches."offset"])) as "offset", batches.loaded_at
            from etl.batches
            join etl.runs using (run)
        ) as loads on loads.number = by_batch.etl_run and loads."offset" = by_batch.etl_batch
    )
    select
        case
            when (select max(newest) from by_batch) <= load.newest then (select max(newest) from by_batch)
            -- Some time is in the future. This second scan is rarely needed.
            else (
                select max(greatest(
                    case when created_at <= load.newest then created_at end,
                    case when picked_up_at <= load.newest then picked_up_at end,
                    case when stated_delivered_at <= load.newest then stated_delivered_at end,
                    case when updated_at <= load.newest then updated_at end
                ))
                from analytics.judged_shipments()
            )
        end
    from load
$as_of$;

comment on function analytics.as_of() is 'Return one row with the newest creation, pick-up, delivery or update of a shipment that is not after the newest load of a shipment; null: there is none';
