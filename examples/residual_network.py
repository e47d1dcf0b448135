"""A residual network written layer by layer: python examples/residual_network.py FOLDER [--depth 3].

6 * depth + 2 layers for 32x32 images, as in He et al. (2015), section 4.2. A layer called on the output of another
makes a network that need not be a chain; `x + y` adds.
"""

import argparse

import clconv as cc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="CIFAR-10's binary files, or folders of images")
parser.add_argument("--depth", type=int, default=3, help="blocks per stage: 3 makes ResNet-20")
parser.add_argument("--images", type=int, help="train on a random part of so many only")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()


def conv_bn(x, filters, stride=1):
    """3x3 convolution and batch normalisation; at stride 2 the size halves, whose last window the padding fills."""
    pad = 1 if stride == 1 else ((0, 1), (0, 1))
    return cc.BatchNorm()(cc.Conv(filters, 3, stride, pad, bias=False)(x))


def block(x, filters, stride):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""
    y = cc.ReLU()(conv_bn(x, filters, stride))
    y = conv_bn(y, filters)
    if x.shape != y.shape:
        x = cc.BatchNorm()(cc.Conv(filters, 1, stride, bias=False, rounding="floor")(x))
    return cc.ReLU()(x + y)


train, test = cc.data.open_dataset(args.folder)
if args.images and args.images < len(train):
    _, train = cc.data.split(train, args.images / len(train), seed=args.seed)

x = cc.ReLU()(conv_bn(cc.Input(*train.shape), 16))
for stage, filters in enumerate((16, 32, 64)):
    for index in range(args.depth):
        x = block(x, filters, stride=2 if stage and index == 0 else 1)
x = cc.FC(train.class_count)(cc.GlobalAvgPool()(x))

with cc.Net(x, seed=args.seed) as net:
    net.normalization = cc.Normalization.of(train)
    optimizer, schedule = cc.SGD(0.1, momentum=0.9, weight_decay=1e-4), cc.Cosine(warmup=100)
    changes = cc.Augmentation(crop_pad=4, flip=True)
    settings = {"optimizer": optimizer, "schedule": schedule, "augmentation": changes, "seed": args.seed}
    net.fit(train, epochs=args.epochs, batch_size=min(128, len(train)), validation=test, **settings)
    net.summary(batch=128)
    net.save("residual.safetensors")
