"""Who plays the games: criteria on text, the rubric and model judges, reading their replies."""
