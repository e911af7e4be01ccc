"""The killable process in which answers are compared, and its frames."""
