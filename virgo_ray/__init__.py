"""virgo_ray: teach a vision-language model to think slowly about images, on Ray."""

__version__ = "0.1.0"
