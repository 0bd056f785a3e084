"""A planner or a model in the driver's seat, and what the driving was like."""
