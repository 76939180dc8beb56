"""Alembic's entry: runs the migrations on the connection that the store hands over."""

from alembic import context

from agl.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
