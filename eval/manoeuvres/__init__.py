"""Named scenes with one thing to get right: what must hold in each, and whether it did."""
