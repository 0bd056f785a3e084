"""Argoverse 2, sensor logs and motion forecasting, as published."""

from nsdrive.scenarios.argoverse2.source import Argoverse2Config, Argoverse2Source

__all__ = ["Argoverse2Config", "Argoverse2Source"]
