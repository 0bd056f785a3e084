"""Predictors whose faithfulness is known by construction, and whether each measure finds it."""
