"""Why a teacher's reply is rejected: all reasons, in the order in which they are checked.

1. The reply itself (`clean_reply`): no answer, refusal, truncated, special token, placeholder.
2. Leakage: the output shows a holdout item.
3. Length: outside the range of its prompt, up to `quality.band_retries` times.
4. Repetition: a duplicate or near-duplicate of a post of another prompt.

What to change for each reason is in `quality.explanations`.
"""

import re
from collections import Counter
from functools import cached_property
from typing import Any, NamedTuple

from synthpost_dagster.judging.criteria import length_count
from synthpost_dagster.llm.messages import stored_content
from synthpost_dagster.llm.responses import PART, UNKNOWN
from synthpost_dagster.rows.cleaning import APOSTROPHE, LOOKALIKES, unwrapped
from synthpost_dagster.rows.duplicates import NearDuplicates
from synthpost_dagster.rows.leakage import LeakFinder
from synthpost_dagster.tasks.task import Task
from synthpost_dagster.text.normalize import normalised
from synthpost_dagster.text.special_tokens import SPECIAL

RULES = 4
"""Version of the rules, part of the rows' fingerprint; raise it when the same replies would give other rows."""
LEAK = "shows a holdout"
"""Followed by the task's word for an item."""
OUT_OF_BAND = "too few or too many"
"""Followed by the unit of the length."""
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"
REFUSAL = "refusal"
TRUNCATED = "truncated"
EMPTY = "empty"
SPECIAL_TOKEN = "special token"  # noqa: S105 - a reason
PLACEHOLDER = "placeholder"
ALL_REASONING = "max_new_tokens spent on reasoning"
NO_ANSWER = "ended without an answer"
_BY_FINISH_REASON = {
    "content_filter": "held back by the endpoint's filter",
    "invalid": "against the schema",
    "refused": "refused by the endpoint",
    "reasoning": ALL_REASONING,
    "unanswered": NO_ANSWER,
}
_BY_NAMED_FINISH_REASON = {UNKNOWN: "unknown finish reason", PART: "part of another kind"}
"""For finish reasons with a name after a colon."""
_SPECIAL_TOKEN = re.compile(SPECIAL)
_CANNOT = rf"(?:can{APOSTROPHE}?t|cannot|can not|won{APOSTROPHE}?t|(?:am |{APOSTROPHE}m )?(?:unable|not able) to)"
_DO_IT = (
    r"(?:help(?! but\b| \w+ing\b)|do (?:that|this|so)|"
    r"(?:be )?(?:assist|writ|creat|provid|fulfil|comply|generat|produc|complet)\w*)\b"
)
_REFUSAL = re.compile(
    rf"(?:i(?:{APOSTROPHE}m| am) (?:very sorry|sorry|afraid)|sorry|i apologi[sz]e|unfortunately)"
    rf"[,.!]?\s+(?:but\s+)?(?:(?:i|as an ai)\b.{{0,60}}?{_CANNOT}\s+{_DO_IT}|i {_CANNOT}[.!]?\s*$)"
    rf"|i\s?{_CANNOT}\s+{_DO_IT}"
    r"|i (?:must|have to) (?:respectfully )?decline\b"
    r"|as an ai(?: language)?(?: model| assistant)\b|as an ai,",
    re.IGNORECASE | re.DOTALL,
)
_BLANKS = (
    "insert|your|name|company|brand|product|link|url|website|date|time|city|location|price|discount|number|phone|email|"
    "address|customer|handle|hashtag|emoji|image|photo"
)
_PLACEHOLDER = re.compile(
    rf"\{{\{{[^{{}}]{{0,80}}\}}\}}|\{{[a-z][a-z_ ]{{1,30}}\}}|_{{3,}}|\(insert [^)\n]{{1,40}}\)"
    rf"|\[(?:[^\]\n]{{0,30}}\b)?(?:{_BLANKS})\b[^\]\n]{{0,30}}\](?!\()"
    r"|(?<!\A)\[(?=[^\]\n]{0,39}[^\W\d_])[^\]\n]{1,40}\](?!\()"
    rf"|<(?:{_BLANKS})\b[^>\n]{{0,80}}>",
    re.IGNORECASE,
)
"""[Name], {{company}}, {company}, <your link>, ___; not a link in Markdown, nor [Limited Edition] at the head."""


class Cleaned(NamedTuple):
    """A post, the reason of its rejection and the parts that cleaning removed, or empty strings."""

    post: str
    reason: str
    stripped: str = ""


def clean_reply(raw: str, finish_reason: str) -> Cleaned:
    """The post in a raw reply, and the reason if the reply itself is rejected."""
    if finish_reason in _BY_FINISH_REASON:
        return Cleaned("", _BY_FINISH_REASON[finish_reason])
    said = stored_content(raw)
    if said.refusal:
        return Cleaned(said.refusal, REFUSAL)
    post, stripped = unwrapped(said.text)
    kind, _, name = finish_reason.partition(":")
    named = f"{_BY_NAMED_FINISH_REASON[kind]}: {name}" if kind in _BY_NAMED_FINISH_REASON else ""
    if not normalised(post):
        no_answer = ALL_REASONING if finish_reason == "length" else NO_ANSWER
        return Cleaned("", named or (no_answer if said.reasoning else EMPTY), stripped)
    if said.others:
        return Cleaned(post, f"{_BY_NAMED_FINISH_REASON[PART]}: {said.others[0]}", stripped)
    return Cleaned(post, named or _text_reason(post, finish_reason), stripped)


def _text_reason(post: str, finish_reason: str) -> str:
    if finish_reason == "length":
        return TRUNCATED
    if _SPECIAL_TOKEN.search(post):
        return SPECIAL_TOKEN
    if finish_reason == REFUSAL or _REFUSAL.match(post.translate(LOOKALIKES)):
        return REFUSAL
    return PLACEHOLDER if _PLACEHOLDER.search(post) else ""


class Judged(NamedTuple):
    """A cleaned reply, and whether its number of sentences is within the length."""

    cleaned: Cleaned
    is_in_band: bool


class Rejection:
    """The rules, applied to the replies of one synthesis in the order of the requests.

    `settled` are rows of an earlier table under the same rules. Their result stays: a later reply never replaces a kept
    row.
    """

    def __init__(self, task: Task, max_replies: int) -> None:
        self.task, self.max_replies = task, max_replies
        self.settled: list[dict[str, Any]] = []
        self._owners: dict[str, str] = {}
        self._leaks = LeakFinder(task)
        self._length_misses: Counter[str] = Counter()

    def judge(self, prompt: dict[str, Any], attempt: int, reply_key: str, text: str, finish_reason: str) -> Judged:
        """The post of a reply to a prompt's row; `attempt` counts from 0."""
        cleaned = clean_reply(text, finish_reason)
        is_in_band = self._is_in_band(prompt.get("length", ""), cleaned.post)
        reason = self._settled_reasons.get(reply_key)
        if reason is None:
            reason = (
                cleaned.reason
                or self._leak(prompt, cleaned.post)
                or self._wrong_length(prompt, attempt, is_in_band)
                or self._repetition(prompt["prompt_id"], cleaned.post)
            )
        elif reason.startswith(OUT_OF_BAND):
            self._length_misses[prompt["prompt_id"]] += 1
        return Judged(cleaned._replace(reason=reason), is_in_band)

    def _leak(self, prompt: dict[str, Any], post: str) -> str:
        item = self.task.spec.words.item[0]
        return f"{LEAK} {item}" if self._leaks.find(post, prompt[item]) else ""

    def _wrong_length(self, prompt: dict[str, Any], attempt: int, is_in_band: bool) -> str:
        """Rejects a post of the wrong length `quality.band_retries` times, if another reply may be requested."""
        misses = self._length_misses[prompt["prompt_id"]]
        if is_in_band or misses >= self.task.spec.quality.band_retries or attempt + 1 >= self.max_replies:
            return ""
        self._length_misses[prompt["prompt_id"]] += 1
        return f"{OUT_OF_BAND} {self.task.spec.lengths[prompt['length']].unit}"

    def _is_in_band(self, length_name: str, post: str) -> bool:
        length = self.task.spec.lengths.get(length_name)
        return length is None or length.holds(length_count(post, length.unit, self.task.spec.language))

    def _repetition(self, prompt_id: str, post: str) -> str:
        """Compares a post with those of other prompts; a post that repeats none is remembered."""
        if self._owners.get(normalised(post), prompt_id) != prompt_id:
            return DUPLICATE
        if self._near.add_unless_near(prompt_id, post):
            return NEAR_DUPLICATE
        self._owners[normalised(post)] = prompt_id
        return ""

    @cached_property
    def _near(self) -> NearDuplicates:
        return NearDuplicates(self.task.spec.quality.near_duplicate_jaccard)

    @cached_property
    def _settled_reasons(self) -> dict[str, str]:
        """Reply key → settled reason (empty: kept). Of two kept posts that repeat each other, the second is judged
        again: two tables may hold one each.
        """
        reasons: dict[str, str] = {}
        for row in self.settled:
            if row["status"] == "kept":
                owner = self._owners.setdefault(normalised(row["post"]), row["prompt_id"])
                if owner != row["prompt_id"] or self._near.add_unless_near(owner, row["post"]):
                    continue
            reasons[row["reply_key"]] = row["reason"]
        return reasons
