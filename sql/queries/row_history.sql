-- name: add_valid_from
-- Let a table say since when it shows a row; null for the rows that were there before.
alter table {table} add column if not exists etl_valid_from timestamptz;
alter table {table} alter column etl_valid_from set default now();
comment on column {column} is 'time of the transaction since which the table shows this version; null: before its history began'

-- name: make_history
-- Make the table of the versions that ended, with the columns of a table and none of its constraints.
create table if not exists {history} as
select
    {columns},
    null::timestamptz as valid_from,
    null::timestamptz as valid_to,
    null::bigint as ended_by
from {table}
with no data

-- name: index_history
-- Find the versions of a key.
create index if not exists {index} on {history} ({key}, valid_to)

-- name: index_open
-- Find the versions whose end is open, because their child rows are not compared yet.
create index if not exists {index} on {history} (valid_to) where valid_to is null

-- name: comment_history
-- Describe a history in the database.
comment on table {history} is {comment};
comment on column {valid_from} is 'time of the transaction since which the table showed this version; null: before its history began';
comment on column {valid_to} is 'time of the transaction that changed or deleted it';
comment on column {ended_by} is 'run that ended it (etl.runs.number); null: a person did'

-- name: kept_columns
-- List the columns of a table that its history keeps.
select attname
from pg_attribute
where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped and attgenerated = ''
    and attname <> 'etl_valid_from'
order by attnum;

-- name: operators
-- List the operators that compare the columns of a key for equality, where these are not operators of the server itself.
select kept.attname, pg_namespace.nspname, pg_operator.oprname
from pg_attribute as kept
join pg_opclass on opcintype = kept.atttypid and opcdefault
join pg_am on pg_am.oid = opcmethod and amname = 'btree'
join pg_amop on amopfamily = opcfamily and amoplefttype = opcintype and amoprighttype = opcintype and amopstrategy = 3
join pg_operator on pg_operator.oid = amopopr
join pg_namespace on pg_namespace.oid = oprnamespace
where kept.attrelid = to_regclass(%(table)s) and kept.attname = any(%(key)s) and not kept.attisdropped
    and nspname <> 'pg_catalog';

-- name: unfit_columns
-- List the columns of a table that its history cannot keep: their types, the type in the history (null: it has none),
-- and whether the history refuses null.
select
    kept.attname,
    format_type(kept.atttypid, kept.atttypmod) as type,
    format_type(history.atttypid, history.atttypmod) as type_of_history,
    coalesce(history.attnotnull and not kept.attnotnull, false) as refuses_null
from pg_attribute as kept
left join pg_attribute as history
    on history.attrelid = to_regclass(%(history)s) and history.attname = kept.attname and not history.attisdropped
where kept.attrelid = to_regclass(%(table)s) and kept.attnum > 0 and not kept.attisdropped and kept.attgenerated = ''
    and kept.attname <> 'etl_valid_from'
    and (
        history.attname is null
        or (history.attnotnull and not kept.attnotnull)
        or not (
            (history.atttypid = kept.atttypid and history.atttypmod in (kept.atttypmod, -1))
            or coalesce(
                array_position(array['smallint', 'integer', 'bigint']::regtype[], history.atttypid::regtype)
                > array_position(array['smallint', 'integer', 'bigint']::regtype[], kept.atttypid::regtype),
                false
            )
        )
    )
order by kept.attnum;

-- name: installed_functions
-- List the triggers of a table that keep its versions, with the body of the function of each; without the disabled ones.
select tgname, prosrc
from pg_trigger
join pg_proc on pg_proc.oid = tgfoid
where tgrelid = to_regclass(%(table)s) and not tgisinternal and tgenabled in ('O', 'A') and tgname ~ '^~?etl_history_'
order by tgname;

-- name: has_valid_from
-- Return whether a table says since when it shows its rows.
select count(*) = 1 as has_valid_from
from pg_attribute
where attrelid = to_regclass(%(table)s) and attname = 'etl_valid_from' and not attisdropped
    and atttypid = 'timestamptz'::regtype;

-- name: may_be_renamed
-- Return whether a history has columns that its table has not, and so may have a renamed column by its old name.
select exists (
    select from pg_attribute as history
    where history.attrelid = to_regclass(%(history)s) and history.attnum > 0 and not history.attisdropped
        and history.attname <> all(%(added)s)
        and not exists (
            select from pg_attribute as kept
            where kept.attrelid = to_regclass(%(table)s) and kept.attname = history.attname and kept.attnum > 0
                and not kept.attisdropped
        )
) as may_be_renamed;

-- name: belongs_to_another
-- Return a row if the definition of another dataset has the history of a table, or of the table of its records.
select table_name from etl.histories where table_name = any(%(tables)s) and dataset <> %(dataset)s limit 1;

-- name: drop_trigger
-- Let a table keep no more versions.
drop trigger if exists {trigger} on {table}

-- name: make_record_triggers
-- Make the triggers of a table of records. The first one notes since when the table shows a version; by its name it comes
-- after the triggers of users, which may change the row.
create or replace trigger "~etl_history_began" before update on {table}
for each row when ({is_changed}) execute function etl.begin_version();
create or replace trigger etl_history_update after update on {table}
referencing old table as old_rows new table as new_rows for each statement execute function {function}();
create or replace trigger etl_history_delete after delete on {table}
referencing old table as old_rows for each statement execute function {function}()

-- name: make_child_trigger
-- Make the trigger of a table of child rows.
create or replace trigger etl_history_delete after delete on {table}
referencing old table as old_rows for each statement execute function {function}()

-- name: make_last_trigger
-- Make the trigger of the last table of child rows: after its insert the child rows of both versions are there.
create or replace trigger etl_history_insert after insert on {table}
for each statement execute function {function}()

-- name: record_body
-- Keep the versions of records that a statement ended. An undo takes versions away instead.
-- A version of the same transaction was never shown. Where only the digest of a record is another, a child row may be: the
-- end of such a version is null until its child rows are compared.
begin
    if current_setting('etl.history', true) = 'off' then
        return null;
    end if;
    if tg_op = 'UPDATE' then
        {keep_updated};
    else
        {keep_deleted};
    end if;
    return null;
end;

-- name: keep_updated
-- Keep rows that were changed, but for those of the same transaction. The end is null where only the digest is another.
insert into {history} as kept ({columns}, valid_from, valid_to, ended_by)
        select
            {columns_of_old},
            old_rows.etl_valid_from,
            case when {is_changed} then coalesce(new_rows.etl_valid_from, now()) end,
            case when ({lineage_of_old}) is distinct from ({lineage_of_new}) then new_rows.etl_run end
        from old_rows
        left join new_rows on {is_key_of_new}
        where ({is_changed} {or_children}) and old_rows.etl_valid_from is distinct from now()

-- name: or_written
-- The condition that a record was written, so that it may have other child rows.
or (({lineage_of_old}) is distinct from ({lineage_of_new}) {and_digest})

-- name: and_digest
-- The condition that the digest does not prove that the record is the same.
and (old_rows.etl_digest is null or old_rows.etl_digest is distinct from new_rows.etl_digest)

-- name: keep_deleted
-- Keep rows that were deleted.
insert into {history} as kept ({columns}, valid_from, valid_to, ended_by)
        select
            {columns_of_old}, old_rows.etl_valid_from, greatest(now(), old_rows.etl_valid_from), {deleted_by}
        from old_rows
        where old_rows.etl_valid_from is distinct from now()

-- name: keep_children
-- Keep the child rows of the kept versions, which are still there.
insert into {history} ({columns}, valid_from, valid_to, ended_by)
        select {columns_of_child}, kept.valid_from, kept.valid_to, kept.ended_by
        from kept
        cross join lateral (select child.* from {table} as child where {is_key_of_kept} offset 0) as child

-- name: deleted_by
-- The run of the record that deletes a key, unless it is older than the row: then a person deleted that.
(
                select gone.etl_run
                from {deletions} as gone
                where {is_key_of_gone} and {is_not_older}
            )

-- name: is_later
-- The condition that a deletion came after a row, where no column tells the newer one.
(gone.etl_run, gone.etl_batch, gone.etl_place) >= ({lineage_of_old})

-- name: is_newer
-- The condition that a deletion is not older than a row.
(
                        gone.{newest} > {newest_of_old} or ({newest_of_old} is null and gone.{newest} is not null)
                        or (gone.{newest} is not distinct from {newest_of_old} and {is_later})
                    )

-- name: child_body
-- Keep child rows that were deleted before their record.
-- A merge writes the record before its child rows, which are kept with it.
begin
    if current_setting('etl.history', true) is distinct from 'off' then
        insert into {history} ({columns}, valid_from, valid_to, ended_by)
        select
            {columns_of_old}, parent.etl_valid_from, greatest(now(), parent.etl_valid_from), {deleted_by}
        from old_rows
        cross join lateral (
            select parent.* from {parent} as parent
            where {is_key_of_parent} and (parent.etl_run, parent.etl_batch, parent.etl_place) = ({lineage_of_old})
            offset 0
        ) as parent
        where parent.etl_valid_from is distinct from now();
    end if;
    return null;
end;

-- name: settle_body
-- Compare the child rows of versions of which only the digest was another, and forget those that did not end.
begin
    if not exists (select from {history} where valid_to is null) then
        return null;
    end if;
    {forget_same};
    update {table} as record
    set etl_valid_from = greatest(now(), record.etl_valid_from)
    from {history} as kept
    where kept.valid_to is null and {is_key_of_record};
    {end_versions};
    return null;
end;

-- name: find_same
-- Forget the versions that did not end, and return their keys.
delete from {history} as kept
        where kept.valid_to is null
            and {same_children}
        returning {key_of_kept}

-- name: same_children
-- The condition that a version has the child rows of the version after it.
(
            select array_agg(row({data_of_child})::text order by row({data_of_child})::text)
            from {history} as child
            where {is_key_of_kept} and child.valid_to is null
        ) is not distinct from (
            select array_agg(row({data_of_child})::text order by row({data_of_child})::text)
            from {table} as child
            where {is_key_of_kept}
        )

-- name: forget_children
-- Forget the child rows of a version that did not end.
delete from {history} as child using same where {is_key_of_same} and child.valid_to is null

-- name: end_version
-- Note when versions ended whose child rows are others.
update {history} as kept
    set valid_to = record.etl_valid_from
    from {table} as record
    where kept.valid_to is null and {is_key_of_record}

-- name: align_children
-- Let child rows have the lineage of their record, as a merge leaves them; a replace may have left another.
update {child} as child
set etl_run = parent.etl_run, etl_batch = parent.etl_batch, etl_place = parent.etl_place
from {parent} as parent
where {is_key_of_parent}
    and (child.etl_run, child.etl_batch, child.etl_place)
        is distinct from (parent.etl_run, parent.etl_batch, parent.etl_place)

-- name: register
-- Note since when a table keeps its versions without a gap.
insert into etl.histories (table_name, dataset) values ({name}, {dataset})
on conflict (table_name) do update set dataset = excluded.dataset, since = excluded.since

-- name: forget
-- Note that a table keeps no more versions.
delete from etl.histories where table_name = %(table)s;
