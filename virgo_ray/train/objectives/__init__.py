"""What a step of a fit makes better, as pure functions of log-probabilities.

Every function takes flat tensors over the T target tokens of a micro-batch and returns terms that
add up: summed over micro-batches and ranks and divided by the count of the whole step, they are the
objective, however the examples are spread. docs/reinforcement.md gives each formula with its
source. Nothing here knows a model, DeepSpeed or ranks.
"""
