"""nuPlan's logs, maps and cameras without its devkit, and the way back into its format."""

from nsdrive.scenarios.nuplan.source import NuplanConfig, NuplanSource

__all__ = ["NuplanConfig", "NuplanSource"]
