"""Predictions and drives as a page that people want to read."""
