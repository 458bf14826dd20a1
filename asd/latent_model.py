"""What the two stages need of a latent diffusion model that knows its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .canvas_file import Enlarged, Sink
    from .sampling import Predictor
    from .seamless import SeamlessAxes


class LatentModel(Protocol):
    """A denoising network with its prompt and guidance, an autoencoder and a scheduler.

    Attributes:
        network: the denoiser; `asd.two_stage` puts it in `Seamless`.
        scheduler: any of diffusers'.
        factor: pixels along a latent cell.
        multiple: latent cells; on a torus no wider than a tile, sides must be multiples of it.
        channels: of the latents.
        tile: side, in latent cells, of the images that the network was trained on.
        count: images that the prompt asks for.
    """

    network: nn.Module
    scheduler: Any
    factor: int
    multiple: int
    channels: int
    tile: int
    count: int

    @property
    def device(self) -> torch.device:
        """Where the latents of a run lie."""
        ...

    def predictor(self, canvas: tuple[int, int], seamless: SeamlessAxes) -> Predictor:
        """The network with prompt and guidance, for tiles of a canvas of (height, width) latent cells."""
        ...

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        """Latents as the network takes them, of images (N, 3, H, W) in [-1, 1] whose sides `factor` divides."""
        ...

    def encode_from(self, source: Enlarged, seamless: SeamlessAxes) -> Tensor:
        """`encode` of a picture that is read in rectangles."""
        ...

    def decode_into(self, latents: Tensor, sink: Sink, seamless: SeamlessAxes) -> None:
        """`decode` of one image (1, C, h, w), handed on tile by tile."""
        ...

    def decode(self, latents: Tensor, seamless: SeamlessAxes) -> Tensor:
        """Images (N, 3, H, W), float32 on the CPU, about [-1, 1]."""
        ...
