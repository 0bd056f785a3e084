"""Predictions -> measures -> results.json -> report. Imports `nsdrive` only; no torch, no plotting library."""
