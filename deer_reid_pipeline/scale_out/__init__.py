"""Embedding on many machines: crops in, vectors out, by Ray Data. The engine `ray` of DEER_REID_ENGINE.

What a vector is, `vision` computes, on the workers as here. Nothing here knows a database, and Ray is imported only
when it is asked for.
"""
