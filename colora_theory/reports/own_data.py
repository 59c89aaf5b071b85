"""One self-contained HTML page about a fitted table: what was learned, pictures, and the comparison."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import colora_theory
from colora_theory.errors import InputError
from colora_theory.figures.draw import svg_of
from colora_theory.figures.own_data import plot_loadings, plot_residuals, plot_shrinkage, plot_users
from colora_theory.reports.html import inline_svg, number, table
from colora_theory.results.text import write_text

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.regression.regressor import CoLoRARegressor

#: Users that the page lists.
_MOST = 200


def write(model: CoLoRARegressor, out: Path, title: str, compared: pd.DataFrame | None = None) -> None:
    """Write the page about a fitted model to the file `out`."""
    summary = model.summary()
    head = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in summary.head.items())
    parts = [f"<section><h2>What was learned</h2><dl>{head}</dl>"]
    parts += [f"<p><strong>Note.</strong> {escape(doubt)}</p>" for doubt in summary.doubts]
    if compared is not None:
        parts += ["<h3>Against the usual models</h3>", _compared(compared)]
    parts += ["<h3>Where the variance of a response lies</h3>"]
    rows = [
        [escape(str(name)), f"{share:.1%}", escape(text)]
        for name, share, text in zip(
            summary.variances.index, summary.variances["share"], summary.variances["meaning"], strict=True
        )
    ]
    parts += [table(("source", "share", "meaning"), rows, "Shares of variance", ("", "number", "words"))]
    parts += ["<h3>Pictures</h3>", *_pictures(model)]
    parts += ["<h3>Users</h3>", _users(summary.users), "</section>"]
    template = Template((files("colora_theory.reports") / "report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        version=escape(colora_theory.__version__),
        title=escape(title),
        subtitle="Collaborative low-rank regression: coefficients of every user, learned from all of them.",
        contents="",
        studies="\n".join(parts),
    )
    write_text(out, page)


def _compared(frame: pd.DataFrame) -> str:
    rows = []
    for name, row in frame.iterrows():
        interval = "–" if name == "CoLoRA" else f"[{number(row['low'])}, {number(row['high'])}]"
        rows.append([escape(str(name)), number(row["rmse"]), number(row["difference"]), interval])
    head = ("model", "root mean squared error", "squared error less CoLoRA's", "95 % interval")
    return (
        table(head, rows, "Comparison", ("", "number", "number", "number"))
        + '<p class="soft">Errors on rows that were held out, five folds within users. Above zero: CoLoRA '
        "predicts better. Intervals are paired, over users.</p>"
    )


def _pictures(model: CoLoRARegressor) -> list[str]:
    out = []
    for i, (plot, words) in enumerate(
        (
            (plot_users, "Users' coefficients of the feature in which they differ most."),
            (plot_loadings, "The directions that users share."),
            (plot_shrinkage, "How much of every user's coefficients is the population's."),
            (plot_residuals, "Residuals against predictions."),
        ),
        1,
    ):
        try:
            svg = inline_svg(svg_of(plot(model), words), f"figure-{i}", words)
        except InputError as error:
            out.append(f"<p>Figure {i} cannot be drawn: {escape(str(error))}</p>")
            continue
        out.append(
            f'<figure style="max-width:36rem">{svg}<figcaption>Figure {i}. {escape(words)}</figcaption></figure>'
        )
    return out


def _users(users: pd.DataFrame) -> str:
    shown = users.sort_values("p_value", kind="stable").head(_MOST)
    rows = []
    for label, row in zip(shown.index, shown.to_dict("records"), strict=True):
        cells = [number(float(value)) for name, value in row.items() if name != "flagged"]
        rows.append([escape(str(label)), *cells, "does not belong" if row["flagged"] else ""])
    names = [str(name).replace("_", " ") for name in shown.columns if name != "flagged"]
    more = f"<p>{len(users) - _MOST} more are left out.</p>" if len(users) > _MOST else ""
    return table(("user", *names, ""), rows, "Users", ("", *["number"] * len(names), "")) + more
