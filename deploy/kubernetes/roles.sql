-- The users of the manifests beside the owner of the database, who migrates. An administrator runs this once, after the first
-- migration, and gives each a password: \password nightly, \password serve, \password collect.
create role nightly login;
grant etl_loader to nightly;
create role serve login;
grant etl_analyst to serve;
grant usage on schema etl to serve;
grant select on etl.api_keys to serve;
grant select, insert, update, delete on etl.api_tokens to serve;
create role collect login;
grant etl_loader to collect;
grant select on etl.api_keys to collect;
