"""Generated scenes, seeded: families say what happens, layouts and roads where, motion and stage who."""

from nsdrive.scenarios.synthetic.source import FAMILIES, SyntheticConfig, SyntheticSource, build

__all__ = ["FAMILIES", "SyntheticConfig", "SyntheticSource", "build"]
