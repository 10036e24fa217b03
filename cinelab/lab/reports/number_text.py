"""Numbers as tables and pages print them."""

import math

import pandas as pd


def text_of(value) -> str:
    """A value in a table: numbers to three places and never as -0, what is missing or endless as
    nothing."""
    if not pd.api.types.is_scalar(value):  # such as the lists and structs of an SQL answer
        return str(value.tolist() if hasattr(value, "tolist") else value)
    if pd.isna(value):
        return ""
    if isinstance(value, float):
        return "" if math.isinf(value) else f"{rounded_text(value)}".rstrip("0").rstrip(".")
    return str(value)


def rounded_text(value: float) -> str:
    """A number to three places, zero without a sign."""
    return f"{round(float(value), 3) + 0:.3f}"


def interval(low: float, high: float) -> str:
    """An interval as it stands behind its value, " [0.437, 0.523]"; nothing where it is not
    known."""
    return (
        f" [{rounded_text(low)}, {rounded_text(high)}]"
        if math.isfinite(low) and math.isfinite(high)
        else ""
    )


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, numbers to four places: zero without a sign, and what is not known (an
    endless interval) as nothing."""
    numbers = table.select_dtypes("number").replace([math.inf, -math.inf], math.nan).round(4) + 0
    return table.assign(**{name: numbers[name] for name in numbers}).to_csv(index=False)
