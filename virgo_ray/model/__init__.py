"""The files of a model, and how a problem becomes its input. Loads transformers on first use."""
