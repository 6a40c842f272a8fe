"""Handing an installation over: a Camtrap DP 1.0 package that other tools read, and that restores the same identities.

`export` writes it, `restore` reads it back. The three tables of Camtrap DP say what the standard has fields for; the
tables under `deer-reid/` carry the rest, row by row as it is in the database.
"""
