from .layer import Layer
from .plain_elementwise import Binary, Unary
from .plain_move import DepthToSpace

class UnaryBlocks(Unary): ...
class BinaryBlocks(Binary): ...

class ChannelShuffle(Layer):
    groups: int
    def __init__(self, groups: int) -> None: ...

class DepthToSpaceBlocks(DepthToSpace): ...

class PadChannels(Layer):
    before: int
    after: int
    value: float
    def __init__(self, before: int, after: int, value: float = 0.0) -> None: ...

class Stored(Layer):
    layer: Layer
    def __init__(self, layer: Layer) -> None: ...
