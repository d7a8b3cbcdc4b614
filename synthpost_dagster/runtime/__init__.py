"""Processes, devices and progress: what a run of any kind needs of the machine."""
