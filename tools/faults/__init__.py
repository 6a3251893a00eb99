"""Faults to inject, so that a verdict can be held against a known truth. Each undoes itself, also when it is killed."""
