"""What a run will need, before it costs: actors, memory, disk, tokens and hours, from a config.

Pure functions from sizes to bytes; `__main__` is the command. Everything unknown that had to be
assumed is said as an assumption, with its basis.
"""
