"""Alembic environment: `deer_reid_pipeline.store.migrate` hands over an open transaction.

There is no alembic.ini: `deer-reid init` upgrades. There is no offline mode either: the revisions look at the
database that they change, because the owner's schema differs from place to place.
"""

from alembic import context

from deer_reid_pipeline.store.migrate import include_object
from deer_reid_pipeline.store.models import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run deer-reid init, or deer_reid_pipeline.store.migrate.upgrade(url)")

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    include_object=include_object,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
