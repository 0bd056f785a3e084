"""Named scenes with one thing to get right."""

from nsdrive.scenarios.manoeuvres.source import MANOEUVRES, ManoeuvresConfig, ManoeuvresSource, load_manoeuvre

__all__ = ["MANOEUVRES", "ManoeuvresConfig", "ManoeuvresSource", "load_manoeuvre"]
