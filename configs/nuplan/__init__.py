"""Hydra configs for nuPlan's own simulator. Hydra takes only a package for one: without this file it says "not available"."""
