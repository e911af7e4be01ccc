"""Pure: from texts to whether they say the same answer."""
