"""Crops to vectors at the speed of the machine: which arithmetic, which library, how large a batch, how far ahead.

What a vector is, the recipe says and `vision.embedder` computes. Nothing here changes that by more than the self-test
allows; nothing here knows a database.
"""
