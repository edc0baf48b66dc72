-- One row per day of loading and dataset.
-- table: analytics.data_quality
-- bucket: all
-- fact etl.runs
-- fact etl.batches
-- fact etl.failures
-- fact logistics.shipments
-- fact logistics.tracking_events
-- fact logistics.vehicle_logs
-- fact logistics.vehicles
-- newest: logistics.tracking_events.occurred_at
-- key: day, dataset
-- column day: day (UTC) on which the batches were loaded; a replay counts on the day of its batch
-- column dataset: dataset that the records were loaded into
-- column count_runs: runs with a batch on the day, without runs that were undone
-- column count_records: records read
-- column count_loaded: records loaded, also by replays
-- column count_rejected: records that cannot load as they are
-- column count_failed: records of batches that could not load although their data may be correct
-- column rejected_share: count_rejected / count_records, 0 to 1
-- column count_pending: rejected and failed records that are pending in the failed store
-- column count_kept: rows now in shipments, tracking_events, vehicle_logs and vehicles, without replaced versions
-- column count_references: rows of these with a reference: of a shipment to a trip, an event to a shipment, a trip to a vehicle
-- column count_orphans: rows of these that refer to a trip, shipment or vehicle that is not in the facts
-- column orphan_share: count_orphans / count_references, 0 to 1; null where that is 0
-- column count_delivered_before_picked_up: kept shipments whose delivery time is before the pick-up time
with visible as (
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
-- Of all days, for an orphan ends when its parent is loaded, on whatever day that is: so the bucket is `all`.
-- Per batch first, so that the join with the ledger has one row a batch and not one a fact.
kept_by_batch as (
    select
        shipments.etl_run,
        shipments.etl_batch,
        count(*) as count_kept,
        count(shipments.log_id) as count_references,
        count(shipments.log_id) filter (where vehicle_logs.log_id is null) as count_orphans,
        count(*) filter (where delivered_at < picked_up_at) as count_delivered_before_picked_up
    from logistics.shipments
    left join logistics.vehicle_logs using (log_id)
    group by shipments.etl_run, shipments.etl_batch
    union all
    select
        tracking_events.etl_run,
        tracking_events.etl_batch,
        count(*),
        count(tracking_events.shipment_id),
        count(tracking_events.shipment_id) filter (where shipments.shipment_id is null),
        0
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
        0
    from logistics.vehicle_logs
    left join logistics.vehicles using (vehicle_id)
    group by vehicle_logs.etl_run, vehicle_logs.etl_batch
    union all
    select etl_run, etl_batch, count(*), 0, 0, 0
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
        sum(count_delivered_before_picked_up)::bigint as count_delivered_before_picked_up
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
    coalesce(count_delivered_before_picked_up, 0) as count_delivered_before_picked_up
from loaded
left join waiting using (day, dataset)
left join kept using (day, dataset)
