"""The figures of a comparison and their uncertainty; one function per figure."""
