"""The equations of docs/math.md as one line of HTML each, for the foot of a page."""

from __future__ import annotations

__all__ = ["EQUATIONS"]

_NORM = "‖∂h<sub>t</sub>/∂h<sub>k</sub>‖<sub>2</sub>"
_BETA = "β<sub>W</sub> β<sub>f</sub>"

EQUATIONS: dict[int, str] = {
    1: "a<sub>t</sub> = W<sub>x</sub> x<sub>t</sub> + W<sub>h</sub> h<sub>t−1</sub> + b, "
    "h<sub>t</sub> = f(a<sub>t</sub>), E = Σ<sub>t</sub> E<sub>t</sub>",
    2: "∂E/∂W = Σ<sub>t</sub> ∂E<sub>t</sub>/∂W",
    3: "∂E<sub>t</sub>/∂W = Σ<sub>k=1..t</sub> ∂E<sub>t</sub>/∂h<sub>t</sub> · "
    "∂h<sub>t</sub>/∂h<sub>k</sub> · ∂⁺h<sub>k</sub>/∂W, where ∂⁺ holds h<sub>k−1</sub> constant",
    4: "∂h<sub>t</sub>/∂h<sub>k</sub> = Π<sub>j=k+1..t</sub> J<sub>j</sub>; for the Elman cell "
    "J<sub>j</sub> = diag(f′(a<sub>j</sub>)) W<sub>h</sub>",
    5: "∂E/∂W = Σ<sub>t</sub> Σ<sub>k≤t</sub> ∂E<sub>t</sub>/∂h<sub>t</sub> · "
    "∂h<sub>t</sub>/∂h<sub>k</sub> · ∂⁺h<sub>k</sub>/∂W",
    6: f"‖J<sub>j</sub>‖<sub>2</sub> ≤ ‖W<sub>h</sub>‖<sub>2</sub> "
    f"‖diag f′(a<sub>j</sub>)‖<sub>2</sub> ≤ {_BETA}",
    7: f"{_NORM} ≤ Π<sub>j</sub> ‖J<sub>j</sub>‖<sub>2</sub> ≤ ({_BETA})<sup>t−k</sup>; "
    "β<sub>f</sub> is 1/4 for the sigmoid, 1 for tanh, ReLU and identity",
    8: f"{_BETA} &lt; 1 is sufficient for vanishing; {_BETA} &gt; 1 is only necessary for "
    "exploding and proves nothing",
    9: "δ<sub>t−1</sub> = J<sub>t</sub>ᵀ δ<sub>t</sub> + g<sub>t−1</sub>, where g is the loss's "
    "direct gradient",
    10: "Overflow gives inf first; NaN follows from inf − inf or 0 · inf. Underflow to 0 is "
    "silent.",
}
