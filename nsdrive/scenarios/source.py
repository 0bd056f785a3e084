"""What every source of scenarios has in common."""

from __future__ import annotations


class ScenarioError(ValueError):
    """One scenario cannot be loaded: its files are missing, malformed, truncated, too short or contradict themselves.

    The message is a single line that names the file and the problem. Whoever loads many scenarios catches this,
    records the line beside the scenario's id, counts it, and goes on to the next; nothing is skipped quietly.
    """
