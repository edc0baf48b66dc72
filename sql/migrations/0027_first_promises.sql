-- The first promised time of a shipment whose promise was moved: the newest version alone would make a carrier punctual.

create table analytics.first_promises (
    shipment_id text primary key,
    promised_at timestamptz not null,
    sent_at timestamptz
);

comment on table analytics.first_promises is 'One row per shipment whose promised time was changed after it was first known; all others have their first promise in logistics.shipments';
comment on column analytics.first_promises.shipment_id is 'shipment (logistics.shipments.shipment_id)';
comment on column analytics.first_promises.promised_at is 'first instant by which delivery was promised';
comment on column analytics.first_promises.sent_at is 'updated_at of the version with this promise; null: it had none';

-- A row of an update is the newer version. Its older one is kept once: what follows is a later promise. Versions with the
-- same promise are not kept, so that the table stays small: of a shipment with two such versions, an older version that
-- lies between them, has another promise and comes last is taken for the first.
create function etl.keep_first_promise() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $keep$
begin
    if tg_op = 'UPDATE' then
        insert into analytics.first_promises (shipment_id, promised_at, sent_at)
        select old_rows.shipment_id, old_rows.promised_at, old_rows.updated_at
        from old_rows
        join new_rows using (shipment_id)
        where old_rows.promised_at <> new_rows.promised_at
            or (old_rows.promised_at is not null and new_rows.promised_at is null)
        order by old_rows.shipment_id
        on conflict (shipment_id) do nothing;
    elsif tg_op = 'DELETE' then
        delete from analytics.first_promises
        using old_rows
        where first_promises.shipment_id = old_rows.shipment_id
            and not exists (select from logistics.shipments where shipments.shipment_id = old_rows.shipment_id);
    else
        delete from analytics.first_promises;
    end if;
    return null;
end;
$keep$;

comment on function etl.keep_first_promise() is 'Keep the first promised time of changed shipments, and forget that of deleted ones';
revoke all on function etl.keep_first_promise() from public;
