"""Logs of other data sets that py123d has converted."""

from nsdrive.scenarios.py123d.source import Py123dConfig, Py123dSource

__all__ = ["Py123dConfig", "Py123dSource"]
