-- One row per month of creation and batch of shipments.
-- table: analytics.shipment_batches
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, run_number, batch
-- column month: first day of the month of creation. Unit: day (UTC). Of: shipments. Null: never. Adds up: no, it is a key.
-- column run_number: number of the run that wrote the rows as they are now; 0 where no run wrote them. Unit: number. Of: shipments. Null: never. Adds up: no, it is a key.
-- column batch: offset of the batch in its source. Unit: bytes; the number of the message in a stream; 0 where no run wrote the rows. Of: shipments. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments that are now in the table. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column count_references: shipments with a trip, even a blank one. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column count_delivered_before_picked_up: shipments whose delivery time is before the pick-up time. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column count_unknown_status: shipments with a status that analytics.shipment_states does not have; a missing or blank status is not counted. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column count_closed_without_delivery_time: shipments whose status means delivered, without a delivery time. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column count_contradicting_status: shipments with a delivery time whose status means returned, lost or cancelled. Unit: number. Of: shipments that the batch wrote. Null: never. Adds up: yes.
-- column latest_at: latest creation, pick-up, delivery or update, also one in the future. Unit: instant. Of: shipments that the batch wrote. Null: never. Adds up: no, take the maximum.
select
    date_trunc('month', created_at at time zone 'UTC')::date as month,
    coalesce(etl_run, 0) as run_number,
    coalesce(etl_batch, 0) as batch,
    count(*) as count_shipments,
    count(log_id) as count_references,
    count(*) filter (where stated_delivered_at < picked_up_at) as count_delivered_before_picked_up,
    count(*) filter (where is_unknown_status) as count_unknown_status,
    -- The cheap conditions first: most shipments have a delivery time, which a contradicting status takes away.
    count(*) filter (where stated_delivered_at is null and end_state = 'delivered') as count_closed_without_delivery_time,
    count(*) filter (where stated_delivered_at is not null and delivered_at is null) as count_contradicting_status,
    max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as latest_at
from analytics.judged_shipments()
where created_at >= :from_utc and created_at < :until_utc
group by month, run_number, batch
