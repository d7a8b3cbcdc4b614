"""The words by which a raw verdict label is told from what is said about it. All are case folded."""

from __future__ import annotations

import re


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


SLOTS = _vocabulary("post option response text version candidate model ad output answer choice sample slot")
VERDICTS = _vocabulary("answer verdict winner choice decision label result output preference pick judgement judgment")
CHOICES = _vocabulary(
    "prefer preferred preference choose chose chosen select selected pick picked recommend favour favor winner"
)
"""Words after which the preferred one is named."""
OPENINGS = SLOTS | VERDICTS | CHOICES | _vocabulary("the teh my final overall i better best is was boxed")
"""Words that lead up to a label: "The winner is …"."""
LEADS = VERDICTS | CHOICES
"""What such words must have among them, where they do not begin the text."""
BECAUSE = _vocabulary("because since due")
RUN_IN = BECAUSE | _vocabulary("the this it as wins")
"""With these an explanation begins that is run into a label."""
AFTER_A_CHOICE = _vocabulary("is was wins won has because since")
ORDINARY = OPENINGS | _vocabulary(
    "the this that these those then they there time true one none both it its to too in on no yes and but not for from "
    "with less more"
)
"""Never a misspelling of a label."""

NEGATORS = _vocabulary(
    "not no never none neither nor t non cannot cant dont doesnt didnt isnt wasnt without nothing nobody hardly barely "
    "scarcely rarely lack lacks lacked lacking less least fewer few avoid avoids avoided avoiding little zero 0 null"
)
"""They turn what follows: "not dull"; alone they speak against what they are said of."""
EMPHASES = _vocabulary("only just merely")
"""They take a negation back: "not only"."""
CONDITIONS = _vocabulary("if unless whether almost nearly otherwise maybe perhaps equal equally draw vs versus")
COMPARISONS = _vocabulary("than over against instead versus vs unlike beat beats outperforms to by like with from")
"""A contestant named after these is not what the sentence is about."""
JOINTS = _vocabulary("and or both either neither nor")
"""A contestant named after these shares what is said with the other."""
CONTRASTS = BECAUSE | _vocabulary("while whereas but as though although")
"""With these the words about another contestant begin."""
OTHERS = _vocabulary("other others opponent competitor rival alternative opposite counterpart")
PRAISE = _vocabulary(
    "better best stronger strongest superior win wins won winning winner beats outperforms outsells prefer preferred "
    "chosen favourite favorite preferable"
)
"""Words that name the one which is preferred."""

FAILURES = re.compile(
    r"error\w*|timeout\w*|timed|fail(?:s|ed|ing|ures?)?|exception\w*|traceback|crash\w*|abort\w*|cancel\w*|unavailable|"
    r"unreachable|unable|n|na|down|blank|empty|truncated|sorry|refus\w+|http|quota|skipped|pending|unknown|invalid|undefined|nan|missing|malformed"
)
"""A judge or a post that did not come about."""
BLAME = re.compile(
    r"reject\w*|los(?:e|es|t|er|ers|ing|s|ses)|defeat\w*|beaten|outperformed|wors\w+|weak\w*|inferior|poor\w*|bad|badly|"
    r"false|wrong\w*|incorrect\w*|disagree\w*|dislik\w+|hat(?:e|es|ed)|disqualif\w+|eliminat\w+|discard\w*|exclud\w+|"
    r"dismiss\w*|ruled|behind|trail\w*|doubt\w*|flaw\w*|mistakes?|defect\w*|dull\w*|bor(?:ing|es|ed)|generic|bland|"
    r"vague\w*|flat|clumsy|awkward\w*|mislead\w+|clich\w+|repetit\w+|spam\w*|irrelevant|incoherent\w*|confus\w+|"
    r"unclear|unconvinc\w+|ineffective|uninspir\w+|unengaging|rambl\w+|terribl\w+|awful\w*|horribl\w+|ugly|too|"
    r"unlikely|useless|unusable|unsuitable|unfit|pointless|disappoint\w+|mediocre|stale|underwhelm\w+|"
    r"underperform\w*|nonsens\w+|garbage|trash|rubbish|sloppy|lame|annoy\w+|salesy|pushy|forgettable|wast\w+|"
    r"oversell\w*|exaggerat\w+|distract\w+"
)
"""Words that speak against what they are said of."""

FILLERS = OPENINGS | _vocabulary(
    "a an it s this that so therefore thus hence clearly definitely certainly obviously simply much far slightly think "
    "believe feel say am clear what which here one in opinion view has had also really of two these by sells reads "
    "works sounds feels looks seems performs engages converts wrote does do we would d ll call go going vote goes"
)
"""Words that change nothing between a label and the praise of it, or before them."""
LINKS = OPENINGS | _vocabulary("a an one here clearly definitely s with for goes to of these two by far that")
"""Words between a choice and what is chosen."""
LINKED = {
    "with": _vocabulary("go going went side sided stick"),
    "for": _vocabulary("vote votes voted win"),
    "to": _vocabulary("goes go went belongs"),
}
"""Some of them link after these words alone: "go with", but not "better with"."""
GIVING = _vocabulary("go going went goes vote votes voted")
"""These choose only with a link behind them."""
CHOOSING = GIVING | CHOICES | _vocabulary("better best stronger superior favourite favorite win")
PICKED = CHOICES | _vocabulary("choice win wins won choosing")
"""Words that say of a contestant that it is taken, where they stand near its name."""
AFTER_PRAISE = BECAUSE | _vocabulary(
    "than one post as at in on and by for with here overall over when while hook ad text version response option tone"
)
"""What may stand right behind praise, so that it is meant: "best avoided" is none."""
