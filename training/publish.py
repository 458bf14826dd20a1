"""Write the diffusers folders that ship.

    python -m training.publish --vae DIR --unet FILE --text DIR
    python -m training.publish --upscaler FILE
    python -m training.publish --few FILE
    python -m training.publish --detail FILE
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from asd.texture_enlarge import WEIGHTS as UPSCALER_WEIGHTS
from asd.texture_upscaler import load_file as load_upscaler_file
from materials.detail import Detailer
from materials.few_steps import FILE, packed_changes
from training.models import new_unet

from diffusers import DPMSolverMultistepScheduler  # isort: skip - training.models guards it
from transformers import AutoTokenizer  # isort: skip - as above

WEIGHTS = Path(__file__).parents[1] / "materials" / "weights"


def new_scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ 2M (Lu et al. 2022) on the flow's noise levels, shifted to where layout and colour form."""
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def publish(vae: Path, unet: Path, text: Path, target: Path) -> None:
    """Write `target`: vae, unet (fp16), text_encoder, tokenizer, scheduler and model_index.json."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (target / "vae").mkdir(exist_ok=True)
        shutil.copyfile(vae / name, target / "vae" / name)
    network = new_unet()
    network.load_state_dict({k: v.float() for k, v in load_file(unet).items()})
    network.half().save_pretrained(target / "unet")
    (target / "text_encoder").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(text / name, target / "text_encoder" / name)
    AutoTokenizer.from_pretrained(text).save_pretrained(target / "tokenizer")
    new_scheduler().save_pretrained(target / "scheduler")
    index = {
        "_class_name": "MaterialPipeline",
        "_diffusers_version": "0.38.0",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "BertTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def publish_upscaler(file: Path, target: Path) -> None:
    """Write `target`: config.json and fp16 weights of a file of `training.upscaler`."""
    load_upscaler_file(file).half().save_pretrained(target)


def publish_detail(file: Path, target: Path) -> None:
    """Write `target`: config.json and fp16 weights of a file of `training.detail`."""
    network = Detailer()
    network.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    network.half().save_pretrained(target)


def publish_few(student: Path, unet: Path, target: Path) -> None:
    """Write `target`: what leads from the weights in the folder `unet` to a file of `training.distill`."""
    target.mkdir(parents=True, exist_ok=True)
    before = load_file(unet / "diffusion_pytorch_model.safetensors")
    save_file(packed_changes(before, load_file(student)), target / FILE, {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--unet", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--upscaler", type=Path)
    parser.add_argument("--detail", type=Path)
    parser.add_argument("--few", type=Path, help="a student of the U-Net that is published")
    parser.add_argument("--target", type=Path, help="by default where the package looks for it")
    args = parser.parse_args()
    if args.upscaler:
        publish_upscaler(args.upscaler, args.target or UPSCALER_WEIGHTS)
    elif args.few:
        publish_few(args.few, WEIGHTS / "unet", args.target or WEIGHTS / "few")
    elif args.detail:
        publish_detail(args.detail, args.target or WEIGHTS / "detail")
    elif args.vae and args.unet and args.text:
        publish(args.vae, args.unet, args.text, args.target or WEIGHTS)
    else:
        parser.error("expected --vae, --unet and --text, --upscaler, --few, or --detail")


if __name__ == "__main__":
    main()
