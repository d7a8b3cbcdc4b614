"""Rebuilds the embedded model from nothing: tokenizer, training text, training, model card.

    python -m scripts.embedded_model.build --out synthpost_dagster/embedded/model

Takes about four minutes on a data-centre GPU and hours on a laptop's CPU. The text comes from the grammar alone;
half of it pairs the teacher's prompt with posts that obey the criteria, half the student's prompt with posts that
obey them only as often as `HABITS` says, so that the model follows a brief that is spelt out and, without one, is
good at some types of post and poor at others.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scripts.embedded_model.grammar import PostWriter
from scripts.embedded_model.worlds import made_up_product
from synthpost_dagster.embedded import MODEL_FOLDER
from synthpost_dagster.judging.criteria import criteria_met
from synthpost_dagster.tasks.loading import load_task
from synthpost_dagster.tasks.prompting import render_prompt
from synthpost_dagster.tasks.task import Brief, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 2_048
TASK = "sales_posts"
OBEDIENCE = 0.98
"""Share of the criteria that a post under the teacher's prompt obeys."""
HABITS = {
    "Promotional": 0.62,
    "Question": 0.55,
    "Feature Highlight": 0.38,
    "Comparison": 0.30,
    "Announcement": 0.58,
    "Educational": 0.42,
    "Testimonial": 0.48,
    "User-Generated Content": 0.30,
    "Value Proposition": 0.45,
    "Storytelling": 0.34,
    "Interactive": 0.40,
}
"""How often a post under the student's prompt obeys a criterion, by type."""
LEANINGS = {
    "hook": 0.10,
    "concise": 0.10,
    "call_to_action": 0.15,
    "consistent_branding": 0.20,
    "benefits": -0.05,
    "unique_selling_point": -0.20,
    "platform_use": -0.15,
}
"""What is added to the habit for a universal criterion."""
MOODS = {"Professional": 0.05, "Enthusiastic": 0.1, "Witty": -0.1, "Inspirational": -0.05, "Trustworthy": 0.0}
"""What is added to the habit for a tone."""

CHAT_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


class Sample(NamedTuple):
    """One conversation of the training text."""

    messages: list[dict[str, str]]
    post: str


class Encoded(NamedTuple):
    """A sample as token ids, of which the first `prompt` are the prompt's."""

    ids: np.ndarray
    prompt: int


class Padded(NamedTuple):
    """A batch: ids (rows × width), the flat places whose next token is learned, and those tokens."""

    ids: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor


class TextMaker:
    """Draws samples."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.rng = task, random.Random(seed)
        self.known = [item for item in task.items if item.split == "train"]
        self.descriptions = [str(item.values["description"]) for item in self.known]
        self.levels = [list(factor.levels) for factor in task.spec.factors.values()]

    def draw(self) -> Sample:
        """One sample, under the teacher's or the student's prompt."""
        rng = self.rng
        item = rng.choice(self.known) if rng.random() < 0.1 else made_up_product(rng, self.descriptions)
        brief = Brief(item, tuple(rng.choice(levels) for levels in self.levels))
        role = "teacher" if rng.random() < 0.5 else "student"
        obeyed = {
            criterion.id
            for criterion in self.task.criteria_of(brief)
            if rng.random() < (OBEDIENCE if role == "teacher" else habit(brief, criterion.id))
        }
        messages = [{"role": "user", "content": render_prompt(self.task, role, brief)}]
        if rng.random() < 0.1:
            messages.insert(0, {"role": "system", "content": self.task.spec.system_prompt or ""})
        return Sample(messages, PostWriter(brief, self.task.length_name(brief), obeyed, role == "teacher", rng).write())


def habit(brief: Brief, criterion: str) -> float:
    """How often a post under the student's prompt obeys a criterion."""
    post_type, tone = brief.levels
    share = HABITS[post_type] + LEANINGS.get(criterion, 0.0) + MOODS[tone]
    return min(0.95, max(0.05, share))


def build_tokenizer(maker: TextMaker, samples: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on drawn samples."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (maker.draw() for _ in range(samples))
    tokenizer.train_from_iterator((f"{s.messages[-1]['content']}\n\n{s.post}" for s in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        padding_side="left",
        model_max_length=2_048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _encode(job: tuple[str, int, int]) -> list[Encoded]:
    """`count` samples, encoded."""
    from transformers import AutoTokenizer

    folder, seed, count = job
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    maker = TextMaker(load_task(TASK), seed)
    encoded = []
    for _ in range(count):
        sample = maker.draw()
        prompt = tokenizer.apply_chat_template(sample.messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        post = tokenizer(sample.post + "<|eot_id|>", add_special_tokens=False)["input_ids"]
        encoded.append(Encoded(np.array(ids + post, dtype=np.int16), len(ids)))
    return encoded


def encode_samples(folder: Path, samples: int, seed: int, processes: int) -> list[Encoded]:
    """Draws and encodes the training text on all processes."""
    share = 2_000
    jobs = [(str(folder), seed + 1 + job, share) for job in range(math.ceil(samples / share))]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [sample for part in pool.imap(_encode, jobs) for sample in part]


def train(
    samples: list[Encoded], tokenizer: PreTrainedTokenizerFast, tokens: int, seed: int, device: str
) -> PreTrainedModel:
    """Trains the model on the posts (prompts are masked), `tokens` to a step, one pass over the samples."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(device)
    batches = _batches(samples, tokens, random.Random(seed))
    peak, warm_up = 3e-3, 200
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    started = time.perf_counter()
    padded = _ahead((_padded(batch, config.pad_token_id) for batch in batches), depth=8)
    for step, (ids, places, targets) in enumerate(padded):
        done = step / len(batches)
        rate = peak * min((step + 1) / warm_up, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Padding stands on the right and is masked in the labels, so a causal model needs no attention mask.
        with torch.autocast(device, dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids.to(device, non_blocking=True)).last_hidden_state.flatten(0, 1)
            logits = model.lm_head(hidden[places.to(device, non_blocking=True)])
            loss = torch.nn.functional.cross_entropy(logits.float(), targets.to(device, non_blocking=True))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == len(batches) - 1:
            print(
                f"step {step}/{len(batches)} loss {loss.item():.4f} {time.perf_counter() - started:.0f} s", flush=True
            )
    return model.eval()


def _padded(batch: list[Encoded], pad: int) -> Padded:
    import torch

    width = -(-max(len(sample.ids) for sample in batch) // 32) * 32
    ids = np.full((len(batch), width), pad, dtype=np.int64)
    learned = np.zeros((len(batch), width), dtype=bool)
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = sample.ids
        learned[row, sample.prompt : len(sample.ids)] = True
    targets = np.flatnonzero(learned)
    return Padded(torch.from_numpy(ids), torch.from_numpy(targets - 1), torch.from_numpy(ids.ravel()[targets]))


def _ahead(items: Iterator[Padded], depth: int) -> Iterator[Padded]:
    """The items, made by a thread that stays up to `depth` ahead."""
    made: queue.Queue[Any] = queue.Queue(depth)
    end = object()

    def make() -> None:
        for item in items:
            made.put(item)
        made.put(end)

    threading.Thread(target=make, daemon=True).start()
    while (item := made.get()) is not end:
        yield item


def _batches(samples: list[Encoded], tokens: int, rng: random.Random) -> list[list[Encoded]]:
    """Samples of like length together, about `tokens` tokens a batch, batches in random order."""
    batches: list[list[Encoded]] = [[]]
    for sample in sorted(samples, key=lambda sample: (len(sample.ids) // 16, rng.random())):
        if len(batches[-1]) * len(sample.ids) >= tokens:
            batches.append([])
        batches[-1].append(sample)
    rng.shuffle(batches)
    return batches


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task, count: int) -> dict[str, float]:
    """Share of criteria met on holdout products, greedy, by prompt; prints some posts."""
    import torch

    rng = random.Random(0)
    products = [item for item in task.items if item.split == "holdout"]
    briefs = [Brief(rng.choice(products), stratum) for stratum in task.strata]
    briefs = (briefs * math.ceil(count / len(briefs)))[:count]
    shares = {}
    for role in ("student", "teacher"):
        chats = [[{"role": "user", "content": render_prompt(task, role, brief)}] for brief in briefs]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=300, do_sample=False)
        posts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        met = [criteria_met(post, brief, task) for post, brief in zip(posts, briefs, strict=True)]
        shares[role] = sum(sum(m.values()) for m in met) / sum(map(len, met))
        for post, brief in list(zip(posts, briefs, strict=True))[::23]:
            print(f"[{role} | {' | '.join(brief.levels)} | {brief.item.name}] {post}")
    return shares


def write_card(folder: Path, facts: dict[str, float | int | str]) -> None:
    """The model card, with what this build measured."""
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# Synthpost's embedded model

A LLaMA-architecture model of {facts["parameters"]:,} parameters that writes sales posts from the prompts of the
packaged task `sales_posts`. It exists so that the whole study runs on a laptop without a key or a network. It shows
the machinery; it says nothing about LLaMA 3 or any other model.

- Trained from random weights on {facts["samples"]:,} conversations ({facts["tokens"]:,} tokens, one pass) drawn
  from the grammar in `scripts/embedded_model`, with made-up companies, and the train products of the packaged
  catalog in a tenth of them. It has never seen a holdout product.
- Under the teacher's prompt the posts obey the criteria; under the student's prompt they obey each of them only as
  often as the table `HABITS` in `build.py` says.
- Measured after training on {facts["measured"]} holdout briefs, greedy: of the criteria that can be checked on text,
  {facts["student"]:.1%} are met with the student's prompt and {facts["teacher"]:.1%} with the teacher's.
- Rebuilt by `python -m scripts.embedded_model.build` (seed {facts["seed"]}).
- Not for any use but this study: it knows no language beyond its grammar.
""",
        encoding="utf-8",
    )


def main() -> None:
    """Builds the model into the folder named by --out."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--samples", type=int, default=1_400_000)
    parser.add_argument("--tokens", type=int, default=40_960, help="tokens a step")
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--measured", type=int, default=220, help="holdout briefs to measure on")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    task = load_task(TASK)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(TextMaker(task, options.seed), 20_000)
    tokenizer.save_pretrained(options.out)
    samples = encode_samples(options.out, options.samples, options.seed, options.processes)
    tokens = sum(len(sample.ids) for sample in samples)
    print(
        f"{len(samples):,} samples, {tokens:,} tokens, the longest {max(len(sample.ids) for sample in samples)}",
        flush=True,
    )
    model = train(samples, tokenizer, options.tokens, options.seed, device)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    shares = measure(model, tokenizer, task, options.measured)
    model.to(torch.bfloat16).save_pretrained(options.out)
    (options.out / "synthpost.json").write_text(
        json.dumps({"wording_fingerprint": task.wording_fingerprint}) + "\n", encoding="utf-8"
    )
    write_card(
        options.out,
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "samples": len(samples),
            "tokens": tokens,
            "measured": options.measured,
            "seed": options.seed,
            **shares,
        },
    )
    print(json.dumps({"student": round(shares["student"], 3), "teacher": round(shares["teacher"], 3)}))


if __name__ == "__main__":
    main()
