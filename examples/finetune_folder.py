"""Fine-tunes a trained network on pictures of your own: python examples/finetune_folder.py MODEL FOLDER.

FOLDER holds one folder of pictures for each class. The last layer with weights makes room for one with as many outputs
as there are classes; all other layers start with the weights they have.
"""

import argparse

import clconv as cc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a file that net.save or clconv train wrote")
parser.add_argument("folder")
parser.add_argument("--images", type=int, help="use a random part of so many only")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="finetuned.safetensors")
args = parser.parse_args()

with cc.load(args.model) as net:
    channels, *size = net.network.input_shape
    pictures = cc.data.ImageFolder(args.folder, tuple(size), channels=channels, damaged="skip")
    train, held_out = cc.data.split(pictures, 0.2, seed=args.seed)
    if args.images and args.images < len(train):
        _, train = cc.data.split(train, args.images / len(train), seed=args.seed)
    net.replace_head(pictures.class_count, seed=args.seed)
    net.metadata["classes"] = pictures.classes
    # The model's normalisation stays: its weights were trained on images in that range.
    net.fit(
        train,
        epochs=args.epochs,
        batch_size=min(32, len(train)),
        optimizer=cc.SGD(0.002, momentum=0.9),
        augmentation=cc.Augmentation(flip=True),
        validation=held_out,
        seed=args.seed,
    )
    net.save(args.out)
    print(f"{len(pictures.classes)} classes: {', '.join(pictures.classes)}; wrote {args.out}")
