"""The bundled tiny model and the visual puzzles it learns to think about."""
