"""Killable verifier processes in Ray actors."""
