"""Is the reasoning true, and is it why the car moves as it does?"""
