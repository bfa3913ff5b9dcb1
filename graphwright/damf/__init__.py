"""DAMF for training: attention whose scores are products of few vectors, in torch, in time linear in the length.

The usual way: fine-tune the exact model, if need be with :func:`spectral_penalty` in the loss; keep a copy of it as
teacher; :func:`replace_attention`; train again with :func:`distillation_loss`; export as any other model. The same
transform of an ONNX graph, without training, is the pass ``damf``. It needs torch, and is the only part that does
besides the frontends.

Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion"; the linear form
    of the first-order softmax is not in the paper, see ``plugins/damf/reference.py``.
"""

from graphwright.damf.core import DamfAttention
from graphwright.damf.families import FactorableAttention
from graphwright.damf.penalty import largest_shares, spectral_penalty
from graphwright.damf.replace import collapse, replace_attention
from graphwright.damf.training import DamfCallback, DamfTrainerMixin, distillation_loss, hidden_distance

__all__ = [
    "DamfAttention",
    "DamfCallback",
    "DamfTrainerMixin",
    "FactorableAttention",
    "collapse",
    "distillation_loss",
    "hidden_distance",
    "largest_shares",
    "replace_attention",
    "spectral_penalty",
]
