"""Trains on MNIST (or Fashion-MNIST): python examples/mnist.py FOLDER, the folder with the four IDX files.

Four convolutions and two fully-connected layers; about 99 % of the test images after four epochs.
"""

import argparse

import clconv as cc

PATTERN = "INPUT 28x28x1 -> [[CONV 3x3x32 -> RELU]*2 -> POOL]*2 -> [FC 128 -> RELU] -> FC 10"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="holds train-images-idx3-ubyte and the others, gzipped or not")
parser.add_argument("--images", type=int, help="train on the first so many only")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="mnist.safetensors")
args = parser.parse_args()

train, test = cc.data.mnist(args.folder), cc.data.mnist(args.folder, train=False)
if args.images:
    train = cc.data.Subset(train, range(min(args.images, len(train))))

with cc.Net(PATTERN, seed=args.seed) as net:
    net.normalization = cc.Normalization.of(train)
    net.metadata["classes"] = train.classes
    net.fit(
        train,
        epochs=args.epochs,
        batch_size=64,
        optimizer=cc.SGD(0.02, momentum=0.9, nesterov=True),
        schedule=cc.Cosine(),
        validation=test,
        seed=args.seed,
    )
    print(f"test accuracy {net.evaluate(test)['accuracy']:.2%}")
    net.summary(batch=64)
    net.plot_filters("conv1", "filters.png")
    net.save(args.out)
    print(f"wrote {args.out} and filters.png")
