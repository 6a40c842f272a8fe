"""How fast this installation is on this machine: stages apart and end to end, always beside the floor and a plain loop.

- `measure`: all figures of one run; `database`, `pictures`, `subject`: its parts.
- `gpu_memory`: memory of the card by batch size.
- `night`: pictures drawn, and processed by the real pipeline in a home of its own (`scratch`).
- `criteria`: the owner's criteria that concern speed; `tables`, `plots`, `files`: the report.

Measuring on one machine says nothing of another one, and every report describes the machine that it was made on.
"""
