#!/bin/sh
# Runs once, on an empty database. MLflow gets a role that owns its database and nothing else; the superuser loses the
# password, and so logs in only from inside the container. Collation C: no new C library can reorder the indexes.
set -eu
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
\getenv password POSTGRES_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER ROLE postgres PASSWORD NULL;
SQL
