"""A loaded task: its two YAML files and its prompt templates."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from synthpost_dagster.tasks.spec import Catalog, Company, Product, TaskSpec
from synthpost_dagster.tasks.templates import PromptTemplate, compiled


@dataclass(frozen=True)
class Task:
    """A task folder, read and checked.

    `sources` holds the templates' text by role; `spec` and `catalog` are the two YAML files.
    """

    folder: Path
    spec: TaskSpec
    catalog: Catalog
    sources: dict[str, str]

    def template(self, role: str) -> PromptTemplate:
        """The compiled template of `teacher`, `student` or `judge`. Raises SpecError naming file and line."""
        return compiled(self.sources[role], str(self.folder / "prompts" / f"{role}.j2"))

    @property
    def wording_fingerprint(self) -> str:
        """Hash of everything that shapes a prompt besides the catalog: templates, types, lengths, tones, criteria."""
        wording = {
            "teacher": self.sources["teacher"],
            "student": self.sources["student"],
            "tones": self.spec.tones,
            "lengths": [length.text for length in self.spec.lengths],
            "universal": [criterion.text for criterion in self.spec.universal_criteria],
            "types": [
                (kind.name, kind.length, [criterion.text for criterion in kind.criteria])
                for kind in self.spec.post_types
            ],
        }
        return hashlib.sha256(json.dumps(wording, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def criterion_ids(self) -> list[str]:
        """Every criterion's id once, the universal ones first."""
        return list(dict.fromkeys(c.id for kind in self.spec.post_types for c in self.spec.criteria_of(kind)))

    @property
    def strata(self) -> list[tuple[str, str]]:
        """Post type × tone, in the task's order."""
        return [(kind.name, tone) for kind in self.spec.post_types for tone in self.spec.tones]

    def companies_of(self, split: str) -> list[tuple[Company, Product]]:
        """Every company with each of its products in `split` (`train` or `holdout`)."""
        return [
            (company, product) for company in self.catalog.companies for product in getattr(company.products, split)
        ]

    @property
    def training_prompts(self) -> int:
        """Number of training prompts: products × post types × tones."""
        return len(self.companies_of("train")) * len(self.strata)
