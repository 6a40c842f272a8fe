"""Evaluation, tuning and release control as assets."""
