-- What all aggregates say in the same way: the end of a shipment, missing names, spellings, and days of a warehouse.

create table analytics.shipment_states (
    status text primary key check (status = lower(btrim(status, E' \t\n\r\f\v\u00a0'))),
    meaning text not null check (meaning in ('open', 'delivered', 'returned', 'lost', 'cancelled'))
);

comment on table analytics.shipment_states is 'One row per status of shipments whose meaning is known; add those of your sources';
comment on column analytics.shipment_states.status is 'status in small letters and without outer blanks, as it is compared';
comment on column analytics.shipment_states.meaning is 'what it says of the shipment: open, delivered, returned, lost or cancelled';

insert into analytics.shipment_states (status, meaning) values
    ('created', 'open'),
    ('booked', 'open'),
    ('picked_up', 'open'),
    ('in_transit', 'open'),
    ('at_hub', 'open'),
    ('customs', 'open'),
    ('customs_cleared', 'open'),
    ('out_for_delivery', 'open'),
    ('exception', 'open'),
    ('delivered', 'delivered'),
    ('returned', 'returned'),
    ('lost', 'lost'),
    ('cancelled', 'cancelled'),
    ('canceled', 'cancelled');

create table analytics.name_spellings (
    kind text not null check (kind in ('carrier', 'service_level', 'country', 'city', 'warehouse')),
    spelling text not null,
    name text not null,
    primary key (kind, spelling)
);

comment on table analytics.name_spellings is 'One row per spelling of a name that aggregates count under another name; empty until you fill it';
comment on column analytics.name_spellings.kind is 'what is named: carrier, service_level, country, city or warehouse';
comment on column analytics.name_spellings.spelling is 'name exactly as it is in the facts';
comment on column analytics.name_spellings.name is 'name under which it is counted';

create table analytics.warehouse_timezones (
    warehouse text primary key,
    timezone text not null check (timestamptz '2000-01-01 00:00:00+00' at time zone timezone is not null)
);

comment on table analytics.warehouse_timezones is 'One row per warehouse with a time zone of its own; empty until you fill it';
comment on column analytics.warehouse_timezones.warehouse is 'warehouse as the aggregates name it';
comment on column analytics.warehouse_timezones.timezone is 'time zone as PostgreSQL names it, such as Europe/Berlin';

-- Every bucket of every aggregate may follow from these tables, which change rarely.
create function etl.note_reference() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $note$
begin
    insert into etl.pending (aggregate)
    select distinct watches.aggregate
    from etl.watches
    where watches.fact in ('logistics.shipments', 'logistics.tracking_events');
    return null;
end;
$note$;

comment on function etl.note_reference() is 'Make the aggregates on shipments and events pending as a whole';
revoke all on function etl.note_reference() from public;

create trigger etl_note_reference after insert or update or delete or truncate on analytics.shipment_states
for each statement execute function etl.note_reference();
create trigger etl_note_reference after insert or update or delete or truncate on analytics.name_spellings
for each statement execute function etl.note_reference();
create trigger etl_note_reference after insert or update or delete or truncate on analytics.warehouse_timezones
for each statement execute function etl.note_reference();

-- The planner puts the bodies of the functions below into each query. A function with SET or STRICT would be called instead.
-- The digest of an aggregate does not contain them: a migration that changes one makes the aggregates pending as a whole.

create function analytics.folded(value text) returns text
language sql immutable parallel safe
as $folded$ select lower(btrim(value, E' \t\n\r\f\v\u00a0')) $folded$;

comment on function analytics.folded(text) is 'Return a text in small letters and without outer blanks, as status and codes are compared';

-- A name that begins with a digit or a letter of ASCII is its own key: the comparison of bytes spares the others.
create function analytics.key_of(name text) returns text
language sql immutable parallel safe
as $key$
    select case
        when name collate "C" between '0' and '~' then name
        when btrim(name, E' \t\n\r\f\v\u00a0') <> ''
            then case when starts_with(name, '(none)') or starts_with(name, '"') then '"' || name || '"' else name end
        else '(none)'
    end
$key$;

comment on function analytics.key_of(text) is 'Return a name as the key of an aggregate: (none) where it is missing or blank, and in quotes where it begins with (none) or a quotation mark';

-- Most codes are written as they should be: to compare with a list is faster than to fold.
create function analytics.code_of(code text) returns text
language sql immutable parallel safe
as $code$
    select case
        when code in ('PICKED_UP', 'HUB_ARRIVED', 'HUB_DEPARTED', 'CUSTOMS_CLEARED', 'DELIVERED', 'EXCEPTION') then code
        else upper(btrim(code, E' \t\n\r\f\v\u00a0'))
    end
$code$;

comment on function analytics.code_of(text) is 'Return the code of an event or an exception in capitals and without outer blanks, as codes are compared';

create function analytics.hours_between(first timestamptz, last timestamptz) returns numeric
language sql immutable parallel safe
as $hours$ select round(extract(epoch from last - first) / 3600, 6) $hours$;

comment on function analytics.hours_between(timestamptz, timestamptz) is 'Return the hours from one instant to another, rounded to 6 places: sums of any grain then agree to the last digit';

-- The tables of a dataset are made after the migrations. As a text the body does not hold them fast: they can be altered.
-- A name without a table is a column of the shipments or, where a definition of the user has no such column, the null of
-- `absent`: a column that is missing leaves its sums unknown, and all other columns as they are.
set local check_function_bodies = off;

create function analytics.judged_shipments() returns table (
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
        shipments.status is not null and state.status is null and folded.status is null,
        analytics.key_of(coalesce(origin_country.name, shipments.origin_country)),
        analytics.key_of(coalesce(origin_city.name, shipments.origin_city)),
        analytics.key_of(coalesce(origin_warehouse.name, shipments.origin_warehouse)),
        analytics.key_of(coalesce(destination_country.name, shipments.destination_country)),
        analytics.key_of(coalesce(destination_city.name, shipments.destination_city)),
        shipments.created_at::timestamptz,
        shipments.picked_up_at::timestamptz,
        shipments.promised_at::timestamptz,
        coalesce(first_promises.promised_at, shipments.promised_at)::timestamptz,
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
            null::text, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, null::numeric,
            null::numeric, null::numeric, null::integer
        )
    ) as absent (
        order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, picked_up_at, promised_at, delivered_at, updated_at, weight_kg,
        volume_m3, freight_cost, pieces
    )
    cross join lateral (
        select
            shipments.shipment_id, shipments.created_at, order_id, log_id, carrier, service_level, status,
            origin_country, origin_city, origin_warehouse, destination_country, destination_city,
            picked_up_at, promised_at, delivered_at, updated_at, weight_kg, volume_m3, freight_cost, pieces,
            shipments.etl_run, shipments.etl_batch
        from logistics.shipments
    ) as shipments
    -- Only a status that is not there as it is written is folded, which costs more than a join.
    left join analytics.shipment_states as state on state.status = shipments.status
    left join analytics.shipment_states as folded
        on folded.status = case when state.status is null then analytics.folded(shipments.status) end
    left join analytics.first_promises on first_promises.shipment_id = shipments.shipment_id
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

comment on function analytics.judged_shipments() is 'Return one row per shipment with its end (open, delivered, returned, lost or cancelled), which all aggregates follow; delivered_at is null where the status contradicts it';

-- It counted departures only; warehouse_departures replaces it. Where other objects need the table, it stays, not refreshed.
delete from etl.refreshes where aggregate = 'warehouse_throughput';
delete from etl.aggregates where aggregate = 'warehouse_throughput';
do $drop$
begin
    drop table if exists analytics.warehouse_throughput;
exception when dependent_objects_still_exist then
    raise warning 'analytics.warehouse_throughput stays, because other objects need it; it is not refreshed any more';
end;
$drop$;
