-- name: guards
-- List the triggers before each row and the rules of a table and its partitions.
with recursive family as (
    select %(table)s::regclass::oid as oid
    union
    select i.inhrelid
    from pg_inherits i
    join family on family.oid = i.inhparent
)
select distinct 'the trigger ' || t.tgname
from pg_trigger t
join family on family.oid = t.tgrelid
where not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 1 = 1 and t.tgtype & 66 > 0
union
select distinct 'the rule ' || w.rulename
from pg_rewrite w
join family on family.oid = w.ev_class
where w.ev_enabled <> 'D' and w.ev_type in ('2', '3', '4')
order by 1;

-- name: checked
-- Run a statement in a block, and note its table when it did not write all rows.
{statement};
get diagnostics at_written = row_count;
if ({expected}) > at_written or ({left}) > 0 then
    perform set_config('etl.skipped', {table}, true);
end if;

-- name: skipped_in_block
-- Return the number of the table of which the block saw skipped rows, or an empty text.
select coalesce(current_setting('etl.skipped', true), '');
