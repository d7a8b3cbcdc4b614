"""What loading a model does to the process that loads it."""

from __future__ import annotations

import gc
import weakref

from tuning_world import CPU, STUDENT

from synthpost_dagster.inference import models


def test_libraries_are_set_aside_from_the_garbage_once_and_no_model_is() -> None:
    gc.unfreeze()
    models._set_libraries_aside.cache_clear()
    first = models.load(STUDENT, CPU)
    aside = gc.get_freeze_count()
    second = models.load(STUDENT, CPU)
    assert aside > 100_000, "torch and transformers alone are more"
    assert gc.get_freeze_count() <= aside
    gone = [weakref.ref(loaded.model) for loaded in (first, second)]
    for ref in gone:
        ref().itself = ref()  # type: ignore[union-attr] - a cycle, which the collector alone finds
    del first, second
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
