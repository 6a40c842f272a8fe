"""How good an embedding and a policy are, measured so that a useless one cannot look good.

`labelled` is what is judged, `estimates` the intervals; every metric is a `Statistic` of how often each individual
counts, so that one bootstrap over individuals serves all of them, alone or paired.
"""
