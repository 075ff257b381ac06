"""Training of the model's parts: data, tasks, the loop, the measurer. Nothing else of the pack imports it."""
