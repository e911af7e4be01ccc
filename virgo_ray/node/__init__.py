"""What a machine has: its NVIDIA driver, the packages that are installed, its processes."""
