"""Makes DBOS's tables as a library of an earlier version would have. Arguments: the database's URL, and the version."""

import sys

import sqlalchemy as sa

from dbos import _migration

url, version = sys.argv[1], int(sys.argv[2])
whole = _migration.get_dbos_migrations
_migration.get_dbos_migrations = lambda *args, **kwargs: whole(*args, **kwargs)[:version]
engine = sa.create_engine(url)
with engine.begin() as connection:
    connection.execute(sa.text("create schema if not exists dbos"))
_migration.ensure_dbos_schema(engine, "dbos")
_migration.run_dbos_migrations(engine, "dbos", True)
print("done")
