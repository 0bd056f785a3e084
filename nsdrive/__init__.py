"""nsdrive: rule-grounded driving data, training and evaluation. Nothing heavy is imported here."""

__version__ = "0.1.0"
