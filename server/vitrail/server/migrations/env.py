"""What Alembic runs to bring a store to this version's schema: on the connection that it is given."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():  # which is that of the connection
    context.run_migrations()
