-- A refresh does less work, and its rows are the same.

-- The names and states that users map are read once into one value for each kind. To find a name in it takes half of what a
-- join took, and nearly nothing where no name is mapped.

set local check_function_bodies = off;

create or replace function analytics.quantified_shipments() returns table (
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
    etl_batch bigint,
    declared_amount numeric,
    declared_currency text,
    claimed_amount numeric,
    claimed_at timestamptz,
    ordered_quantity numeric,
    delivered_quantity numeric
)
language sql stable parallel safe
as $quantified$
    select
        shipments.shipment_id::text,
        shipments.order_id::text,
        shipments.log_id::text,
        coalesce(maps.carrier ->> shipments.carrier, analytics.key_of(shipments.carrier)),
        coalesce(maps.service_level ->> shipments.service_level, analytics.key_of(shipments.service_level)),
        shipments.status::text,
        case
            when coalesce(maps.state ->> shipments.status, maps.state ->> analytics.folded(shipments.status))
                in ('cancelled', 'returned', 'lost')
                then coalesce(maps.state ->> shipments.status, maps.state ->> analytics.folded(shipments.status))
            when shipments.delivered_at is not null
                or coalesce(maps.state ->> shipments.status, maps.state ->> analytics.folded(shipments.status)) = 'delivered'
                then 'delivered'
            else 'open'
        end,
        coalesce(
            coalesce(maps.state ->> shipments.status, maps.state ->> analytics.folded(shipments.status)) is null
                and analytics.trimmed(shipments.status) <> '',
            false
        ),
        coalesce(maps.country ->> shipments.origin_country, analytics.key_of(shipments.origin_country)),
        coalesce(maps.city ->> shipments.origin_city, analytics.key_of(shipments.origin_city)),
        coalesce(maps.warehouse ->> shipments.origin_warehouse, analytics.key_of(shipments.origin_warehouse)),
        coalesce(maps.country ->> shipments.destination_country, analytics.key_of(shipments.destination_country)),
        coalesce(maps.city ->> shipments.destination_city, analytics.key_of(shipments.destination_city)),
        shipments.created_at::timestamptz,
        shipments.picked_up_at::timestamptz,
        shipments.promised_at::timestamptz,
        coalesce(shipments.etl_first_promised_at, shipments.promised_at)::timestamptz,
        case
            when shipments.delivered_at is null
                or coalesce(maps.state ->> shipments.status, maps.state ->> analytics.folded(shipments.status))
                    in ('cancelled', 'returned', 'lost')
                then null
            else shipments.delivered_at
        end::timestamptz,
        shipments.delivered_at::timestamptz,
        shipments.updated_at::timestamptz,
        shipments.weight_kg::numeric,
        shipments.volume_m3::numeric,
        shipments.freight_cost::numeric,
        shipments.pieces::integer,
        shipments.etl_run::bigint,
        shipments.etl_batch::bigint,
        shipments.declared_amount::numeric,
        shipments.declared_currency::text,
        shipments.claimed_amount::numeric,
        shipments.claimed_at::timestamptz,
        shipments.ordered_quantity::numeric,
        shipments.delivered_quantity::numeric
    from (
        values (
            null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text, null::text,
            null::text, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz, null::timestamptz,
            null::numeric, null::numeric, null::numeric, null::integer, null::numeric, null::text, null::numeric,
            null::timestamptz, null::numeric, null::numeric
        )
    ) as absent (
        order_id, log_id, carrier, service_level, status, origin_country, origin_city, origin_warehouse,
        destination_country, destination_city, picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at,
        weight_kg, volume_m3, freight_cost, pieces, declared_amount, declared_currency, claimed_amount, claimed_at,
        ordered_quantity, delivered_quantity
    )
    cross join lateral (
        select
            shipments.shipment_id, shipments.created_at, order_id, log_id, carrier, service_level, status,
            origin_country, origin_city, origin_warehouse, destination_country, destination_city,
            picked_up_at, promised_at, etl_first_promised_at, delivered_at, updated_at, weight_kg, volume_m3, freight_cost,
            pieces, declared_amount, declared_currency, claimed_amount, claimed_at, ordered_quantity, delivered_quantity,
            shipments.etl_run, shipments.etl_batch
        from logistics.shipments
    ) as shipments
    cross join (
        select
            jsonb_object_agg(spelling, analytics.key_of(name)) filter (where kind = 'carrier') as carrier,
            jsonb_object_agg(spelling, analytics.key_of(name)) filter (where kind = 'service_level') as service_level,
            jsonb_object_agg(spelling, analytics.key_of(name)) filter (where kind = 'country') as country,
            jsonb_object_agg(spelling, analytics.key_of(name)) filter (where kind = 'city') as city,
            jsonb_object_agg(spelling, analytics.key_of(name)) filter (where kind = 'warehouse') as warehouse,
            -- To fold a status costs more than to find it: the usual spellings of each are found as they are.
            (
                select jsonb_object_agg(spelling, meaning)
                from analytics.shipment_states
                cross join lateral (values (status), (upper(status)), (initcap(status))) as written (spelling)
                where analytics.folded(spelling) = status
            ) as state
        from analytics.name_spellings
    ) as maps
$quantified$;

-- The aggregates of open shipments read all shipments once: for the open ones, and for the newest time, which they give.
create function analytics.as_of(latest timestamptz) returns table (as_of timestamptz)
language sql stable parallel safe
rows 1
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $as_of$
    with created_last as materialized (
        select etl_run, etl_batch
        from analytics.judged_shipments()
        where created_at is not null
        order by created_at desc
        limit 1
    ),
    loads as not materialized (
        select runs.number, unnest(coalesce(batches.part_offsets, array[batches."offset"])) as "offset", batches.loaded_at
        from etl.batches
        join etl.runs using (run)
    ),
    by_batch as materialized (
        select etl_run, etl_batch, max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as newest
        from analytics.judged_shipments()
        group by etl_run, etl_batch
    ),
    load as materialized (
        select coalesce(max(loads.loaded_at), now()) as newest
        from by_batch
        join loads on loads.number = by_batch.etl_run and loads."offset" = by_batch.etl_batch
    )
    select
        case
            when latest <= its_load.newest then latest
            when latest <= (select newest from load) then latest
            -- Some time is in the future. This further scan is rarely needed.
            else (
                select max(greatest(
                    case when created_at <= load.newest then created_at end,
                    case when picked_up_at <= load.newest then picked_up_at end,
                    case when stated_delivered_at <= load.newest then stated_delivered_at end,
                    case when updated_at <= load.newest then updated_at end
                ))
                from analytics.judged_shipments()
                cross join load
            )
        end
    from (
        select max(loads.loaded_at) as newest
        from created_last
        join loads on loads.number = created_last.etl_run and loads."offset" = created_last.etl_batch
    ) as its_load
$as_of$;

comment on function analytics.as_of(timestamptz) is 'Return one row as analytics.as_of() does, given the newest creation, pick-up, delivery or update of all shipments, which need not be searched then';

create or replace function analytics.as_of() returns table (as_of timestamptz)
language sql stable parallel safe
rows 1
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set standard_conforming_strings = on
as $as_of$
    select newest.as_of
    from (
        select max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at)) as latest
        from analytics.judged_shipments()
    ) as shipments
    cross join lateral analytics.as_of(shipments.latest) as newest
$as_of$;
