"""Real data for studies, instead of a drawn truth: `get("grouped_table")`; one file per source.

May import the model and how tables are read: a source knows neither the estimators that will learn from it nor the
theorems. Libraries that only one source needs are imported when it reads its data, and named in an extra.
"""

from colora_theory.sources.base import Source, Split, all, get, names, register

__all__ = ["Source", "Split", "all", "get", "names", "register"]
