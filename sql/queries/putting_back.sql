-- name: is_complete
-- Return whether each of these tables has kept all versions since a run began, and still does.
select count(*) = cardinality(%(tables)s::text[])
from etl.histories
where table_name = any(%(tables)s::text[]) and since <= %(started_at)s;

-- name: keep_none
-- Let the transaction take versions away: the triggers keep none.
select set_config('etl.history', 'off', true);

-- name: goes
-- The condition that the run wrote a version; of a row that it only wrote again, the version is older than the run.
({row}.etl_run = {number} and {row}.{valid_from} >= {started_at} and {unseen})

-- name: unseen
-- The condition that no later run has found a record unchanged.
coalesce({row}.etl_digest <> all (array(select seen.digest from ({seen}) as seen)), true)

-- name: back
-- The versions that the run has ended: those that the table shows again, and the new ends of the others. Such an end is
-- that of the next version which stays, or the deletion by a later run.
select
    {key_of_ended}, ended.valid_from, ended.valid_to,
    next.valid_from is null and (last_gone.valid_from is null or last_gone.is_shown or last_gone.ended_by = {number}) as is_shown,
    case when last_gone.valid_from is not null and not last_gone.is_shown and last_gone.ended_by is distinct from {number}
        then last_gone.valid_to else next.valid_from end as new_valid_to,
    case when last_gone.valid_from is not null and not last_gone.is_shown and last_gone.ended_by is distinct from {number}
        then last_gone.ended_by else next.etl_run end as new_ended_by
from {history} as ended
left join lateral (
    select later.valid_from, later.etl_run
    from ({later}) as later
    where not later.goes
    order by later.valid_from, later.valid_to
    limit 1
) as next on true
left join lateral (
    select later.valid_from, later.valid_to, later.ended_by, later.is_shown
    from ({later}) as later
    where later.goes and (next.valid_from is null or later.valid_from < next.valid_from or later.valid_to <= next.valid_from)
    order by later.valid_from desc, later.valid_to desc
    limit 1
) as last_gone on true
where ended.ended_by = {number} and not coalesce({ended_goes}, false)

-- name: later
-- The versions of a key after one that has ended. A row may have been written by a transaction that began before the
-- deletion of the version and came after it; the row of the table is always the last version.
select
        greatest(kept.valid_from, ended.valid_to) as valid_from, kept.valid_to, kept.ended_by, kept.etl_run,
        false as is_shown, coalesce({kept_goes}, false) as goes
    from {history} as kept
    where {is_key_of_kept} and (
        kept.valid_from >= ended.valid_to or (kept.valid_from > ended.valid_from and kept.valid_to > ended.valid_to)
    )
    union all
    select
        greatest(record.etl_valid_from, ended.valid_to), null, null, record.etl_run, true, coalesce({record_goes}, false)
    from {table} as record
    where {is_key_of_record}

-- name: note_back
-- Note the versions that the run has ended, and what becomes of them.
create temporary table {back} on commit drop as {query};

-- name: count_shown
-- Count the versions that the table shows again.
select count(*) from ({query}) as back where is_shown;

-- name: count_shown_children
-- Count the child rows of the versions that the table shows again.
select count(*) from ({query}) as back join {history} as kept on {is_version} where back.is_shown;

-- name: count_going
-- Count the rows that the run wrote.
select count(*) from {table} as record where {record_goes};

-- name: count_going_children
-- Count the child rows of the rows that the run wrote.
select count(*) from {child} as child join {table} as record on {is_key_of_child} where {record_goes};

-- name: delete_children
-- Delete the child rows of the rows that the run wrote.
delete from {child} as child using {table} as record where {is_key_of_child} and {record_goes};

-- name: delete_records
-- Delete the rows that the run wrote, but for those that show an older version again.
delete from {table} as record
where {record_goes} and not exists (select from {back} as back where back.is_shown and {is_key_of_back});

-- name: forget_children
-- Forget the child rows of the versions that the run wrote and a later run has ended.
delete from {child_history} as child
using {history} as kept
where {is_version_of_child} and {kept_goes};

-- name: forget_records
-- Forget the versions that the run wrote and a later run has ended.
delete from {history} as kept where {kept_goes};

-- name: shown_columns
-- List the columns of a table that its history keeps: whether an update can set them, whether they refuse null, and the
-- value that the server gives to a new row.
select
    kept.attname,
    kept.attidentity <> 'a' as is_settable,
    kept.attnotnull as is_required,
    case
        when kept.attidentity <> ''
            then format('nextval(%%L)', pg_get_serial_sequence(%(table)s, kept.attname))
        when default_value.oid is not null then pg_get_expr(default_value.adbin, default_value.adrelid)
    end as default_value
from pg_attribute as kept
left join pg_attrdef as default_value on default_value.adrelid = kept.attrelid and default_value.adnum = kept.attnum
where kept.attrelid = to_regclass(%(table)s) and kept.attnum > 0 and not kept.attisdropped and kept.attgenerated = ''
    and kept.attname <> 'etl_valid_from'
order by kept.attnum;

-- name: show_records
-- Show versions again that the run has ended.
with shown as (
    delete from {history} as kept using {back} as back where {is_version} and back.is_shown returning {returned}
)
insert into {table} ({columns}, etl_valid_from) overriding system value
select {values}, shown.valid_from
from shown
left join {table} as record on {is_key_of_shown}
on conflict ({key}) do update set {assignments};

-- name: show_children
-- Show the child rows of such versions again.
with shown as (
    delete from {history} as kept using {back} as back where {is_version} and back.is_shown returning {returned}
)
insert into {table} ({columns}) overriding system value select {values} from shown;

-- name: end_anew
-- Give the other versions that the run has ended the end that they have without it.
update {history} as kept
set valid_to = back.new_valid_to, ended_by = back.new_ended_by
from {back} as back
where {is_version} and not back.is_shown;

-- name: keep_seen
-- Give the ended versions of a run that later runs have found unchanged to the first of these, as the rows of the table.
with seen as materialized ({seen})
update {history} as kept
set etl_run = seen.run, etl_batch = seen.batch, etl_place = seen.place
from seen
where kept.etl_run = {number} and kept.etl_digest = seen.digest and seen.run < coalesce(kept.ended_by, seen.run + 1);

-- name: take_over
-- Give a row that an undone run had written again, with the same values, back to the run that wrote it first, unless a run
-- between them may have written it, too.
update {table} as record
set etl_run = {number}
from etl.runs as undone
where undone.number = record.etl_run and undone.number > {number} and undone.undone_at is not null
    and not exists (
        select from etl.runs as later
        where later.dataset = undone.dataset and later.number > {number} and later.undone_at is null
    )
    and (
        record.etl_valid_from in (
            select b.loaded_at from etl.batches b join etl.runs r using (run) where r.number = {number}
        )
        or exists (
            select from {history} as kept
            where kept.ended_by = {number} and {is_key_of_record} and kept.valid_to = record.etl_valid_from
        )
    );

-- name: end_by_seen
-- Let the version before a row that a later run has found unchanged end by that run, when it began.
with seen as materialized ({seen})
update {history} as kept
set ended_by = seen.run, valid_to = greatest(runs.started_at, kept.valid_to)
from {table} as record
join seen on seen.digest = record.etl_digest
join etl.runs on runs.number = seen.run
where record.etl_run = {number} and kept.ended_by = {number}
    and {is_key_of_record} and record.etl_valid_from = kept.valid_to;

-- name: show_by_seen
-- Let the table show a row that a later run has found unchanged since that run began.
with seen as materialized ({seen})
update {table} as record
set etl_valid_from = greatest(runs.started_at, record.etl_valid_from)
from seen
join etl.runs on runs.number = seen.run
where record.etl_run = {number} and seen.digest = record.etl_digest and {record_goes};

-- name: end_by_later
-- Let the version before a row that a later run has written again, with the same values, end by that run, when it began.
update {history} as kept
set ended_by = record.etl_run, valid_to = greatest(runs.started_at, kept.valid_to)
from {table} as record
join etl.runs on runs.number = record.etl_run
where kept.ended_by = {number} and {is_key_of_record} and record.etl_valid_from = kept.valid_to
    and record.etl_run <> {number};

-- name: show_by_later
-- Let the table show such a row since that run began.
update {table} as record
set etl_valid_from = kept.valid_to
from {history} as kept
where kept.ended_by = record.etl_run and {is_key_of_record} and record.etl_valid_from < kept.valid_to;

-- name: show_new_by_later
-- Let the table show a row that the run was the first to write, and a later one has written again, since that run began.
update {table} as record
set etl_valid_from = runs.started_at
from etl.runs
where runs.number = record.etl_run and record.etl_run <> {number} and record.etl_valid_from < runs.started_at
    and record.etl_valid_from in (
        select b.loaded_at from etl.batches b join etl.runs r using (run) where r.number = {number}
    );

-- name: end_by_seen_version
-- Let the run that has a version now be the one that ended the version before it.
update {history} as kept
set ended_by = record.etl_run
from {history} as record
where kept.ended_by = {number} and {is_key_of_record} and record.valid_from = kept.valid_to
    and record.etl_run <> {number};

-- name: follow_record
-- Let the child rows of ended versions belong to the runs of their versions.
update {child_history} as child
set etl_run = kept.etl_run, etl_batch = kept.etl_batch, etl_place = kept.etl_place, ended_by = kept.ended_by
from {history} as kept
where {is_version_of_child}
    and (child.etl_run, child.etl_batch, child.etl_place, child.ended_by)
        is distinct from (kept.etl_run, kept.etl_batch, kept.etl_place, kept.ended_by);

-- name: drop_back
-- Forget what becomes of the versions.
drop table {back};
