"""Where the ego drives and what was decided: types, geometry, map, vehicle, traffic, simulation, measures.

Nothing in here knows of text, images or models.
"""
