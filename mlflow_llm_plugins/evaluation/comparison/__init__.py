"""Several models, prompts or settings on the same data: what each scores and costs, and how they differ."""
