-- One row per day of loading and dataset.
-- table: analytics.data_quality
-- bucket: all
-- fact etl.runs
-- fact etl.separate_batches
-- fact etl.failures
-- fact logistics.shipments
-- fact logistics.tracking_events
-- fact logistics.vehicle_logs
-- fact logistics.vehicles
-- part analytics.shipment_batches
-- part analytics.shipment_names
-- part analytics.shipment_orphans
-- newest: logistics.tracking_events.occurred_at
-- key: day, dataset
-- column day: day on which the batches were loaded; a replay counts on the day of its batch. Unit: day (UTC). Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: no, it is a key.
-- column dataset: dataset that the records were loaded into. Unit: text. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: no, it is a key.
-- column count_runs: different runs with a batch on the day. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: no, a run can be in several rows.
-- column count_records: records read. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: yes.
-- column count_loaded: records loaded, also by replays. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: yes.
-- column count_rejected: records that cannot load as they are. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: yes.
-- column count_failed: records of batches that could not load although their data may be correct. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: yes.
-- column rejected_share: count_rejected / count_records. Unit: 0 to 1, rounded to 6 places. Of: batches of visible runs: atomic ones are published, and none was undone. Null: count_records is 0. Adds up: no.
-- column count_pending: rejected and failed records that are pending in the failed store. Unit: number. Of: batches of visible runs: atomic ones are published, and none was undone. Null: never. Adds up: yes.
-- column count_kept: rows that are now in the tables, without replaced versions. Unit: number. Of: rows of the dataset that these batches loaded and that are now in shipments, tracking_events, vehicle_logs and vehicles. Null: never. Adds up: yes.
-- column count_references: rows with a reference, even a blank one: of a shipment to a trip, an event to a shipment, a trip to a vehicle; the vehicle of an event is not looked at. Unit: number. Of: rows of the dataset that these batches loaded and that are now in shipments, tracking_events, vehicle_logs and vehicles. Null: never. Adds up: yes.
-- column count_orphans: rows that refer to a trip, shipment or vehicle that is not in the facts. Unit: number. Of: rows of the dataset that these batches loaded and that are now in shipments, tracking_events, vehicle_logs and vehicles. Null: never. Adds up: yes.
-- column orphan_share: count_orphans / count_references. Unit: 0 to 1, rounded to 6 places. Of: rows of the dataset that these batches loaded and that are now in shipments, tracking_events, vehicle_logs and vehicles. Null: count_references is 0. Adds up: no.
-- column count_delivered_before_picked_up: shipments whose delivery time is before the pick-up time. Unit: number. Of: shipments that these batches loaded and that are now in the table; 0 for other datasets. Null: never. Adds up: yes.
-- column count_unknown_status: shipments with a status that analytics.shipment_states does not have; a missing or blank status is not counted. Unit: number. Of: shipments that these batches loaded and that are now in the table; 0 for other datasets. Null: never. Adds up: yes.
-- column count_closed_without_delivery_time: shipments whose status means delivered, without a delivery time. Unit: number. Of: shipments that these batches loaded and that are now in the table; 0 for other datasets. Null: never. Adds up: yes.
-- column count_contradicting_status: shipments with a delivery time whose status means returned, lost or cancelled. Unit: number. Of: shipments that these batches loaded and that are now in the table; 0 for other datasets. Null: never. Adds up: yes.
-- column count_name_variants: shipments with a carrier, city of origin or destination, or warehouse of which another spelling, after analytics.name_spellings, differs only by case, blanks (also inner ones), accents or strokes (ł, ø) in the same column. Unit: number. Of: shipments that these batches loaded and that are now in the table; 0 for other datasets. Null: never. Adds up: yes.
-- column count_future_times: rows with a time after the newest load of all datasets, which is in the future and has a wrong date: of a shipment the creation, pick-up, delivery or update, of an event the occurrence or recording, of a trip a day after the day that follows this load. Unit: number. Of: rows of the dataset that these batches loaded and that are now in shipments, tracking_events, vehicle_logs and vehicles. Null: never. Adds up: yes.
with load as (
    select newest, (newest at time zone 'UTC')::date + 1 as day
    from (select analytics.newest_load() as newest offset 0) as load
),
visible as (
    select
        (batches.loaded_at at time zone 'UTC')::date as day,
        runs.dataset,
        runs.run,
        runs.number,
        batches."offset",
        -- A row of an old run is several batches, after etl runs purge.
        coalesce(batches.part_offsets, array[batches."offset"]) as offsets,
        batches.count_records,
        batches.count_loaded,
        batches.count_rejected,
        batches.count_failed
    from etl.batches
    join etl.runs using (run)
    where (not runs.is_atomic or runs.published_at is not null) and runs.undone_at is null
),
loaded as (
    select
        day,
        dataset,
        count(distinct run) as count_runs,
        sum(count_records)::bigint as count_records,
        coalesce(sum(count_loaded), 0)::bigint as count_loaded,
        coalesce(sum(count_rejected), 0)::bigint as count_rejected,
        coalesce(sum(count_failed), 0)::bigint as count_failed
    from visible
    group by day, dataset
),
waiting as (
    select
        visible.day,
        visible.dataset,
        sum(failures.count_records)::bigint as count_pending
    from etl.failures
    join visible on visible.run = failures.run and visible."offset" = failures.batch
    where failures.state = 'pending'
    group by visible.day, visible.dataset
),
-- Without a month these shipments are in no part. An index finds them.
undated as materialized (
    select
        shipments.*,
        greatest(created_at, picked_up_at, stated_delivered_at, updated_at) as latest_at
    from analytics.judged_shipments() as shipments
    where created_at is null or created_at in (timestamptz '-infinity', timestamptz 'infinity')
),
-- Spellings of one column that differ only by case, blanks or accents. First the names as they are written, which are few,
-- so that each is mapped and folded once and not once a shipment. A definition of the user may lack one of the columns.
written as materialized (
    select column_name, case when not is_missing then spelling end as spelling
    from analytics.shipment_names as names
    union
    select names.column_name, names.spelling
    from (values (null::text, null::text, null::text, null::text))
        as absent (carrier, origin_city, destination_city, origin_warehouse)
    cross join lateral (
        select shipments.created_at, carrier, origin_city, destination_city, origin_warehouse from logistics.shipments
    ) as shipments
    cross join lateral (
        values
        ('carrier', shipments.carrier::text),
        ('origin_city', shipments.origin_city::text),
        ('destination_city', shipments.destination_city::text),
        ('origin_warehouse', shipments.origin_warehouse::text)
    ) as names (column_name, spelling)
    where shipments.created_at is null or shipments.created_at in (timestamptz '-infinity', timestamptz 'infinity')
),
named as (
    select
        column_name,
        written.spelling,
        analytics.key_of(coalesce(name_spellings.name, written.spelling)) as name
    from written
    left join analytics.name_spellings
        on name_spellings.spelling = written.spelling
        and name_spellings.kind = case
            when column_name in ('origin_city', 'destination_city') then 'city'
            when column_name = 'origin_warehouse' then 'warehouse'
            else column_name
        end
),
bared as (
    select
        column_name,
        name,
        translate(
            lower(regexp_replace(analytics.trimmed(normalize(name, NFD)), '[\u0300-\u036f\s\u00a0\u200b\u3000]', '', 'g')),
            'łøđħŧ',
            'lodht'
        ) as bare
    from (select distinct column_name, name from named) as names
),
varied as materialized (
    -- With a sign before it: a missing name is not an empty one.
    select column_name, coalesce('=' || spelling, '') as spelling
    from (select bared.*, count(*) over (partition by column_name, bare) as count_spellings from bared) as counted
    join named using (column_name, name)
    where count_spellings > 1
),
-- Of all days, for an orphan ends when its parent is loaded, on whatever day that is: so the bucket is `all`.
-- Per batch first, so that the join with the ledger has one row a batch and not one a fact.
kept_by_batch as (
    select
        run_number as etl_run,
        batch as etl_batch,
        count_shipments as count_kept,
        count_references,
        0 as count_orphans,
        count_delivered_before_picked_up,
        count_unknown_status,
        count_closed_without_delivery_time,
        count_contradicting_status,
        0 as count_name_variants,
        0 as count_future_times
    from analytics.shipment_batches as shipments
    union all
    select
        undated.etl_run,
        undated.etl_batch,
        count(*),
        count(undated.log_id),
        count(undated.log_id) filter (where vehicle_logs.log_id is null),
        count(*) filter (where stated_delivered_at < picked_up_at),
        count(*) filter (where is_unknown_status),
        count(*) filter (where stated_delivered_at is null and end_state = 'delivered'),
        count(*) filter (where stated_delivered_at is not null and delivered_at is null),
        0,
        count(*) filter (where latest_at > (select newest from load))
    from undated
    left join logistics.vehicle_logs using (log_id)
    group by undated.etl_run, undated.etl_batch
    union all
    select run_number, batch, 0, 0, count_orphans, 0, 0, 0, 0, 0, 0
    from analytics.shipment_orphans as orphans
    union all
    select etl_run, etl_batch, 0, 0, 0, 0, 0, 0, 0, 0, count(*)
    from analytics.judged_shipments()
    -- Most data has no time in the future, and needs no look at each shipment.
    where (select max(latest_at) from analytics.shipment_batches as shipments) > (select newest from load)
        and greatest(created_at, picked_up_at, stated_delivered_at, updated_at) > (select newest from load)
        and created_at > '-infinity' and created_at < 'infinity'
    group by etl_run, etl_batch
    union all
    select shipments.etl_run, shipments.etl_batch, 0, 0, 0, 0, 0, 0, 0, count(*), 0
    from (values (null::text, null::text, null::text, null::text))
        as absent (carrier, origin_city, destination_city, origin_warehouse)
    cross join lateral (
        select shipments.etl_run, shipments.etl_batch, carrier, origin_city, destination_city, origin_warehouse
        from logistics.shipments
    ) as shipments
    -- Most sources spell each name in one way, and need no look at each shipment.
    where exists (select from varied)
        and (
            ('carrier', coalesce('=' || shipments.carrier, '')) in (select column_name, spelling from varied)
            or ('origin_city', coalesce('=' || shipments.origin_city, '')) in (select column_name, spelling from varied)
            or ('destination_city', coalesce('=' || shipments.destination_city, '')) in (select column_name, spelling from varied)
            or ('origin_warehouse', coalesce('=' || shipments.origin_warehouse, '')) in (select column_name, spelling from varied)
        )
    group by shipments.etl_run, shipments.etl_batch
    union all
    select
        tracking_events.etl_run,
        tracking_events.etl_batch,
        count(*),
        count(tracking_events.shipment_id),
        count(tracking_events.shipment_id) filter (where shipments.shipment_id is null),
        0,
        0,
        0,
        0,
        0,
        count(*) filter (where greatest(occurred_at, recorded_at) > (select newest from load))
    from logistics.tracking_events
    left join logistics.shipments using (shipment_id)
    group by tracking_events.etl_run, tracking_events.etl_batch
    union all
    select
        vehicle_logs.etl_run,
        vehicle_logs.etl_batch,
        count(*),
        count(vehicle_logs.vehicle_id),
        count(vehicle_logs.vehicle_id) filter (where vehicles.vehicle_id is null),
        0,
        0,
        0,
        0,
        0,
        count(*) filter (where trip_date > (select day from load))
    from logistics.vehicle_logs
    left join logistics.vehicles using (vehicle_id)
    group by vehicle_logs.etl_run, vehicle_logs.etl_batch
    union all
    select etl_run, etl_batch, count(*), 0, 0, 0, 0, 0, 0, 0, 0
    from logistics.vehicles
    group by etl_run, etl_batch
),
kept as (
    select
        visible.day,
        visible.dataset,
        sum(count_kept)::bigint as count_kept,
        sum(count_references)::bigint as count_references,
        sum(count_orphans)::bigint as count_orphans,
        sum(count_delivered_before_picked_up)::bigint as count_delivered_before_picked_up,
        sum(count_unknown_status)::bigint as count_unknown_status,
        sum(count_closed_without_delivery_time)::bigint as count_closed_without_delivery_time,
        sum(count_contradicting_status)::bigint as count_contradicting_status,
        sum(count_name_variants)::bigint as count_name_variants,
        sum(count_future_times)::bigint as count_future_times
    from kept_by_batch
    join (
        select day, dataset, number, unnest(offsets) as "offset" from visible
    ) as visible on visible.number = kept_by_batch.etl_run and visible."offset" = kept_by_batch.etl_batch
    group by visible.day, visible.dataset
)
select
    day,
    dataset,
    count_runs,
    count_records,
    count_loaded,
    count_rejected,
    count_failed,
    round(count_rejected::numeric / nullif(count_records, 0), 6) as rejected_share,
    coalesce(count_pending, 0) as count_pending,
    coalesce(count_kept, 0) as count_kept,
    coalesce(count_references, 0) as count_references,
    coalesce(count_orphans, 0) as count_orphans,
    round(count_orphans::numeric / nullif(count_references, 0), 6) as orphan_share,
    coalesce(count_delivered_before_picked_up, 0) as count_delivered_before_picked_up,
    coalesce(count_unknown_status, 0) as count_unknown_status,
    coalesce(count_closed_without_delivery_time, 0) as count_closed_without_delivery_time,
    coalesce(count_contradicting_status, 0) as count_contradicting_status,
    coalesce(count_name_variants, 0) as count_name_variants,
    coalesce(count_future_times, 0) as count_future_times
from loaded
left join waiting using (day, dataset)
left join kept using (day, dataset)
