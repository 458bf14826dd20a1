"""What a model is asked for where nobody says otherwise; here because the pipeline loads torch."""

from __future__ import annotations

STEPS = 7
"""Of the many-step model."""
FEW_STEPS = 4
"""Of the model that was distilled from it: the default where nothing asks for the other."""
GUIDANCE = 4.0
"""Of the many-step model, and of what the other was distilled from."""
