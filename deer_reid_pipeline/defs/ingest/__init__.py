"""Assets and checks of the group 'ingest'."""
