"""Trains on CIFAR-10: python examples/cifar10.py FOLDER, CIFAR-10's binary files or train/CLASS/*, test/CLASS/*.

The network of the CS231n notes' pattern with random crops and flips; a checkpoint after each epoch, so that
Ctrl-C and the same command again with --resume end with the same bits.
"""

import argparse

import clconv as cc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("--images", type=int, help="train on a random part of so many only")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
parser.add_argument("--out", default="cifar10.safetensors")
args = parser.parse_args()

train, test = cc.data.open_dataset(args.folder)
if test is None:
    train, test = cc.data.split(train, 0.2, seed=args.seed)
if args.images and args.images < len(train):
    _, train = cc.data.split(train, args.images / len(train), seed=args.seed)

with cc.zoo.cifar_net(train.class_count, seed=args.seed) as net:
    net.normalization = cc.Normalization.of(train)
    net.metadata["classes"] = train.classes
    history = net.fit(
        train,
        epochs=args.epochs,
        batch_size=128,
        optimizer=cc.SGD(0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=cc.Cosine(),
        augmentation=cc.Augmentation(crop_pad=4, flip=True),
        validation=test,
        seed=args.seed,
        checkpoint=f"{args.out}.checkpoint",
        resume=args.resume,
    )
    if history.interrupted:
        raise SystemExit("interrupted; --resume goes on")
    print(f"test accuracy {net.evaluate(test)['accuracy']:.2%}")
    net.save(args.out)
    print(f"wrote {args.out}; try: clconv predict {args.out} IMAGE")
