-- name: copy_text
-- Send rows in COPY's text format.
copy {table} ({columns}) from stdin;

-- name: copy_csv
-- Send rows whose fields are JSON tokens: texts in quotes with escaped quotes and backslashes, numbers and null bare.
copy {table} ({columns}) from stdin (format csv, delimiter E'\x1f', null 'null', escape '\');
