"""The text of a film: the screenplay that a person writes, and its timeline of chunks.

screenplay       `Screenplay`, `Shot`, `PromptChange`: what a person writes
timeline         `plan`, `Timeline`: which frame shows which shot under which prompt
prompts, umt5    prompts to vectors: the toybox's words; UMT5 for Wan
unconditional    the prompt that guidance compares with
shotlist         `ShotList`: the shots of a video, as planned
"""

from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.script.timeline import Slot, Timeline, plan

__all__ = ["PromptChange", "Screenplay", "Shot", "Slot", "Timeline", "plan"]
