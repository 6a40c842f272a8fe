"""Faults in the middle of the work, each injected into the running product, which has to recover by itself."""
