"""`kernels.attention` inside diffusers models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from .choice import attention

if TYPE_CHECKING:
    from types import TracebackType

BACKEND = "zellige"
"""The name under which diffusers' dispatcher knows `attention` while a model that goes through it is installed."""


class Processor:
    """Attention processor of one `Attention` module: the contract of `AttnProcessor2_0`, computed by `attention`.

    Made without arguments, as diffusers does when it converts a model for an IP-Adapter.
    """

    follows_module = False
    """Whether scale and upcasting are the module's, as for `AttnProcessor`, and q and k norms aren't applied."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        image = x.shape if x.ndim == 4 else None
        if image is not None:
            x = x.flatten(2).transpose(1, 2)
        batch, keys = (x if encoder_hidden_states is None else encoder_hidden_states).shape[:2]
        mask = attn.prepare_attention_mask(attention_mask, keys, batch)
        if mask is not None:
            mask = mask.view(batch, attn.heads, -1, mask.shape[-1])
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x
        if encoder_hidden_states is not None:
            context = encoder_hidden_states
            if attn.norm_cross:
                context = attn.norm_encoder_hidden_states(context)
        q, k, v = (
            project(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project, tokens in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        made = self._attend(attn, q, k, v, mask)
        made = attn.to_out[0](made.transpose(1, 2).flatten(2))
        made = attn.to_out[1](made)
        if image is not None:
            made = made.transpose(1, 2).reshape(image)
        if attn.residual_connection:
            made = made + hidden_states
        return made / attn.rescale_output_factor

    def _attend(self, attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self.follows_module:
            dtype = torch.promote_types(q.dtype, torch.float32) if attn.upcast_attention else q.dtype
            return attention(q.to(dtype), k.to(dtype), v.to(dtype), mask=mask, scale=float(attn.scale)).to(v.dtype)
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        return attention(q, k, v, mask=mask)


class ModuleProcessor(Processor):
    """The same for `AttnProcessor`, which takes scale and upcasting from the module."""

    follows_module = True


class Installation:
    """What `install` did to a model; undone by `restore`, or by leaving the context."""

    def __init__(self, undo: list[Callable[[], None]], swapped: tuple[str, ...]) -> None:
        self._undo = undo
        self.swapped = swapped
        """Names of the modules whose attention was replaced."""

    def restore(self) -> None:
        """Put every replaced object back where it was, but not over what was set there since; again does nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def install(model: nn.Module) -> Installation:
    """Compute the attention of a diffusers model by `kernels.attention`, from this call until it is restored.

    In UNets, autoencoders and every other model made of `diffusers.models.attention_processor.Attention`, each default
    processor (`AttnProcessor2_0`, `AttnProcessor`) is replaced. All others are kept: IP-Adapter, PAG, fused projections
    and your own. LoRA lives in the projections, which are called as before; masks are honoured. An IP-Adapter may be
    loaded and unloaded meanwhile. In transformers that go through diffusers' dispatcher (Flux and others), each
    processor without a backend of its own is pointed to ours; the process-wide backend stays as it is.

    >>> with install(unet) as installed:                                       # doctest: +SKIP
    ...     image = pipeline("a wall of bricks").images[0]

    Returns:
        a handle with `.restore()`, which is also a context manager. Where everything is installed already it has
        nothing to restore.

    Raises:
        TypeError: not a module. Pipelines are not: install their `unet`, `vae` or `transformer`.
        ValueError: a model with no attention that can be replaced, or one split across devices by context parallelism.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected a torch module such as pipeline.unet, but got {type(model).__name__}.")
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    ours: dict[type, type[Processor]] = {AttnProcessor2_0: Processor, AttnProcessor: ModuleProcessor}
    undo: list[Callable[[], None]] = []
    swapped, seen, dispatched = [], [], []
    module: Any
    for name, module in model.named_modules():
        processor = getattr(module, "processor", None)
        if processor is None:
            continue
        seen.append(processor)
        if isinstance(module, Attention) and type(processor) in ours:
            made: Any = ours[type(processor)]()
            module.set_processor(made)
            undo.append(lambda module=module, before=processor: _put_back(module, before))
            swapped.append(name)
        elif hasattr(processor, "_attention_backend"):
            dispatched.append((name, processor))
    if dispatched:
        try:
            swapped += _dispatch(dispatched, undo)
        except Exception:
            Installation(undo, ()).restore()
            raise
    if not swapped and not any(_is_ours(processor) for processor in seen):
        kinds = ", ".join(sorted({type(processor).__name__ for processor in seen})) or "none"
        raise ValueError(
            "Expected a model with default attention processors or diffusers' attention dispatcher, "
            f"but got {type(model).__name__} with these processors: {kinds}."
        )
    return Installation(undo, tuple(swapped))


def _is_ours(processor: object) -> bool:
    return isinstance(processor, Processor) or getattr(processor, "_attention_backend", None) == BACKEND


def _put_back(module: Any, before: object) -> None:
    if isinstance(module.processor, Processor):
        module.set_processor(before)


def _dispatch(found: list[tuple[str, Any]], undo: list[Callable[[], None]]) -> list[str]:
    """Point processors of diffusers' dispatcher to ours; names of those that were."""
    free = [(name, processor) for name, processor in found if processor._attention_backend is None]
    split = [name for name, processor in free if getattr(processor, "_parallel_config", None) is not None]
    if split:
        raise ValueError(f"Expected a model without context parallelism, but got it at {split[0]!r}.")
    if not free:
        return []
    backend, release = _Backend.acquire()
    undo.append(release)
    for _, processor in free:
        had = "_attention_backend" in vars(processor)
        processor._attention_backend = backend
        undo.append(lambda processor=processor, had=had: _clear(processor, backend, had))
    return [name for name, _ in free]


def _clear(processor: Any, backend: object, had: bool) -> None:
    if processor._attention_backend is backend:
        if had:
            processor._attention_backend = None
        else:
            del processor._attention_backend


class _Backend:
    """Our entry in diffusers' registry of backends, there while somebody holds it.

    The registry is private and takes members of an enum alone. The member made here is no entry of that enum: it
    compares and hashes as one, which is all that the dispatcher looks at (diffusers 0.38 to 0.42).
    """

    holders = 0
    member: Any = None

    @classmethod
    def acquire(cls) -> tuple[Any, Callable[[], None]]:
        import diffusers

        try:
            from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

            if cls.member is None:
                member: Any = str.__new__(AttentionBackendName, BACKEND)
                member._name_, member._value_ = BACKEND.upper(), BACKEND
                cls.member = member
            if cls.holders == 0:
                _AttentionBackendRegistry.register(cls.member)(_dispatched)
            known = (_AttentionBackendRegistry._backends, _AttentionBackendRegistry._supported_arg_names)
            if not all(cls.member in table for table in known) or AttentionBackendName(cls.member) is not cls.member:
                raise KeyError(BACKEND)
        except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
            if cls.holders == 0:
                cls._forget()
            raise ValueError(
                "Expected an attention dispatcher as in diffusers 0.38 to 0.42, "
                f"but got that of diffusers {diffusers.__version__} ({error!r})."
            ) from error
        cls.holders += 1
        return cls.member, cls._release

    @classmethod
    def _release(cls) -> None:
        cls.holders -= 1
        if cls.holders == 0:
            cls._forget()

    @classmethod
    def _forget(cls) -> None:
        from diffusers.models import attention_dispatch

        registry = getattr(attention_dispatch, "_AttentionBackendRegistry", None)
        for table in ("_backends", "_constraints", "_supported_arg_names"):
            getattr(registry, table, {}).pop(cls.member, None)


def _dispatched(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`attention` for diffusers' dispatcher: (B, N, H, D) in and out."""
    if dropout_p:
        raise ValueError(f"Expected attention without dropout, but got dropout_p={dropout_p}.")
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    if enable_gqa and k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    if attn_mask is not None and attn_mask.ndim == 2 and attn_mask.shape == (len(k), k.shape[2]):
        attn_mask = attn_mask[:, None, None]  # a padding mask of keys, as for diffusers' own backend
    return attention(q, k, v, mask=attn_mask, is_causal=is_causal, scale=scale).transpose(1, 2)
