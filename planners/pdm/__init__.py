"""PDM-Closed in pieces: route and paths, forecast and roll-out, simulation, scores, emergency brake."""
