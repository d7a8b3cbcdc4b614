"""Chat models as teachers and judges: backends, rate limits, budgets, and the journal of all replies."""
