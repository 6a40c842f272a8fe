"""PostgreSQL with pgvector through SQLAlchemy: the only package with SQL. Knows nothing of torch or Dagster."""
