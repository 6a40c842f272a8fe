"""Training assets: what is learned from the labelled animals, and how it becomes a candidate release."""
