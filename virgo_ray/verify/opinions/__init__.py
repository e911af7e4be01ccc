"""Second opinions on an accepted thought: its steps, its consistency, an LLM judge."""
