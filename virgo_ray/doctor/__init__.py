"""`virgo-ray doctor`: whether a machine, a cluster and a config are fit for a run."""
