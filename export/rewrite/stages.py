"""The rewrite stage as ordered tuples of passes.

Order matters: operators that exporters spell out are recognised before folding breaks their
patterns (a simplifier that folds the ``× 0.5`` of an erf-GELU into the next convolution has lost
the GELU for good), views are canonical before they are composed, and whatever a target or opset
lacks is decomposed only after nothing needs to recognise it any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from edgec.export.rewrite.base import RewritePass
from edgec.export.rewrite.canonicalise.drop_expand import DropExpand
from edgec.export.rewrite.canonicalise.einsum import LowerEinsum
from edgec.export.rewrite.canonicalise.fold_constants import FoldConstants
from edgec.export.rewrite.canonicalise.gather_view import GatherToView
from edgec.export.rewrite.canonicalise.lift_constants import LiftConstants
from edgec.export.rewrite.canonicalise.no_op import RemoveNoOps
from edgec.export.rewrite.canonicalise.share_common import ShareCommon
from edgec.export.rewrite.canonicalise.split_sequences import SplitSequences
from edgec.export.rewrite.canonicalise.static_cast import StaticCast
from edgec.export.rewrite.canonicalise.static_reshape import StaticReshape
from edgec.export.rewrite.channels.remove_channels import RemoveChannels
from edgec.export.rewrite.clean.dead_code import RemoveDeadCode
from edgec.export.rewrite.clean.name_values import NameValues
from edgec.export.rewrite.fold.affine_backward import FoldAffineBackward
from edgec.export.rewrite.fold.affine_forward import FoldAffineForward
from edgec.export.rewrite.fold.attention_bias import FoldAttentionBias
from edgec.export.rewrite.fold.attention_scale import PlaceAttentionScale
from edgec.export.rewrite.fold.compose_views import ComposeViews
from edgec.export.rewrite.fold.linear_chains import MergeLinearChains
from edgec.export.rewrite.fold.merge_branches import MergeBranches
from edgec.export.rewrite.fold.merge_parallel import MergeParallel
from edgec.export.rewrite.fold.merge_slices import MergeSlices
from edgec.export.rewrite.fold.split_projections import SplitProjections
from edgec.export.rewrite.fold.transposed_reduce import ReduceBeforeTranspose
from edgec.export.rewrite.inference import infer_shapes
from edgec.export.rewrite.legalise.flatten_tokens import FlattenTokens
from edgec.export.rewrite.legalise.opset import ConvertOpset
from edgec.export.rewrite.recognise.attention import RecogniseAttention
from edgec.export.rewrite.recognise.dynamic_relu import RecogniseDynamicRelu
from edgec.export.rewrite.recognise.gelu import RecogniseGelu
from edgec.export.rewrite.recognise.group_norm import RecogniseGroupNorm
from edgec.export.rewrite.recognise.hard_sigmoid import RecogniseHardSigmoid
from edgec.export.rewrite.recognise.hard_swish import RecogniseHardSwish
from edgec.export.rewrite.recognise.l2_norm import RecogniseL2Norm
from edgec.export.rewrite.recognise.layer_norm import RecogniseLayerNorm
from edgec.export.rewrite.recognise.operators import MarkOperators
from edgec.export.rewrite.recognise.pixel_shuffle import RecognisePixelShuffle
from edgec.export.rewrite.recognise.rms_norm import RecogniseRmsNorm
from edgec.export.rewrite.recognise.separable_attention import RecogniseSeparableAttention
from edgec.export.rewrite.recognise.sigmoid import RecogniseSigmoid
from edgec.export.rewrite.recognise.silu import RecogniseSilu
from edgec.export.rewrite.recognise.squeeze_excite import RecogniseSqueezeExcite
from edgec.export.rewrite.recognise.unfold import RecogniseUnfold


@dataclass(frozen=True)
class Stage:
    """An ordered tuple of passes; `repeat` runs it until nothing changes (at most so often)."""

    name: str
    passes: tuple[type[RewritePass], ...]
    repeat: int = 1


PREPARE = (LiftConstants, SplitSequences, StaticCast, LowerEinsum, RemoveNoOps, FoldConstants)
RECOGNISE = (
    RecogniseGelu,
    RecogniseSigmoid,
    RecogniseHardSigmoid,
    RecogniseHardSwish,
    RecogniseLayerNorm,
    RecogniseGroupNorm,
    RecogniseRmsNorm,
    RecogniseL2Norm,
    RecognisePixelShuffle,
    RecogniseSilu,
    MarkOperators,
    RecogniseAttention,
    RecogniseSeparableAttention,
    RecogniseSqueezeExcite,
    RecogniseDynamicRelu,
    RecogniseUnfold,
)
CANONICALISE = (StaticReshape, GatherToView, DropExpand, ShareCommon)
FOLD = (
    FoldAffineBackward,
    MergeParallel,
    MergeBranches,
    MergeLinearChains,
    SplitProjections,
    MergeSlices,
    ComposeViews,
    FoldAffineBackward,
    FoldAffineForward,
    ReduceBeforeTranspose,
    PlaceAttentionScale,
    FoldAttentionBias,
    ShareCommon,
)
CHANNELS = (RemoveChannels,)
LEGALISE = (FlattenTokens, ComposeViews, ConvertOpset)
CLEAN = (RemoveDeadCode, NameValues)

STAGES = (
    Stage("prepare", PREPARE, repeat=3),
    Stage("recognise", RECOGNISE),
    Stage("canonicalise", CANONICALISE, repeat=3),
    Stage("fold", FOLD, repeat=4),
    Stage("channels", CHANNELS),
    Stage("legalise", LEGALISE),
    Stage("clean", CLEAN),
)


def all_passes() -> Iterator[tuple[str, type[RewritePass]]]:
    """(stage name, pass class) in order of first appearance."""
    seen: set[str] = set()
    for stage in STAGES:
        for pass_class in stage.passes:
            if pass_class.name not in seen:
                seen.add(pass_class.name)
                yield stage.name, pass_class


def tidy(model: ir.Model) -> None:
    """What every capture ends with: constants as initializers, no no-ops, all shapes known."""
    infer_shapes(model)
    for _ in range(8):
        modified = False
        for pass_class in (*PREPARE, RemoveDeadCode):
            modified = pass_class()(model).modified or modified
        infer_shapes(model)
        if not modified:
            break
    common.NameFixPass()(model)
