"""DeepSpeed ranks in Ray actors."""
