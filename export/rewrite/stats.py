from collections import Counter
from dataclasses import dataclass
import onnx_ir as ir
@dataclass
class GraphStats:
    nodes: int
    ops: dict
    max_rank: int
def graph_stats(model):
    ops = Counter(n.op_type for n in model.graph if n.op_type != 'Constant')
    return GraphStats(sum(ops.values()), dict(ops), max((len(v.shape) for n in model.graph for v in n.outputs if v.shape is not None), default=0))
