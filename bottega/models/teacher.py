"""A teacher beside the model in training: how far the student's next-token distributions are from the teacher's, in chunks.

Left out: the objective that uses it (train/objectives/distil.py); teachers behind an endpoint, who give text and no logits.

Shapes: N positions, S supervised positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bottega.core.errors import UserError
from bottega.models import heads


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Teacher:
    """A frozen model with the student's tokens. vocabulary: tokens that both have; beta, temperature: see `divergence`."""

    model: nn.Module
    head: heads.Head
    vocabulary: int
    beta: float
    temperature: float

    @staticmethod
    def of(
        model: nn.Module, tokenizer: Any, student_tokenizer: Any, *, name: str, beta: float, temperature: float
    ) -> Teacher:
        """A loaded model as the teacher of a student with `student_tokenizer`.

        Raises:
            UserError: other tokens, a head that is not read in chunks, or options out of range.
        """
        if tokenizer.get_vocab() != student_tokenizer.get_vocab():
            raise UserError(
                f"the teacher {name} has other tokens than the model, so their distributions cannot be compared; let it write "
                "answers (generate) and tune on them with sft"
            )
        if not 0.0 <= beta <= 1.0 or temperature <= 0:
            raise UserError(f"distil beta {beta} must be 0 to 1 and temperature {temperature} above 0")
        head = heads.find_head(model, len(tokenizer))
        if head.kind == "own":
            raise UserError(
                f"the teacher {name} computes its logits in a way of its own, which is not built for distil"
            )
        return Teacher(
            model=model.eval().requires_grad_(False),
            head=head,
            vocabulary=len(tokenizer),
            beta=beta,
            temperature=temperature,
        )

    def divergences(
        self, hidden_SD: Tensor, layer: nn.Module, head: heads.Head, arguments: dict[str, Any], at_S: Tensor, chunk: int
    ) -> Tensor:
        """(S,) divergences of the student, whose hidden states are given, from this teacher on the same tokens.

        Args:
            arguments: what a trunk is called with. at_S: the supervised positions. chunk: rows of logits held at once, twice.
        """
        assert head.kind != "own", "the student's head is read in chunks"
        with torch.no_grad():
            out = heads.trunk(self.model)(**arguments)[0]
            wanted_SD = out.reshape(-1, out.shape[-1])[at_S]
        own: Any = heads.causal_model(self.model).get_output_embeddings()

        def of(hidden: Tensor, wanted: Tensor) -> Tensor:
            with torch.no_grad():
                teacher = heads.logits(wanted, own, self.head)[:, : self.vocabulary]
            student = heads.logits(hidden, layer, head)[:, : self.vocabulary]
            return divergence(student / self.temperature, teacher / self.temperature, self.beta)

        return heads.chunked(of, hidden_SD, wanted_SD, chunk)


def divergence(student_NV: Tensor, teacher_NV: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence of two distributions, (N,) in nats, from their logits.

    beta 0: KL(teacher || student), which covers all that the teacher does; beta 1: KL(student || teacher), which keeps to its
    likeliest; between: beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student; Agarwal
    et al. 2023 (arXiv 2306.13649) eq. 1.

    >>> half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> round(float(divergence(quarter, half, 0.0)), 6)  # 0.5 log 2 + 0.5 log(2/3)
    0.143841
    """
    student, teacher = torch.log_softmax(student_NV, -1), torch.log_softmax(teacher_NV, -1)
    if beta == 0.0:
        return (teacher.exp() * (teacher - student)).sum(-1)
    if beta == 1.0:
        return (student.exp() * (student - teacher)).sum(-1)
    middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    forward = F.kl_div(middle, teacher, reduction="none", log_target=True).sum(-1)
    reverse = F.kl_div(middle, student, reduction="none", log_target=True).sum(-1)
    return beta * forward + (1 - beta) * reverse
