"""Train a side network in plain PyTorch: no settings, no Fabric, no run folder.

    python examples/train_by_hand.py clips/ side.safetensors [epochs]

`clips/` is a folder of class folders.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from side4video import VideoClassifier, create_backbone
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import make_eval_loader, make_train_loader
from side4video.data.manifest import read_manifest, split_manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import PixelFormat, TestTransform, TrainTransform
from side4video.side import SideSpec


def main(clips: str, weights: str, epochs: int) -> None:
    """Train on 80 % of the clips, print the accuracy on the rest after every epoch, save what was trained."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = create_backbone("tiny-clip", device=device)
    wanted = backbone.preprocessing
    train, val = split_manifest(read_manifest(clips), fraction=0.2, seed=0)
    model = VideoClassifier(backbone, train.num_classes, side=SideSpec(width=128)).to(device)

    pixels = PixelFormat(wanted.image_size, wanted.mean, wanted.std, wanted.interpolation)
    sampler = FrameSampler("segment", num_frames=8)
    train_set = ClipDataset(train, sampler=sampler, transform=TrainTransform(pixels, crop_area=(0.6, 1.0)))
    val_set = ClipDataset(val, sampler=sampler, transform=TestTransform(pixels), mode="val")
    train_loader = make_train_loader(train_set, batch_size=min(16, len(train)))
    val_loader = make_eval_loader(val_set, batch_size=16)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.15)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * len(train_loader))
    for epoch in range(epochs):
        model.train()  # the backbone stays in eval mode by itself
        train_loader.seek(epoch)
        for batch in train_loader:
            loss = cross_entropy(model(batch.clip_BTCHW.to(device)), batch.labels_B.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(b.clip_BTCHW.to(device)).argmax(1).cpu() == b.labels_B).sum()) for b in val_loader)
        print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}  validation top-1 {right / len(val):.1%}")
    save_file({name: value.contiguous() for name, value in model.trainable_state().items()}, weights)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 10)
