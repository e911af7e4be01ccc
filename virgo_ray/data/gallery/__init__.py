"""What is known about the pictures of a data set: looked at by several processes, remembered."""
