"""The text of a run and the windows that inner steps draw from it."""
