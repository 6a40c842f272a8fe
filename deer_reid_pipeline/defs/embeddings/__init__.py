"""Assets and checks of the group 'embeddings'."""
