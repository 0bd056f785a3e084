"""The ablation of the reasoning: from every run's predictions to one table, its verdict and its curves."""
