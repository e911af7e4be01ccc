"""What a machine has: its NVIDIA driver, and the packages that are installed."""
