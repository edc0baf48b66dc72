-- One row per month of creation and batch with shipments whose trip is not in the facts.
-- table: analytics.shipment_orphans
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- fact logistics.vehicle_logs: log_id -> logistics.shipments.log_id
-- newest: logistics.shipments.created_at
-- key: month, run_number, batch
-- column month: first day of the month of creation. Unit: day (UTC). Of: shipments with a trip that is not in the facts. Null: never. Adds up: no, it is a key.
-- column run_number: number of the run that wrote the rows as they are now; 0 where no run wrote them. Unit: number. Of: shipments with a trip that is not in the facts. Null: never. Adds up: no, it is a key.
-- column batch: offset of the batch in its source. Unit: bytes; the number of the message in a stream; 0 where no run wrote the rows. Of: shipments with a trip that is not in the facts. Null: never. Adds up: no, it is a key.
-- column count_orphans: shipments with a trip, even a blank one, that is not in the facts. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
select
    date_trunc('month', shipments.created_at at time zone 'UTC')::date as month,
    coalesce(shipments.etl_run, 0) as run_number,
    coalesce(shipments.etl_batch, 0) as batch,
    count(*) as count_orphans
-- A definition of the user may lack the column.
from (values (null::text)) as absent (log_id)
cross join lateral (
    select shipments.created_at, log_id, shipments.etl_run, shipments.etl_batch from logistics.shipments
) as shipments
where shipments.created_at >= :from_utc
    and shipments.created_at < :until_utc
    and shipments.log_id is not null
    and not exists (select from logistics.vehicle_logs where vehicle_logs.log_id = shipments.log_id)
group by month, run_number, batch
