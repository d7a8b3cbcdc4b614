"""The same prompts through bespokelabs-curator; `bench_generation.py` starts it with the Python of its environment.

Its best settings for one endpoint that speaks OpenAI's chat completions, after its documentation: the `openai` backend
with `base_url`, limits a minute far above what the server can do, its cache of requests and responses on disk.
https://docs.bespokelabs.ai/curator/guides/online-processing
https://docs.bespokelabs.ai/curator/api-reference
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

SAMPLING = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 500}
NO_LIMIT_A_MINUTE = 1_000_000_000
ENVIRONMENT = {
    "TELEMETRY_ENABLED": "false",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
}
"""Nothing is fetched and nobody is told; the plain progress bar costs less than the rich one."""


def encodings() -> Path:
    """The token encodings that come with litellm, so that tiktoken fetches none."""
    import litellm

    return Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"


def main() -> None:
    """Reads the command line, runs, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON list")
    parser.add_argument("--concurrency", type=int, help="without it, curator sets no limit of its own")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(encodings())

    from bespokelabs import curator
    from measuring import Meter, write_record

    class Poster(curator.LLM):
        """A post a prompt."""

        def prompt(self, row: dict[str, Any]) -> str:
            return str(row["prompt"])

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {"prompt": row["prompt"], "post": response}

    prompts = [{"prompt": prompt} for prompt in json.loads(options.prompts.read_text())]
    limits = {"max_concurrent_requests": options.concurrency} if options.concurrency else {}
    meter = Meter()
    poster = Poster(
        model_name="bench",
        backend="openai",
        generation_params=SAMPLING,
        backend_params={
            "base_url": options.base_url,
            "api_key": "none",
            "max_requests_per_minute": NO_LIMIT_A_MINUTE,
            "max_tokens_per_minute": NO_LIMIT_A_MINUTE,
            **limits,
        },
    )
    rows = poster(prompts, working_dir=str(options.cache)).dataset
    answered = sum(1 for post in rows["post"] if post)
    write_record(options.out, {"rows": answered, **meter.stop()})


if __name__ == "__main__":
    main()
