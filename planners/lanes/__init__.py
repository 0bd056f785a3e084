"""What `planners.pdm_lanes` is built from: pure functions about lanes, paths, gaps and who goes first."""
