"""How fast the pipeline is on the machine that it runs on: measured on request, selected by no other job."""
