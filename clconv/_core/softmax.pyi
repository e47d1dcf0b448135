
from .layer import Layer


class Softmax(Layer): ...

class SoftmaxGrad(Layer): ...
