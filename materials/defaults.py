"""What a model is asked for where nobody says otherwise; here because the pipeline loads torch."""

from __future__ import annotations

STEPS = 7
GUIDANCE = 4.0
