"""What a scenario looks like through the ego's cameras."""
