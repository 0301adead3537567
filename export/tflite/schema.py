"""The TFLite schema, version 3, file identifier ``TFL3``.

The facts are those of ``schema.fbs`` of LiteRT (google-ai-edge/LiteRT, formerly TensorFlow Lite):
slots of the tables, codes of the operators, which table of options an operator has.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from edgec.export.tflite.fields import ENUMS, Field, tables
from edgec.export.tflite.options import OPTIONS, OPTIONS_2

IDENTIFIER: Final = b"TFL3"
VERSION: Final = 3

TABLES: Final = tables(
    {
        "Model": (
            "version:uint32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string "
            "buffers:[Buffer] metadata_buffer:[int32] metadata:[Metadata] "
            "signature_defs:[SignatureDef] external_buffer_groups:[ExternalBufferGroup] "
            "external_buffers:[ExternalBuffer]"
        ),
        "OperatorCode": (
            "deprecated_builtin_code:int8 custom_code:string version:int32=1 builtin_code:int32"
        ),
        "SubGraph": (
            "tensors:[Tensor] inputs:[int32] outputs:[int32] operators:[Operator] name:string "
            "debug_metadata_index:int32=-1"
        ),
        "Tensor": (
            "shape:[int32] type:TensorType buffer:uint32 name:string "
            "quantization:QuantizationParameters is_variable:bool sparsity:SparsityParameters "
            "shape_signature:[int32] has_rank:bool variant_tensors:[VariantSubType] "
            "external_buffer:uint32"
        ),
        "QuantizationParameters": (
            "min:[float32] max:[float32] scale:[float32] zero_point:[int64] "
            "details_type:QuantizationDetails details:union quantized_dimension:int32"
        ),
        "SparsityParameters": (
            "traversal_order:[int32] block_map:[int32] dim_metadata:[DimensionMetadata]"
        ),
        "DimensionMetadata": "format:int8 dense_size:int32",  # its further slots are not needed
        "VariantSubType": "shape:[int32] type:TensorType has_rank:bool",
        "Operator": (
            "opcode_index:uint32 inputs:[int32] outputs:[int32] builtin_options_type:uint8 "
            "builtin_options:union custom_options:[uint8] "
            "custom_options_format:CustomOptionsFormat mutating_variable_inputs:[bool] "
            "intermediates:[int32] large_custom_options_offset:uint64 "
            "large_custom_options_size:uint64 builtin_options_2_type:uint8 "
            "builtin_options_2:union debug_metadata_index:int32=-1"
        ),
        "Buffer": "data:[uint8] offset:uint64 size:uint64",
        "ExternalBufferGroup": "name:string",
        "ExternalBuffer": "id:uint32 group:uint32 offset:uint64 length:uint64 packing:string",
        "Metadata": "name:string buffer:uint32",
        "TensorMap": "name:string tensor_index:uint32",
        "SignatureDef": (
            "inputs:[TensorMap] outputs:[TensorMap] signature_key:string - subgraph_index:uint32"
        ),
    }
)
"""The structural tables."""

UNION: Final[dict[str, int]] = {name: code for code, name in enumerate(OPTIONS, 1)}
"""Number of an options table in the union ``BuiltinOptions``."""

UNION_2: Final[dict[str, int]] = {name: code for code, name in enumerate(OPTIONS_2, 1)}
"""Number of an options table in the union ``BuiltinOptions2``."""

_OPERATORS = """
ADD:AddOptions AVERAGE_POOL_2D:Pool2DOptions CONCATENATION:ConcatenationOptions
CONV_2D:Conv2DOptions DEPTHWISE_CONV_2D:DepthwiseConv2DOptions
DEPTH_TO_SPACE:DepthToSpaceOptions DEQUANTIZE:DequantizeOptions EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED:FullyConnectedOptions HASHTABLE_LOOKUP L2_NORMALIZATION:L2NormOptions
L2_POOL_2D:Pool2DOptions LOCAL_RESPONSE_NORMALIZATION:LocalResponseNormalizationOptions
LOGISTIC LSH_PROJECTION:LSHProjectionOptions LSTM:LSTMOptions MAX_POOL_2D:Pool2DOptions
MUL:MulOptions RELU RELU_N1_TO_1 RELU6 RESHAPE:ReshapeOptions
RESIZE_BILINEAR:ResizeBilinearOptions RNN:RNNOptions SOFTMAX:SoftmaxOptions
SPACE_TO_DEPTH:SpaceToDepthOptions SVDF:SVDFOptions TANH
CONCAT_EMBEDDINGS:ConcatEmbeddingsOptions SKIP_GRAM:SkipGramOptions CALL:CallOptions CUSTOM
EMBEDDING_LOOKUP_SPARSE:EmbeddingLookupSparseOptions PAD:PadOptions
UNIDIRECTIONAL_SEQUENCE_RNN:SequenceRNNOptions GATHER:GatherOptions
BATCH_TO_SPACE_ND:BatchToSpaceNDOptions SPACE_TO_BATCH_ND:SpaceToBatchNDOptions
TRANSPOSE:TransposeOptions MEAN:ReducerOptions SUB:SubOptions DIV:DivOptions
SQUEEZE:SqueezeOptions UNIDIRECTIONAL_SEQUENCE_LSTM:UnidirectionalSequenceLSTMOptions
STRIDED_SLICE:StridedSliceOptions BIDIRECTIONAL_SEQUENCE_RNN:BidirectionalSequenceRNNOptions
EXP:ExpOptions TOPK_V2:TopKV2Options SPLIT:SplitOptions LOG_SOFTMAX:LogSoftmaxOptions
DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM:BidirectionalSequenceLSTMOptions CAST:CastOptions PRELU
MAXIMUM:MaximumMinimumOptions ARG_MAX:ArgMaxOptions MINIMUM:MaximumMinimumOptions
LESS:LessOptions NEG:NegOptions PADV2:PadV2Options GREATER:GreaterOptions
GREATER_EQUAL:GreaterEqualOptions LESS_EQUAL:LessEqualOptions SELECT:SelectOptions
SLICE:SliceOptions SIN TRANSPOSE_CONV:TransposeConvOptions
SPARSE_TO_DENSE:SparseToDenseOptions TILE:TileOptions EXPAND_DIMS:ExpandDimsOptions
EQUAL:EqualOptions NOT_EQUAL:NotEqualOptions LOG SUM:ReducerOptions SQRT RSQRT
SHAPE:ShapeOptions POW:PowOptions ARG_MIN:ArgMinOptions FAKE_QUANT:FakeQuantOptions
REDUCE_PROD:ReducerOptions REDUCE_MAX:ReducerOptions PACK:PackOptions
LOGICAL_OR:LogicalOrOptions ONE_HOT:OneHotOptions LOGICAL_AND:LogicalAndOptions
LOGICAL_NOT:LogicalNotOptions UNPACK:UnpackOptions REDUCE_MIN:ReducerOptions
FLOOR_DIV:FloorDivOptions REDUCE_ANY:ReducerOptions SQUARE:SquareOptions
ZEROS_LIKE:ZerosLikeOptions FILL:FillOptions FLOOR_MOD:FloorModOptions RANGE:RangeOptions
RESIZE_NEAREST_NEIGHBOR:ResizeNearestNeighborOptions LEAKY_RELU:LeakyReluOptions
SQUARED_DIFFERENCE:SquaredDifferenceOptions MIRROR_PAD:MirrorPadOptions ABS:AbsOptions
SPLIT_V:SplitVOptions UNIQUE:UniqueOptions CEIL REVERSE_V2:ReverseV2Options
ADD_N:AddNOptions GATHER_ND:GatherNdOptions COS:CosOptions WHERE:WhereOptions
RANK:RankOptions ELU REVERSE_SEQUENCE:ReverseSequenceOptions MATRIX_DIAG:MatrixDiagOptions
QUANTIZE:QuantizeOptions MATRIX_SET_DIAG:MatrixSetDiagOptions ROUND
HARD_SWISH:HardSwishOptions IF:IfOptions WHILE:WhileOptions
NON_MAX_SUPPRESSION_V4:NonMaxSuppressionV4Options
NON_MAX_SUPPRESSION_V5:NonMaxSuppressionV5Options SCATTER_ND:ScatterNdOptions
SELECT_V2:SelectV2Options DENSIFY:DensifyOptions SEGMENT_SUM:SegmentSumOptions
BATCH_MATMUL:BatchMatMulOptions PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM:CumsumOptions
CALL_ONCE:CallOnceOptions BROADCAST_TO:BroadcastToOptions RFFT2D:Rfft2dOptions
CONV_3D:Conv3DOptions IMAG REAL COMPLEX_ABS HASHTABLE:HashtableOptions
HASHTABLE_FIND:HashtableFindOptions HASHTABLE_IMPORT:HashtableImportOptions
HASHTABLE_SIZE:HashtableSizeOptions REDUCE_ALL:ReducerOptions
CONV_3D_TRANSPOSE:Conv3DOptions VAR_HANDLE:VarHandleOptions
READ_VARIABLE:ReadVariableOptions ASSIGN_VARIABLE:AssignVariableOptions BROADCAST_ARGS
RANDOM_STANDARD_NORMAL:RandomOptions BUCKETIZE:BucketizeOptions RANDOM_UNIFORM:RandomOptions
MULTINOMIAL:RandomOptions GELU:GeluOptions DYNAMIC_UPDATE_SLICE:DynamicUpdateSliceOptions
RELU_0_TO_1 UNSORTED_SEGMENT_PROD:UnsortedSegmentProdOptions
UNSORTED_SEGMENT_MAX:UnsortedSegmentMaxOptions
UNSORTED_SEGMENT_SUM:UnsortedSegmentSumOptions ATAN2:ATan2Options
UNSORTED_SEGMENT_MIN:UnsortedSegmentMinOptions SIGN:SignOptions BITCAST:BitcastOptions
BITWISE_XOR:BitwiseXorOptions RIGHT_SHIFT:RightShiftOptions STABLEHLO_LOGISTIC STABLEHLO_ADD
STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
STABLEHLO_CONCATENATE:StablehloConcatenateOptions
STABLEHLO_BROADCAST_IN_DIM:StablehloBroadcastInDimOptions
STABLEHLO_CONVOLUTION:StablehloConvolutionOptions STABLEHLO_SLICE:StablehloSliceOptions
STABLEHLO_CUSTOM_CALL:StablehloCustomCallOptions STABLEHLO_REDUCE:StablehloReduceOptions
STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR
STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER
STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH
STABLEHLO_SCATTER:StablehloScatterOptions STABLEHLO_COMPARE:StablehloCompareOptions
STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE:StablehloDynamicSliceOptions
STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD:StablehloPadOptions
STABLEHLO_IOTA:StablehloIotaOptions STABLEHLO_DOT_GENERAL:StablehloDotGeneralOptions
STABLEHLO_REDUCE_WINDOW:StablehloReduceWindowOptions STABLEHLO_SORT:StablehloSortOptions
STABLEHLO_WHILE:StablehloWhileOptions STABLEHLO_GATHER:StablehloGatherOptions
STABLEHLO_TRANSPOSE:StablehloTransposeOptions DILATE:DilateOptions
STABLEHLO_RNG_BIT_GENERATOR:StablehloRngBitGeneratorOptions
REDUCE_WINDOW:ReduceWindowOptions STABLEHLO_COMPOSITE:StableHLOCompositeOptions
STABLEHLO_SHIFT_LEFT:StablehloShiftLeftOptions STABLEHLO_CBRT
STABLEHLO_CASE:StablehloCaseOptions
"""

OPERATORS: Final[dict[str, str | None]] = {
    name: table or None for name, _, table in (entry.partition(":") for entry in _OPERATORS.split())
}
"""The builtin operators in the order of their codes, each with its table of options, if any."""

CODES: Final[dict[str, int]] = {name: code for code, name in enumerate(OPERATORS)}
NAMES: Final[tuple[str, ...]] = tuple(OPERATORS)

PLACEHOLDER: Final = 127
"""``deprecated_builtin_code`` of operators whose code does not fit into it."""

_DTYPES = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "INT32": "<i4",
    "UINT8": "|u1",
    "INT64": "<i8",
    "BOOL": "|b1",
    "INT16": "<i2",
    "COMPLEX64": "<c8",
    "INT8": "|i1",
    "FLOAT64": "<f8",
    "COMPLEX128": "<c16",
    "UINT64": "<u8",
    "UINT32": "<u4",
    "UINT16": "<u2",
    "INT4": "|i1",
    "INT2": "|i1",
    "UINT4": "|u1",
    "BFLOAT16": "<u2",
    "FLOAT8_E4M3FN": "|u1",
    "FLOAT8_E5M2": "|u1",
    "STRING": "|u1",
    "RESOURCE": "|u1",
    "VARIANT": "|u1",
}

DTYPES: Final[dict[str, np.dtype[Any]]] = {name: np.dtype(code) for name, code in _DTYPES.items()}
"""How `Tensor.data` holds each tensor type: sub-byte integers one to a byte, float types that numpy
lacks as their bits, STRING, RESOURCE and VARIANT as the bytes of the buffer."""

BITS: Final[dict[str, int]] = {"INT4": 4, "UINT4": 4, "INT2": 2}
"""Width of the types that are packed, first element in the lowest bits of a byte."""

OPAQUE: Final = ("STRING", "RESOURCE", "VARIANT")
"""Types whose bytes do not follow from their shape."""


def tensor_type(dtype: np.dtype[Any]) -> str:
    """Name of the tensor type of a numpy dtype.

    Raises:
        KeyError: TFLite has no such type.
    """
    return _BY_DTYPE[np.dtype(dtype).newbyteorder("<")]


_BY_DTYPE = {
    DTYPES[name]: name
    for name in (
        "FLOAT32 FLOAT16 INT32 UINT8 INT64 BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64 "
        "UINT32 UINT16"
    ).split()
}


def option_fields(code: str) -> tuple[Field, ...]:
    """Fields of an operator's options; none for operators without a table."""
    table = OPERATORS[code]
    if table is None:
        return ()
    return OPTIONS[table] if table in OPTIONS else OPTIONS_2[table]


def default_options(code: str) -> dict[str, Any]:
    """What an operator's absent options stand for; None for vectors and strings."""
    return {field.name: default(field) for field in option_fields(code)}


def default(field: Field) -> Any:
    """Value of an absent field."""
    if field.kind == "enum":
        return ENUMS[field.type][1][int(field.default)]
    if field.kind == "scalar":
        if field.type == "bool":
            return bool(field.default)
        return float(field.default) if field.type == "float32" else field.default
    return None
