"""What a run will take, before it starts: parameters, tokens, memory by part, arithmetic."""
