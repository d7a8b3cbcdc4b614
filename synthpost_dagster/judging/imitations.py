"""Posts that imitate what only a judge or a chat template may write.

They are flagged. An imitation can leave its game unscored but cannot change who wins.
"""

import re

from synthpost_dagster.judging.replies import verdicts_in
from synthpost_dagster.text.special_tokens import SPECIAL

_POSITION = r"""["'“‘*(\[]{0,2}(?-i:[AB])["'”’*)\]]{0,2}(?=[ \t]*(?:$|[.,;:!?<{\[(]|(?:as|is)\b))"""
"""A or B, except the article."""
_NAMED = r"(?:post|text|option|slot|response)"
_IMITATION = re.compile(
    rf"""["'“”]verdict\\?["'“”]\s*:           # the key of a verdict
    | <{{3}}|>{{3}}|</?{_NAMED}>              # the marks around a post
    | {SPECIAL}
    | \b(?:pick|choose|select|answer|judge|prefer|vote\s+for)\s+(?:{_NAMED}\s+)?{_POSITION}
    | \b(?:pick|choose|select|prefer|vote\s+for)\s+this\s+{_NAMED}\b
    | \b(?:dear|hey|note\s+to(?:\s+the)?)\s+judges?\b
    | \b{_NAMED}\s+[AB]\s+is\s+(?:the\s+)?(?:better|best)
    | \bignore\s+(?:all\s+|the\s+)*(?:previous|above|prior)
        (?=\s*(?:$|[.,;:!]|(?:order|instruction|rule|prompt|text|brief)))
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def imitates(post: str) -> bool:
    """Whether a post contains a verdict, a mark, a special token or an instruction to the judge."""
    return bool(verdicts_in(post)) or _IMITATION.search(post) is not None
