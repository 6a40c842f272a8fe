"""What runs by itself: the night's schedules, what follows a failed run, and what is deleted, and when."""
