"""What watches the matcher while it is live: a report a day."""
