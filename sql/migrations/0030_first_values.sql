-- First values are kept in the rows of the facts, and what is blank means nothing in each text of the aggregates.

-- The blanks of all scripts: people type a wide one in Japanese, and exports begin with a mark of the byte order.
create function analytics.trimmed(value text) returns text
language sql immutable parallel safe
as $trimmed$
    select btrim(
        value,
        E' \t\n\r\f\v\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff'
    )
$trimmed$;

comment on function analytics.trimmed(text) is 'Return a text without outer blanks, of whatever script';

-- As for the keys of aggregates, the comparison of bytes spares most values the search for blanks.
create function analytics.known(value text) returns text
language sql immutable parallel safe
as $known$
    select case
        when value collate "C" between '0' and '~' then value
        when analytics.trimmed(value) <> '' then value
    end
$known$;

comment on function analytics.known(text) is 'Return a text as it is, and null where it is blank: it names nothing';

create or replace function analytics.folded(value text) returns text
language sql immutable parallel safe
as $folded$ select lower(analytics.trimmed(value)) $folded$;

-- A name that begins with a digit or a letter of ASCII is its own key: the comparison of bytes spares the others.
create or replace function analytics.key_of(name text) returns text
language sql immutable parallel safe
as $key$
    select case
        when name collate "C" between '0' and '~' then name
        when analytics.trimmed(name) <> ''
            then case when starts_with(name, '(none)') or starts_with(name, '"') then '"' || name || '"' else name end
        else '(none)'
    end
$key$;

-- Most codes are written as they should be: to compare with a list is faster than to fold.
create or replace function analytics.code_of(code text) returns text
language sql immutable parallel safe
as $code$
    select case
        when code in ('PICKED_UP', 'HUB_ARRIVED', 'HUB_DEPARTED', 'CUSTOMS_CLEARED', 'DELIVERED', 'EXCEPTION') then code
        else upper(analytics.trimmed(code))
    end
$code$;

alter table analytics.shipment_states drop constraint if exists shipment_states_status_check;
do $fold$
begin
    if exists (select from analytics.shipment_states where status <> analytics.folded(status)) then
        delete from analytics.shipment_states as spelled
        using analytics.shipment_states as folded
        where folded.status = analytics.folded(spelled.status) and folded.status <> spelled.status;
        update analytics.shipment_states set status = analytics.folded(status) where status <> analytics.folded(status);
    end if;
end;
$fold$;
alter table analytics.shipment_states add constraint shipment_states_status_check check (status = analytics.folded(status));

-- The promises that were kept so far become columns of their shipments, which the definition adds to all other tables.
drop function if exists etl.keep_first_promise() cascade;
do $keep$
declare
    type_of_promise text := (
        select format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = to_regclass('logistics.shipments') and attname = 'promised_at' and not attisdropped
    );
    type_of_version text := (
        select format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = to_regclass('logistics.shipments') and attname = 'updated_at' and not attisdropped
    );
begin
    if type_of_promise is not null and type_of_version is not null and exists (select from analytics.first_promises) then
        execute format(
            'alter table logistics.shipments add column if not exists etl_first_promised_at %1$s,'
            ' add column if not exists etl_first_promised_at_version %2$s,'
            ' add column if not exists etl_first_promised_at_place bigint[]',
            type_of_promise, type_of_version
        );
        execute format(
            'update logistics.shipments set etl_first_promised_at = first.promised_at::%1$s,'
            ' etl_first_promised_at_version = first.sent_at::%2$s, etl_first_promised_at_place = array[0, 0, 0]'
            ' from analytics.first_promises as first where first.shipment_id = shipments.shipment_id',
            type_of_promise, type_of_version
        );
    end if;
    begin
        drop table analytics.first_promises;
    exception when dependent_objects_still_exist then
        raise warning 'analytics.first_promises stays, because other objects need it; nothing fills it any more';
    end;
end;
$keep$;

alter table if exists analytics.vehicle_days rename column day to source_day;

-- The tables of a dataset are made after the migrations. As a text the body does not hold them fast: they can be altered.
-- A name without a table is a column of the shipments or, where a definition of the user has no such column, the null of
-- `absent`: a column that is missing leaves its sums unknown, and all other columns as they are.
set local check_function_bodies = off;

create or replace function analytics.judged_shipments() returns table (
    shipment_id text,
    order_id text,
    log_id text,
    carrier text,
    service_level text,
    status text,
    end_state text,
    is_unknown_status boolean,
    origin_country text,
    origin_city text,
    origin_warehouse text,
    destination_country text,
    destination_city text,
    created_at timestamptz,
    picked_up_at timestamptz,
    promised_at timestamptz,
    first_promised_at timestamptz,
    delivered_at timestamptz,
    stated_delivered_at timestamptz,
    updated_at timestamptz,
    weight_kg numeric,
    volume_m3 numeric,
    freight_cost numeric,
    pieces integer,
    etl_run bigint,
    etl_batch bigint
)
language sql stable parallel safe
as $judged$
    select
        shipments.shipment_id::text,
        shipments.order_id::text,
        shipments.log_id::text,
        analytics.key_of(coalesce(carrier.name, shipments.carrier)),
        analytics.key_of(coalesce(service_level.name, shipments.service_level)),
        shipments.status::text,
        case
            when coalesce(state.meaning, folded.meaning) in ('cancelled', 'returned', 'lost')
                then coalesce(state.meaning, folded.meaning)
            when shipments.delivered_at is not null or coalesce(state.meaning, folded.meaning) = 'delivered'
                then 'delivered'
            else 'open'
        end,
        coalesce(state.status is null and folded.status is null and analytics.trimmed(shipments.status) <> '', false),
        analytics.key_of(coalesce(origin_country.name, shipments.origin_country)),
        analytics.key_of(coalesce(origin_city.name, shipments.origin_city)),
        analytics.key_of(coalesce(origin_warehouse.name, shipments.origin_warehouse)),
        analytics.key_of(coalesce(destination_country.name, shipments.destination_country)),
        analytics.key_of(coalesce(destination_city.name, shipments.destination_city)),
        shipments.created_at::timestamptz,
        shipments.picked_up_at::timestamptz,
        shipments.promised_at::timestamptz,
        coalesce(shipments.etl_first_promised_at, shipments.promised_at)::timestamptz,
        case when coalesce(state.meaning, folded.meaning) in ('cancelled', 'returned', 'lost') then null
            else shipments.delivered_at
        end::timestamptz,
        shipments.delivered_at::timestamptz,
        shipments.updated_at::timestamptz,
        shipments.weight_kg::numeric,
        shipments.volume_m3::numeric,
        shipments.freight_cost::numeric,
        shipments.pieces::integer,
        shipments.etl_run::bigint,
        shipments.etl_batch::bigint
    from (
        values (
            null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text,
            null::text, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz,
            null::numeric, null::numeric, null::numeric, null::integer
        )
    ) as absent (
        order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at,
        weight_kg, volume_m3, freight_cost, pieces
    )
    cross join lateral (
        select
            shipments.shipment_id, shipments.created_at, order_id, log_id, carrier, service_level, status,
            origin_country, origin_city, origin_warehouse, destination_country, destination_city,
            picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at, weight_kg, volume_m3, freight_cost,
            pieces,
            shipments.etl_run, shipments.etl_batch
        from logistics.shipments
    ) as shipments
    -- Only a status that is not there as it is written is folded, which costs more than a join.
    left join analytics.shipment_states as state on state.status = shipments.status
    left join analytics.shipment_states as folded
        on folded.status = case when state.status is null then analytics.folded(shipments.status) end
    left join analytics.name_spellings as carrier
        on carrier.kind = 'carrier' and carrier.spelling = shipments.carrier
    left join analytics.name_spellings as service_level
        on service_level.kind = 'service_level' and service_level.spelling = shipments.service_level
    left join analytics.name_spellings as origin_country
        on origin_country.kind = 'country' and origin_country.spelling = shipments.origin_country
    left join analytics.name_spellings as origin_city
        on origin_city.kind = 'city' and origin_city.spelling = shipments.origin_city
    left join analytics.name_spellings as origin_warehouse
        on origin_warehouse.kind = 'warehouse' and origin_warehouse.spelling = shipments.origin_warehouse
    left join analytics.name_spellings as destination_country
        on destination_country.kind = 'country' and destination_country.spelling = shipments.destination_country
    left join analytics.name_spellings as destination_city
        on destination_city.kind = 'city' and destination_city.spelling = shipments.destination_city
$judged$;

comment on column etl.aggregates.bucket is 'what is recomputed as one: an hour, a day, a week, a month, a quarter, or all';

-- What was never refreshed is pending anyway.
insert into etl.pending (aggregate)
select distinct aggregate
from etl.watches
join etl.refreshes using (aggregate)
where watches.fact in ('logistics.shipments', 'logistics.tracking_events');
