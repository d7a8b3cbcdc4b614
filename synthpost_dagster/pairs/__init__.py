"""Comparisons made elsewhere: files of pairs or raw labels, read into outcomes."""
