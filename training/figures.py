"""Train the profile part of the tileability network without a GPU: figures of views are kept, then read many times.

    python -m training.figures make --packs DIR --out FOLDER --minutes 10 [--seed 1]
    python -m training.figures fit --figures FOLDER --out FILE --minutes 15 [--resume FILE] [--judge FILE]

The figures of a view (`textile_metric.profile`) have no weights, so that they are made once. What reads them is small.
The two opinions are weighed afterwards: `python -m training.tileability --resume FILE --minutes 0.0001` (and its other
options) takes one step at a hundredth of the rate and calibrates.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textile_metric.network import TileNet
from textile_metric.profile import profiles
from training.breaks import KINDS, Views
from training.curve import auc
from training.loop import Average, say
from training.tileability import PLACED, Sources, drawn_size, profile_losses

BATCH = 32
"""Views of 192 x 192 or smaller in a file; larger ones come in smaller numbers."""
HELD = 8
"""Every so many-th file is of held-out sources."""
LARGEST = 384


def make(args: argparse.Namespace) -> None:
    """Draw views until the time is up; a file holds the figures of one batch, of one size, with its truth."""
    args.out.mkdir(parents=True, exist_ok=True)
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    sources = Sources(args.packs, torch.device("cpu"), each=args.each, seed=1, limit=args.limit)
    say("sources ready")
    end, count = time.monotonic() + 60 * args.minutes, 0
    while time.monotonic() < end:
        size = drawn_size(rng, LARGEST)
        n = max(4, min(BATCH, BATCH * 192 * 192 // (size[0] * size[1])))
        held = count % HELD == 0
        views = sources.draw(size, n, generator, held=held)
        columns, rows = profiles(views.images)
        save_file(
            {
                "columns": columns.half(), "rows": rows.half(), "tiles": views.tiles.half(), "kinds": views.kinds,
                "seams": views.seams.contiguous(),
            },
            args.out / f"{'held' if held else 'train'}-{args.seed}-{count:05d}.safetensors",
        )  # fmt: skip
        count += 1
        if count % 50 == 0:
            say(f"{count} batches")


def _views(found: dict[str, Tensor]) -> Views:
    """The truth without the pictures."""
    return Views(torch.empty(0), found["tiles"].float(), found["kinds"], found["seams"])


def fit(args: argparse.Namespace) -> None:
    """Read the kept figures again and again; prints what the held-out ones say, saves averaged weights."""
    torch.manual_seed(1)
    files = sorted(args.figures.glob("train-*.safetensors"))
    kept = [load_file(file) for file in files]
    held = [load_file(file) for file in sorted(args.figures.glob("held-*.safetensors"))]
    say(f"{sum(len(f['tiles']) for f in kept)} views, {sum(len(f['tiles']) for f in held)} held out")
    net = TileNet()
    if args.resume:
        net.load_state_dict({k: v.float() for k, v in load_file(args.resume).items()}, strict=False)
    if args.judge:
        theirs = {k: v.float() for k, v in load_file(args.judge).items() if k.startswith("judge.")}
        net.load_state_dict(theirs, strict=False)
    own = [p for name, p in net.named_parameters() if not name.startswith("judge.")]
    optimiser = torch.optim.AdamW(own, args.rate, betas=(0.9, 0.98), weight_decay=2e-2)
    average = Average(net, 0.998)
    began, step, total = time.monotonic(), 0, 60 * args.minutes
    recent: list[float] = []
    while (passed := time.monotonic() - began) < total:
        found = kept[int(torch.randint(len(kept), ()))]
        views = _views(found)
        columns, rows = found["columns"].float(), found["rows"].float()
        # seen from the other side: steps have no sign, and stand for the border left of their column
        if step % 2:
            columns, rows = columns.flip(2).roll(1, 2), rows.flip(2).roll(1, 2)
            views = Views(views.images, views.tiles, views.kinds, _turned(views.seams, columns, rows))
        verdict, missed = profile_losses(net.read(columns), net.read(rows), views)
        optimiser.zero_grad(set_to_none=True)
        (verdict + PLACED * missed).backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, step / 200, 2 * (1 - passed / total) + 0.01)
        optimiser.step()
        average.update(net)
        recent.append(float(verdict.detach()))
        step += 1
        if step % 500 == 0:
            say(f"step {step}, {step / passed:.1f} a second, loss {sum(recent) / len(recent):.4f}")
            recent.clear()
            if step % 2000 == 0:
                with average.applied(net):
                    judge_by(net, held)
    average.copy_to(net)
    judge_by(net, held)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, args.out)


def _turned(seams: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Borders' places after a flip."""
    lengths = torch.tensor([columns.shape[2], rows.shape[2]])
    return (lengths - seams) % lengths


@torch.no_grad()
def judge_by(net: TileNet, held: list[dict[str, Tensor]]) -> None:
    """Print the held-out AUC of all kinds and of each."""
    scores, tiles, kinds, hits = [], [], [], []
    for found in held:
        lines = [net.read(found[name].float()) for name in ("columns", "rows")]
        scores.append(-torch.stack([line.logsumexp(1) for line in lines], 1))
        tiles.append(found["tiles"].float())
        kinds.append(found["kinds"][:, None].expand(-1, 2))
        worst = torch.stack([line.argmax(1) for line in lines], 1)
        lengths = torch.tensor([line.shape[1] for line in lines])
        apart = (worst - found["seams"]).abs()
        hits.append(torch.minimum(apart, lengths - apart) <= 0.03 * lengths)
    score, truth, kind, hit = (torch.cat(each) for each in (scores, tiles, kinds, hits))
    good = score[truth == 1]
    told = [f"all {auc(score[truth == 0], good):.4f}"]
    for number, name in enumerate(KINDS):
        chosen = (truth == 0) & (kind == number)
        if bool(chosen.any()):
            told.append(f"{name} {auc(score[chosen], good):.3f} ({float(hit[chosen].float().mean()):.2f} in place)")
    say("held out: " + ", ".join(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    made = kinds.add_parser("make", help="draw views and keep their figures")
    made.add_argument("--packs", type=Path, required=True)
    made.add_argument("--each", type=int, default=8, help="procedural sources of each family and side")
    made.add_argument("--limit", type=int, help="use only so many real textures (for a smoke test)")
    made.add_argument("--seed", type=int, default=1)
    made.set_defaults(run=make)
    fitted = kinds.add_parser("fit", help="train on kept figures")
    fitted.add_argument("--figures", type=Path, required=True)
    fitted.add_argument("--resume", type=Path, help="safetensors file to start from")
    fitted.add_argument("--judge", type=Path, help="safetensors file of any version, to take its judge from")
    fitted.add_argument("--rate", type=float, default=2e-3)
    fitted.set_defaults(run=fit)
    for each in (made, fitted):
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
