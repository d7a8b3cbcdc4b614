"""The same prompts through distilabel; `bench_generation.py` starts it with the Python of distilabel's environment.

Its best settings for one endpoint that speaks OpenAI's chat completions, after its documentation: the asynchronous
`OpenAILLM` with `base_url`, one `TextGeneration` step, large input batches, since a batch is what the step asks for at
once, and its cache of outputs on disk.
https://distilabel.argilla.io/latest/components-gallery/llms/openaillm/
https://distilabel.argilla.io/latest/sections/how_to_guides/advanced/scaling_with_ray/
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

# A line for each request is no part of the work.
os.environ.update({"DISTILABEL_LOG_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"})

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepResources
from distilabel.steps.tasks import TextGeneration
from measuring import Meter, write_record

SAMPLING = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 500}
TIMEOUT_SECONDS = 600


def pipeline_of(prompts: list[str], options: argparse.Namespace) -> Pipeline:
    """Prompts → text generation."""
    with Pipeline(name="bench", cache_dir=options.cache) as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": prompt} for prompt in prompts], batch_size=options.load_batch_size
        )
        generation = TextGeneration(
            llm=OpenAILLM(
                model="bench",
                base_url=options.base_url,
                api_key="none",
                timeout=TIMEOUT_SECONDS,
                generation_kwargs=SAMPLING,
            ),
            input_batch_size=options.input_batch_size,
            resources=StepResources(replicas=options.replicas),
            add_raw_input=False,
            add_raw_output=False,
        )
        load >> generation
    return pipeline


def main() -> None:
    """Reads the command line, runs, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON list")
    parser.add_argument("--input-batch-size", type=int, required=True)
    parser.add_argument("--load-batch-size", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    prompts = json.loads(options.prompts.read_text())
    meter = Meter()
    rows = pipeline_of(prompts, options).run()["default"]["train"]
    answered = sum(1 for text in rows["generation"] if text)
    write_record(options.out, {"rows": answered, **meter.stop()})


if __name__ == "__main__":
    main()
