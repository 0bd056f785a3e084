"""Who learns: prompts and answers, samples as tensors, training, constrained answers, and the model as a planner."""
