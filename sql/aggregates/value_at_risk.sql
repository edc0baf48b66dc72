-- One row per carrier, country of destination and currency, of the shipments that are still open.
-- table: analytics.value_at_risk
-- bucket: all
-- fact logistics.shipments
-- part analytics.shipment_batches
-- part analytics.undelivered_shipments
-- newest: logistics.shipments.created_at
-- key: carrier, destination_country, currency
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column destination_country: country of destination; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column currency: currency of the declared values in capitals without outer blanks; (none) where the shipment names none. Unit: text. Of: open shipments. Null: never. Adds up: no, it is a key.
-- column as_of: newest event in the data: the latest creation, pick-up, delivery or update that is not after the newest load of a shipment. Unit: instant. Of: all shipments. Null: all these times are in the future. Adds up: no, the same in all rows.
-- column count_open: shipments that are neither delivered nor returned, lost or cancelled. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_valued: shipments with a declared value. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column sum_declared_value: declared value. Unit: amounts of the currency of the row, as in the data. Of: shipments of count_valued; 0 where there is none. Null: never. Adds up: yes.
-- column max_declared_value: largest declared value of one shipment. Unit: amount of the currency of the row, as in the data. Of: shipments of count_valued. Null: count_valued is 0. Adds up: no, take the maximum of one currency.
-- column count_late: shipments whose promised time was before as_of. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_late_valued: late shipments with a declared value. Unit: number. Of: shipments of count_late. Null: never. Adds up: yes.
-- column sum_late_declared_value: declared value. Unit: amounts of the currency of the row, as in the data. Of: shipments of count_late_valued; 0 where there is none. Null: never. Adds up: yes.
-- column count_exception: shipments with the status exception, compared without case and outer blanks, late or not. Unit: number. Of: open shipments. Null: never. Adds up: yes.
-- column count_exception_valued: such shipments with a declared value. Unit: number. Of: shipments of count_exception. Null: never. Adds up: yes.
-- column sum_exception_declared_value: declared value. Unit: amounts of the currency of the row, as in the data. Of: shipments of count_exception_valued; 0 where there is none. Null: never. Adds up: yes.
with undelivered as (
    select
        carrier,
        status,
        destination_country,
        promised_at,
        declared_amount,
        declared_currency
    from analytics.undelivered_shipments as shipments
    union all
    -- Without a month of creation a shipment is in no part. An index finds it.
    select
        carrier,
        status,
        destination_country,
        promised_at,
        declared_amount,
        declared_currency
    from analytics.valued_shipments()
    where (created_at is null or created_at in (timestamptz '-infinity', timestamptz 'infinity'))
        and stated_delivered_at is null
        and end_state = 'open'
),
newest as materialized (
    select as_of.as_of
    from (
        select greatest(
            (select max(latest_at) from analytics.shipment_batches as batches),
            (
                select max(greatest(created_at, picked_up_at, stated_delivered_at, updated_at))
                from analytics.judged_shipments()
                where created_at is null or created_at in (timestamptz '-infinity', timestamptz 'infinity')
            )
        ) as latest
    ) as times
    cross join lateral analytics.as_of(times.latest)
),
still_open as (
    select
        shipments.carrier,
        shipments.destination_country,
        analytics.currency_of(shipments.declared_currency) as currency,
        shipments.declared_amount,
        newest.as_of,
        coalesce(shipments.promised_at < newest.as_of, false) as is_late,
        coalesce(analytics.folded(shipments.status) = 'exception', false) as is_exception
    from undelivered as shipments
    cross join newest
)
select
    carrier,
    destination_country,
    currency,
    as_of,
    count(*) as count_open,
    count(declared_amount) as count_valued,
    coalesce(sum(declared_amount), 0) as sum_declared_value,
    max(declared_amount) as max_declared_value,
    count(*) filter (where is_late) as count_late,
    count(declared_amount) filter (where is_late) as count_late_valued,
    coalesce(sum(declared_amount) filter (where is_late), 0) as sum_late_declared_value,
    count(*) filter (where is_exception) as count_exception,
    count(declared_amount) filter (where is_exception) as count_exception_valued,
    coalesce(sum(declared_amount) filter (where is_exception), 0) as sum_exception_declared_value
from still_open
group by carrier, destination_country, currency, as_of
