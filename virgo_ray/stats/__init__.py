"""Pure counting: tallies, estimates and how similar texts are."""
