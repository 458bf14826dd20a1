"""GPU kernels, imported by name: `split_d`, `linear` (Triton), `turing`, `hopper` (CUDA C++), `tiles` (the picker)."""
