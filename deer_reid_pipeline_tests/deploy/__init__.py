"""Tests of what a server is installed with: image, compose file, proxy, units, and the order in which they start."""
