-- One row per month, carrier and currency.
-- table: analytics.claim_months
-- bucket: month
-- fact logistics.shipments: (created_at at time zone 'UTC')::date
-- newest: logistics.shipments.created_at
-- key: month, carrier, currency
-- column month: first day of the month in which the shipments were created; claims for a young month are still to come. Unit: day (UTC). Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column carrier: carrier; (none) where the shipment names none. Unit: text, mapped by analytics.name_spellings. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column currency: currency of the declared and the claimed amounts in capitals without outer blanks; (none) where the shipment names none. Unit: text. Of: shipments that are not cancelled. Null: never. Adds up: no, it is a key.
-- column count_shipments: shipments. Unit: number. Of: shipments that are not cancelled. Null: never. Adds up: yes.
-- column count_valued: shipments with a declared value. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column sum_declared_value: declared value. Unit: amounts of the currency of the row, as in the data. Of: shipments of count_valued; 0 where there is none. Null: never. Adds up: yes.
-- column count_lost: shipments that are lost. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column count_claims: shipments with a claim: a claimed amount or the instant of a claim. Unit: number. Of: shipments of count_shipments. Null: never. Adds up: yes.
-- column count_lost_claims: claims for shipments that are lost. Unit: number. Of: shipments of count_claims. Null: never. Adds up: yes.
-- column count_claimed_amounts: claims with an amount. Unit: number. Of: shipments of count_claims. Null: never. Adds up: yes.
-- column sum_claimed_amount: claimed amount. Unit: amounts of the currency of the row, as in the data. Of: shipments of count_claimed_amounts; 0 where there is none. Null: never. Adds up: yes.
-- column claims_share: count_claims / count_shipments. Unit: 0 to 1, rounded to 6 places. Of: shipments of count_shipments. Null: count_shipments is 0, which no row has. Adds up: no.
-- column claimed_value_share: claimed amount by declared value of all shipments: sum_claimed_amount / sum_declared_value. Unit: 0 to 1, rounded to 6 places. Of: shipments of count_valued and of count_claimed_amounts. Null: the declared value is 0. Adds up: no.
-- column count_timed_claims: claims with an instant that is not before the creation of the shipment. Unit: number. Of: shipments of count_claims. Null: never. Adds up: yes.
-- column sum_claim_hours: hours from the creation to the claim, added up. Unit: hours, each shipment rounded to 6 places. Of: shipments of count_timed_claims; 0 where there is none. Null: never. Adds up: yes.
-- column avg_claim_hours: sum_claim_hours / count_timed_claims. Unit: hours, rounded to 3 places. Of: shipments of count_timed_claims. Null: count_timed_claims is 0. Adds up: no.
with created as (
    select
        date_trunc('month', created_at at time zone 'UTC')::date as month,
        carrier,
        status,
        declared_currency,
        declared_amount,
        claimed_amount,
        claimed_amount is not null or claimed_at is not null as is_claimed,
        case when claimed_at >= created_at then analytics.hours_between(created_at, claimed_at) end as claim_hours
    from analytics.valued_shipments()
    where created_at >= :from_utc and created_at < :until_utc
    offset 0
),
-- By the status and the currency as they are written, because to look them up for each shipment costs more than all sums.
by_spelling as (
    select
        month,
        carrier,
        status,
        declared_currency,
        count(*) as count_shipments,
        count(declared_amount) as count_valued,
        sum(declared_amount) as sum_declared_value,
        count(*) filter (where is_claimed) as count_claims,
        count(claimed_amount) as count_claimed_amounts,
        sum(claimed_amount) as sum_claimed_amount,
        count(claim_hours) as count_timed_claims,
        sum(claim_hours) as sum_claim_hours
    from created
    group by month, carrier, status, declared_currency
)
select
    month,
    carrier,
    analytics.currency_of(declared_currency) as currency,
    sum(count_shipments)::bigint as count_shipments,
    sum(count_valued)::bigint as count_valued,
    coalesce(sum(sum_declared_value), 0) as sum_declared_value,
    coalesce(sum(count_shipments) filter (where meaning = 'lost'), 0)::bigint as count_lost,
    sum(count_claims)::bigint as count_claims,
    coalesce(sum(count_claims) filter (where meaning = 'lost'), 0)::bigint as count_lost_claims,
    sum(count_claimed_amounts)::bigint as count_claimed_amounts,
    coalesce(sum(sum_claimed_amount), 0) as sum_claimed_amount,
    round(sum(count_claims) / nullif(sum(count_shipments), 0), 6) as claims_share,
    round(sum(sum_claimed_amount) / nullif(sum(sum_declared_value), 0), 6) as claimed_value_share,
    sum(count_timed_claims)::bigint as count_timed_claims,
    coalesce(sum(sum_claim_hours), 0) as sum_claim_hours,
    round(sum(sum_claim_hours) / nullif(sum(count_timed_claims), 0), 3) as avg_claim_hours
from by_spelling
left join analytics.shipment_states as state on state.status = analytics.folded(by_spelling.status)
where meaning is distinct from 'cancelled'
group by month, carrier, currency
