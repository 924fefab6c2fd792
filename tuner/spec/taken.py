"""What a study took from an earlier one when it began (search.from_studies), as its study.json keeps it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Taken(BaseModel):
    """Trials of one earlier study whose hyperparameters became first trials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    trials: tuple[int, ...] = ()
    """By their numbers there, best first."""
    ended: int
    """How many of its trials had ended by then with a value, and could have been taken."""
    without: tuple[str, ...] = ()
    """Hyperparameters that this study doesn't sample, or not with the values that some of these trials had."""
    reason: str | None = None
    """Why none was taken."""

    def __str__(self) -> str:
        if not self.trials:
            return f"none of {self.ended}: {self.reason}"
        *others, last = map(str, self.trials)
        named = f"trials {', '.join(others)} and {last}" if others else f"trial {last}"
        without = f", without values outside this space ({', '.join(self.without)})" if self.without else ""
        return f"{named} of {self.ended}{without}"
