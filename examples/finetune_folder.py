"""Fine-tunes a trained network on pictures of your own: python examples/finetune_folder.py MODEL FOLDER.

FOLDER holds one folder of pictures for each class. The last fully-connected layer makes room for one with as many
outputs as there are classes; all other layers start with the weights they have.
"""

import argparse
from dataclasses import replace

import clconv as cc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a file that net.save or clconv train wrote")
parser.add_argument("folder")
parser.add_argument("--images", type=int, help="use a random part of so many only")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="finetuned.safetensors")
args = parser.parse_args()

trained = cc.load(args.model)
channels, *size = trained.network.input_shape
pictures = cc.data.ImageFolder(args.folder, tuple(size), channels=channels, damaged="skip")
train, held_out = cc.data.split(pictures, 0.2, seed=args.seed)
if args.images and args.images < len(train):
    _, train = cc.data.split(train, args.images / len(train), seed=args.seed)

*body, head = trained.network.entries
if not isinstance(head.layer, cc.FC):
    raise SystemExit(f"the last layer of {args.model} is {type(head.layer).__name__}; FC is expected")
new_head = replace(head, layer=replace(head.layer, units=pictures.class_count))
network = replace(trained.network, entries=(*body, new_head))

with cc.Net(network, seed=args.seed) as net:
    kept = {n: array for n, array in trained.get_weights().items() if n.rpartition(".")[0] != head.name}
    net.set_weights(kept)
    net.normalization = trained.normalization  # the weights were trained on images in this range
    net.metadata["classes"] = pictures.classes
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
