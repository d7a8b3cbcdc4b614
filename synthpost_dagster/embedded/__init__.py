"""The model that ships with the package: its grammar, the script that rebuilds it, and where its files are."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
CONTENT = "90efd5facbe7cf8b"
"""Names this build of the model in fingerprints; choose another whenever a file of the model changes."""
