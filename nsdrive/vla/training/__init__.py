"""The parts of a training run; `nsdrive.vla.train` puts them together."""
