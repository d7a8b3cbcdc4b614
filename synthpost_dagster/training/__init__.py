"""Tuning: how many steps a cell has, and the trainer."""
