"""What the network is conditioned on beside time and history: prompts, and controls, signals that
each latent frame has.

    B films   F latent frames   S prompts, the last one unconditional   L words   E width
    h heads   d head size

A new kind of conditioning is a name in `controls`, a tensor that begins with (B, F): the data put
it there, the network reads it there, and nothing between them knows of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cinelab.readable import Readable

TextKV = list[tuple[Tensor, Tensor]]  # per layer: keys and values (B, S, L, h, d) of every prompt


@dataclass(frozen=True)
class Condition(Readable):
    """The conditioning of one call of the network, or of a whole clip from which calls take frames.

    text      (B, S, L, E) prompts, or the keys and values that the network made of them
    slot      (B, F) which prompt each latent frame reads
    controls  name -> (B, F, ...), a signal a latent frame, such as a camera pose or an action
    """

    text: Tensor | TextKV
    slot: Tensor
    controls: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """How many prompts there are, the unconditional one included."""
        text = self.text if isinstance(self.text, Tensor) else self.text[0][0]
        return text.shape[1]

    def encoded(self, net: Any) -> "Condition":
        """Return the condition with its prompts as keys and values of `net`, computed once."""
        if not isinstance(self.text, Tensor):
            return self
        return replace(self, text=net.encode_text(self.text))

    def frames(self, part: slice) -> "Condition":
        """Return the condition of some latent frames."""
        return self.over_frames(lambda x: x[:, part])

    def null(self) -> "Condition":
        """Return the condition under the unconditional prompt. Controls stay as they are."""
        return replace(self, slot=torch.full_like(self.slot, self.prompts - 1))

    def then(self, other: "Condition") -> "Condition":
        """Return this condition followed in time by another one with the same prompts."""
        slot = torch.cat([self.slot, other.slot], dim=1)
        controls = {
            name: torch.cat([x, other.controls[name]], dim=1) for name, x in self.controls.items()
        }
        return replace(self, slot=slot, controls=controls)

    def guided(self) -> "Condition":
        """Return the condition of a guided call: all films with their prompts, then without."""
        null = self.null()
        text = _for_two(self.text)
        controls = {name: torch.cat([x, x]) for name, x in self.controls.items()}
        return Condition(text, torch.cat([self.slot, null.slot]), controls)

    def picked(self, *slots: Tensor) -> "Condition":
        """Return the condition of one chunk with a single prompt a film, chosen once for all calls.

        slots are (B,); several of them widen the batch, as a guided call does. The prompts must be
        encoded.
        """
        count = self.prompts
        text = self.text
        if isinstance(text, Tensor):
            raise TypeError("picked() chooses among encoded prompts; call encoded(net) first.")
        choices = [one_hot(slot, count).to(text[0][0])[:, None] for slot in slots]  # (B, 1, S)
        picked = [(_chosen(k, choices), _chosen(v, choices)) for k, v in text]
        # one prompt is left, number 0, and all latent frames read it
        only = torch.zeros_like(self.slot).repeat(len(slots), 1)
        controls = {
            name: x.repeat(len(slots), *[1] * (x.ndim - 1)) for name, x in self.controls.items()
        }
        return Condition(picked, only, controls)

    def to(self, device: torch.device | str) -> "Condition":
        """Return the condition on a device."""
        text: Tensor | TextKV
        if isinstance(self.text, Tensor):
            text = self.text.to(device)
        else:
            text = [(k.to(device), v.to(device)) for k, v in self.text]
        return Condition(
            text,
            self.slot.to(device),
            {name: x.to(device) for name, x in self.controls.items()},
        )

    def over_frames(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """Return the condition with all that begins with (B, F) changed."""
        controls = {name: change(x) for name, x in self.controls.items()}
        return replace(self, slot=change(self.slot), controls=controls)


def _for_two(text: Tensor | TextKV) -> Tensor | TextKV:
    """Return the prompts of a batch that is shown twice."""
    if isinstance(text, Tensor):
        return torch.cat([text, text])
    return [(torch.cat([k, k]), torch.cat([v, v])) for k, v in text]


def _chosen(part: Tensor, choices: list[Tensor]) -> Tensor:
    """Return keys or values (B, S, L, h, d) of one prompt a film: (B len(choices), 1, L, h, d).

    Each choice (B, 1, S) is one-hot: a product costs less than an index whose backward scatters.
    """
    flat = part.flatten(2)
    return torch.cat([(choice @ flat).unflatten(-1, part.shape[2:]) for choice in choices])


def given_history(
    net: Callable[..., Tensor],
    past: Tensor,
    x: Tensor,
    t: Tensor,
    condition: Condition,
    context: Any,
    *,
    past_condition: Condition | None = None,
) -> Tensor:
    """Return the velocity of noisy x (B, F, C, H, W) at t (B, F) given the clean `past` beside it.

    One call of [clean | noisy] (teacher forcing): the clean copy stands at t = 0. `past_condition`
    is the clean copy's, where it differs from the noisy one's.
    """
    frames = x.shape[1]
    both = (past_condition or condition).then(condition)
    clean_t = torch.zeros_like(t)
    v = net(torch.cat([past, x], dim=1), torch.cat([clean_t, t], dim=1), both, context)
    return v[:, frames:]
