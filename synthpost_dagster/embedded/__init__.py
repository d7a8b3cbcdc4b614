"""The model that ships with the package; `scripts/embedded_model` trains it again."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "model"
CONTENT = "90efd5facbe7cf8b"
"""Names this build of the model in fingerprints; choose another whenever a file of the model changes."""
