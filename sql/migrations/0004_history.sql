-- What an operator asks of past runs: by which command and version an attempt was made, and what was wrong with records.

alter table etl.attempts
    add column source text,
    add column folder text,
    add column options text,
    add column tool_version text;

comment on column etl.attempts.source is 'name of the source as this attempt was given it';
comment on column etl.attempts.folder is 'working folder of the loader';
comment on column etl.attempts.options is 'options that the same command needs to go on with the run';
comment on column etl.attempts.tool_version is 'version of this tool';

create table etl.faults (
    failure text not null references etl.failures,
    sqlstate text not null,
    table_name text,
    column_name text,
    reason text not null,
    count_records integer not null,
    first_record bigint not null,
    first_offset bigint not null,
    primary key (failure, first_record)
);

comment on table etl.faults is 'one row per kind of fault in a file of the failed store';
comment on column etl.faults.failure is 'file of the failed store';
comment on column etl.faults.sqlstate is 'SQLSTATE of the fault';
comment on column etl.faults.table_name is 'table that the value was meant for, where one is at fault';
comment on column etl.faults.column_name is 'column that the value was meant for, where one is at fault';
comment on column etl.faults.reason is 'the fault in a sentence, without any value of the data';
comment on column etl.faults.count_records is 'records of the file with this fault';
comment on column etl.faults.first_record is 'number in the source of the first of them, from 1';
comment on column etl.faults.first_offset is 'byte of the decompressed source at which that one begins';
