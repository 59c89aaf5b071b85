"""What a kind of figure is: one class, in one file of the room `figures`, found by the name that studies use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from colora_theory.errors import InputError
from colora_theory.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from colora_theory.studies.schema import FigureTable


class FigureKind(ABC):
    """One `[[figure]]` of a `Study`: which tables it needs from the `Results`, and how they are drawn.

    Attributes
    ----------
    name : what `kind` says in a study file. needs : keys that must be set; takes : keys it reads besides those of
    every figure (the others are refused). claims : what tables of overlaid guarantees are called. shows : what the
    picture shows, for captions. page_wide : whether it always takes a page's width.
    records : what y may be besides the metrics of the study. axes, measure : the keys that hold fields (or
    formulas over fields) and the key that holds what is measured. measured_along : the axis along which that runs.
    lines_name_fields : whether a line's name says in which fields it differs. cell_panels : whether every cell has
    a panel of its own unless row or col say otherwise. more_tables : tables besides "points" and those of claims.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    claims: ClassVar[str] = "overlay"
    shows: ClassVar[str] = "Means with 95\u00a0% Monte Carlo intervals."
    page_wide: ClassVar[bool] = False
    records: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[tuple[str, ...]] = ("x",)
    measure: ClassVar[str] = "y"
    measured_along: ClassVar[Literal["x", "y"]] = "y"
    lines_name_fields: ClassVar[bool] = True
    cell_panels: ClassVar[bool] = False
    more_tables: ClassVar[tuple[str, ...]] = ()
    #: Keys that every kind reads.
    COMMON: ClassVar[tuple[str, ...]] = (
        *("kind", "estimators", "lines", "overlay", "row", "col", "width", "file", "title", "x_label", "y_label"),
        *("log_x", "log_y"),
    )

    def __init__(self, study: Any, figure: FigureTable) -> None:
        self.study, self.figure = study, figure
        #: Colour and marker of every line of the figure, the same in all panels.
        self.looks: dict[str, tuple[str, str]] = {}
        #: The tables of the whole figure, of which every panel draws its part.
        self.whole: dict[str, pd.DataFrame] = {}

    def check(self) -> None:
        """Refuse, before any trial is run, what cannot be drawn; raises InputError."""
        defaults = type(self.figure).model_fields
        given = {key for key, field in defaults.items() if getattr(self.figure, key) != field.get_default()}
        for key in self.needs:
            if getattr(self.figure, key) in (None, []):
                raise InputError(f"{key} must be set for a {self.name}; add it.")
        allowed = {*self.COMMON, *self.needs, *self.takes}
        for key in sorted(given - allowed):
            raise InputError(f"{key} has no meaning for a {self.name}; leave it out.")

    @abstractmethod
    def tables(self, results: Any) -> dict[str, pd.DataFrame]:
        """The tables that the figure draws: "points", and one table for every claim in it.

        Where "points" has a column "line", every line gets a colour and a marker, the same in all panels
        (`looks`); a column "n" holds numbers of trials, which the caption states; fields that `row` and `col` name
        are columns.
        """

    @abstractmethod
    def draw(self, axes: Any, tables: dict[str, pd.DataFrame]) -> None:
        """Draw the tables (of one panel) into Matplotlib axes; computes nothing."""

    def annotate(self, axes: Any, tables: dict[str, pd.DataFrame]) -> None:
        """Write into axes whose size and limits are final what must not touch; nothing by default."""
        return

    @abstractmethod
    def axis_names(self) -> tuple[str, str]:
        """Fields or metrics on the x and the y axis."""

    def said(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        """What the figure shows, in sentences for readers who do not see it."""
        return []

    def panel_height(self, tables: dict[str, pd.DataFrame]) -> float | None:
        """Height of a panel in lines of text; None: in proportion to its width."""
        return None


_registry: Registry[type[FigureKind]] = Registry("colora_theory.figures", "kind of figure")
names = _registry.names
get = _registry.get

K = TypeVar("K", bound=type[FigureKind])


def register(cls: K) -> K:
    """Class decorator: make a kind of figure available under its `name`."""
    _registry.register(cls.name, cls)
    return cls


def kind_of(study: Any, figure: FigureTable) -> FigureKind:
    """The figure as an object of its kind."""
    return get(figure.kind)(study, figure)
