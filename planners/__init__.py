"""Planners, one file each: its frozen config, its class (the `Planner` protocol of `nsdrive.world.types`), its sources."""
