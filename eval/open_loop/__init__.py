"""Predicted waypoints against labels: any file read, every sample counted, baselines and controls beside it."""
