"""The text of a film: the screenplay that a person writes, and its timeline of chunks."""

from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.script.timeline import Slot, Timeline, plan

__all__ = ["PromptChange", "Screenplay", "Shot", "Slot", "Timeline", "plan"]
