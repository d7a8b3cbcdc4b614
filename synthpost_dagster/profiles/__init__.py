"""A profile says with what a study runs; the packaged profiles are the YAML files in this folder.

What is written and how it is judged belongs to the task.
"""

from synthpost_dagster.profiles.loading import (
    FOLDER,
    load_profile,
    load_task_and_profile,
    packaged_profiles,
    read_profile,
)
from synthpost_dagster.profiles.spec import STUDY_TRAINING, Lora, Profile, TrainingSpec

__all__ = [
    "FOLDER",
    "STUDY_TRAINING",
    "Lora",
    "Profile",
    "TrainingSpec",
    "load_profile",
    "load_task_and_profile",
    "packaged_profiles",
    "read_profile",
]
